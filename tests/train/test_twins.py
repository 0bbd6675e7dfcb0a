from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.train.twins import MOST_PIECES, NEAR, find_across, find_families, join_pairs, sketch
from pieces import WORDS, likeness, pieces_of

TEXTS = st.lists(st.text(alphabet="ab c-ÄßＡ\ud800\u0301\U0001f600", max_size=30), max_size=25)


def list_twins(texts: list[str]) -> dict[tuple[int, int], float]:
    """Every pair, compared by hand."""
    pieces = [pieces_of(text) for text in texts]
    pairs = {(i, j): likeness(pieces[i], pieces[j]) for j in range(len(texts)) for i in range(j)}
    return {pair: alike for pair, alike in pairs.items() if alike >= NEAR}


def make_notes(count: int, words: int, seed: int = 0) -> list[str]:
    """Notes with many near twins: copies of a few, with a word changed in most."""
    chance = random.Random(seed)
    models = [chance.choices(WORDS, k=words) for _ in range(count // 8)]
    notes = []
    for _ in range(count):
        note = list(chance.choice(models))
        for _ in range(chance.randrange(4)):
            note[chance.randrange(words)] = chance.choice(WORDS)
        notes.append(" ".join(note))
    return notes


@pytest.mark.parametrize("words", [4, 12, 40])
def test_every_pair_of_near_twins_is_found_and_no_other(words: int) -> None:
    notes = make_notes(96, words)
    side = np.arange(len(notes)) % 2 == 0
    found = find_across(sketch(notes), side)
    expected = {
        pair: alike for pair, alike in list_twins(notes).items() if side[pair[0]] != side[pair[1]]
    }
    assert expected
    got = {
        (int(i), int(j)): float(alike)
        for i, j, alike in zip(found.first, found.second, found.likeness, strict=True)
    }
    assert got == pytest.approx(expected)
    assert found.likeness.tolist() == sorted(found.likeness.tolist(), reverse=True)


def test_families_are_what_chains_of_twins_join() -> None:
    notes = make_notes(96, 12)
    families = find_families(sketch(notes))
    twins = np.array(list(list_twins(notes)))
    expected = join_pairs(np.arange(len(notes)), twins[:, 0], twins[:, 1])
    assert families.tolist() == expected.tolist()
    assert len(set(families.tolist())) < len(notes)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_any_texts_can_be_compared(texts: list[str]) -> None:
    families = find_families(sketch(texts)).tolist()
    assert len(families) == len(texts)
    for i, j in list_twins(texts):
        assert families[i] == families[j]


def test_case_punctuation_and_width_do_not_count() -> None:
    texts = [
        "Left KNEE -- MRI, please!",
        "left knee mri please",
        "Ｌｅｆｔ　ｋｎｅｅ  mri\nplease",
        "right wrist, CT",
    ]
    assert find_families(sketch(texts)).tolist() == [0, 0, 0, 3]


def test_long_texts_are_compared_by_a_sample_of_their_pieces() -> None:
    chance = random.Random(3)
    words = ["".join(chance.choices("abcdefghij", k=6)) for _ in range(3000)]
    changed = [*words]
    for place in range(0, 3000, 40):
        changed[place] = "zzzzzz"
    texts = [" ".join(words), " ".join(changed), " ".join(words[:1500])]
    assert len(pieces_of(texts[0])) > 10 * MOST_PIECES
    found = find_across(sketch(texts), np.array([True, False, False]))
    assert found.second.tolist() == [1]
    assert float(found.likeness[0]) == pytest.approx(
        likeness(pieces_of(texts[0]), pieces_of(texts[1])), abs=0.05
    )


def test_a_thousand_rows_of_one_pattern_are_one_family() -> None:
    pattern = (
        "request for an examination of the chest, patient number {}, on the ward of the third floor"
    )
    notes = [pattern.format(number) for number in range(3000)]
    assert set(find_families(sketch(notes)).tolist()) == {0}


def test_nothing_to_compare() -> None:
    assert find_families(sketch([])).tolist() == []
    assert find_across(sketch(["a"]), np.array([True])).first.tolist() == []

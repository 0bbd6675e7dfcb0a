from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.near_duplicates import (
    MAX_SHINGLES,
    NEAR_DUPLICATE_SIMILARITY,
    cluster_near_duplicates,
    find_cross_split_duplicates,
    merge_clusters,
    sketch_texts,
)
from support.text_shingles import WORDS, compute_jaccard, list_shingles

TEXTS = st.lists(st.text(alphabet="ab c-ÄßＡ\ud800\u0301\U0001f600", max_size=30), max_size=25)


def list_near_duplicates(texts: list[str]) -> dict[tuple[int, int], float]:
    """Every pair, compared one by one."""
    pieces = [list_shingles(text) for text in texts]
    pairs = {
        (i, j): compute_jaccard(pieces[i], pieces[j]) for j in range(len(texts)) for i in range(j)
    }
    return {pair: alike for pair, alike in pairs.items() if alike >= NEAR_DUPLICATE_SIMILARITY}


def make_near_duplicate_notes(count: int, words: int, seed: int = 0) -> list[str]:
    """Notes with many near duplicates: copies of a few, with a word changed in most."""
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
def test_every_pair_of_near_duplicates_is_found_and_no_other(words: int) -> None:
    notes = make_near_duplicate_notes(96, words)
    side = np.arange(len(notes)) % 2 == 0
    found = find_cross_split_duplicates(sketch_texts(notes), side)
    expected = {
        pair: alike
        for pair, alike in list_near_duplicates(notes).items()
        if side[pair[0]] != side[pair[1]]
    }
    assert expected
    got = {
        (int(i), int(j)): float(alike)
        for i, j, alike in zip(found.first, found.second, found.similarity, strict=True)
    }
    assert got == pytest.approx(expected)
    assert found.similarity.tolist() == sorted(found.similarity.tolist(), reverse=True)


def test_clusters_join_chains_of_near_duplicates() -> None:
    notes = make_near_duplicate_notes(96, 12)
    families = cluster_near_duplicates(sketch_texts(notes))
    pairs = np.array(list(list_near_duplicates(notes)))
    expected = merge_clusters(np.arange(len(notes)), pairs[:, 0], pairs[:, 1])
    assert families.tolist() == expected.tolist()
    assert len(set(families.tolist())) < len(notes)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_any_texts_can_be_compared(texts: list[str]) -> None:
    families = cluster_near_duplicates(sketch_texts(texts)).tolist()
    assert len(families) == len(texts)
    for i, j in list_near_duplicates(texts):
        assert families[i] == families[j]


def test_case_punctuation_and_width_do_not_count() -> None:
    texts = [
        "Left KNEE -- MRI, please!",
        "left knee mri please",
        "Ｌｅｆｔ　ｋｎｅｅ  mri\nplease",
        "right wrist, CT",
    ]
    assert cluster_near_duplicates(sketch_texts(texts)).tolist() == [0, 0, 0, 3]


def test_long_texts_are_compared_by_a_sample_of_their_pieces() -> None:
    chance = random.Random(3)
    words = ["".join(chance.choices("abcdefghij", k=6)) for _ in range(3000)]
    changed = [*words]
    for index in range(0, 3000, 40):
        changed[index] = "zzzzzz"
    texts = [" ".join(words), " ".join(changed), " ".join(words[:1500])]
    assert len(list_shingles(texts[0])) > 10 * MAX_SHINGLES
    found = find_cross_split_duplicates(sketch_texts(texts), np.array([True, False, False]))
    assert found.second.tolist() == [1]
    assert float(found.similarity[0]) == pytest.approx(
        compute_jaccard(list_shingles(texts[0]), list_shingles(texts[1])), abs=0.05
    )


def test_a_thousand_rows_of_one_pattern_are_one_cluster() -> None:
    pattern = (
        "request for an examination of the chest, patient number {}, on the ward of the third floor"
    )
    notes = [pattern.format(number) for number in range(3000)]
    assert set(cluster_near_duplicates(sketch_texts(notes)).tolist()) == {0}


def test_nothing_to_compare() -> None:
    assert cluster_near_duplicates(sketch_texts([])).tolist() == []
    assert find_cross_split_duplicates(sketch_texts(["a"]), np.array([True])).first.tolist() == []

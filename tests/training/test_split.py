from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.training.split import merge_equal_rows, select_validation_rows


def name_rows(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


def draw_held_rows(
    labels: list[Any], clusters: list[int] | None = None, share: float = 0.1, seed: int = 0
) -> np.ndarray[Any, Any] | None:
    found = [label if isinstance(label, tuple) else (label,) for label in labels]
    return select_validation_rows(
        name_rows(len(labels)),
        np.array(clusters if clusters else range(len(labels))),
        found,
        share,
        seed,
    )


def count_held_labels(labels: list[Any], held: np.ndarray[Any, Any] | None) -> Counter[Any]:
    assert held is not None
    return Counter(label for label, aside in zip(labels, held.tolist(), strict=True) if aside)


def test_each_label_gives_its_share() -> None:
    labels = ["a"] * 200 + ["b"] * 50 + ["c"] * 6 + ["d"] * 5 + ["e"]
    assert count_held_labels(labels, draw_held_rows(labels)) == {"a": 20, "b": 5, "c": 1}


def test_rare_labels_give_what_reaches_the_share_and_never_more_than_half() -> None:
    labels = [f"label {number // 4}" for number in range(100)]
    held_out = count_held_labels(labels, draw_held_rows(labels))
    assert held_out.total() == 10
    assert max(held_out.values()) <= 2
    singles = [f"label {number}" for number in range(20)]
    assert draw_held_rows(singles) is None


def test_sets_of_labels_keep_their_shares() -> None:
    chance = random.Random(0)
    labels = [
        tuple(
            name for name, share in (("a", 0.5), ("b", 0.2), ("c", 0.05)) if chance.random() < share
        )
        or ("",)
        for _ in range(1000)
    ]
    held_out = draw_held_rows(labels)
    assert held_out is not None
    full = Counter(name for names in labels for name in names)
    part = Counter(
        name
        for names, aside in zip(labels, held_out.tolist(), strict=True)
        if aside
        for name in names
    )
    assert all(abs(part[name] - full[name] / 10) <= 1.5 for name in full)
    assert 95 <= held_out.sum() <= 105


def test_large_groups_do_not_flood_the_part() -> None:
    # One group of a third of the rows, the others of one to four.
    families = [0] * 100 + [1 + number // 2 for number in range(200)]
    held_out = draw_held_rows(["a"] * 300, families)
    assert held_out is not None
    assert held_out.sum() == 30
    assert not held_out[:100].any()


def test_few_groups_are_parted_as_well_as_they_can_be() -> None:
    families = [0] * 40 + [1] * 30 + [2] * 30
    held_out = draw_held_rows(["a", "b"] * 50, families)
    assert held_out is not None
    assert held_out.sum() == 30


@pytest.mark.parametrize(
    "families", [[0] * 20, [0] * 10 + [1] * 10], ids=["one group", "a label in one group alone"]
)
def test_what_cannot_be_parted_is_not(families: list[int]) -> None:
    assert draw_held_rows(["a"] * 10 + ["b"] * 10, families) is None


ROWS = st.lists(
    st.tuples(st.integers(0, 12), st.lists(st.sampled_from("abcd"), unique=True, max_size=3)),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=150)
@given(
    rows=ROWS,
    share=st.sampled_from([0.01, 0.1, 0.25, 0.5]),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
)
def test_what_every_division_keeps(
    rows: list[tuple[int, list[str]]], share: float, seed: int, order: random.Random
) -> None:
    families = [family for family, _ in rows]
    labels = [tuple(names) or ("",) for _, names in rows]
    held_out = draw_held_rows(labels, families, share, seed)
    indices = list(range(len(rows)))
    order.shuffle(indices)
    keys = name_rows(len(rows))
    shuffled = (
        [keys[index] for index in indices],
        np.array(families)[indices],
        [labels[index] for index in indices],
    )
    again = select_validation_rows(*shuffled, share, seed)
    if held_out is None:
        assert again is None
        return
    assert again is not None
    # The same rows, in whatever order they come.
    assert again.tolist() == held_out[indices].tolist()
    sides = defaultdict(set)
    for family, aside in zip(families, held_out.tolist(), strict=True):
        sides[family].add(aside)
    assert all(len(found) == 1 for found in sides.values())
    assert 0 < held_out.sum() < len(rows)
    for name in {name for names in labels for name in names}:
        has = np.array([name in names for names in labels])
        assert 2 * (held_out & has).sum() <= has.sum()


def test_the_seed_decides() -> None:
    labels = ["a"] * 100
    first = draw_held_rows(labels, seed=1)
    again = draw_held_rows(labels, seed=1)
    other = draw_held_rows(labels, seed=2)
    assert first is not None and again is not None and other is not None
    assert first.tolist() == again.tolist() != other.tolist()


def test_shared_keys_join_clusters() -> None:
    families = merge_equal_rows(np.arange(6), [None, "p", "q", "p", None, "q"])
    assert families.tolist() == [0, 1, 2, 1, 4, 2]
    assert merge_equal_rows(families, [b"x", b"x", b"y", b"z", b"w", b"v"]).tolist() == [
        0,
        0,
        2,
        0,
        4,
        2,
    ]
    assert merge_equal_rows(families, [None] * 6).tolist() == families.tolist()


def test_a_hundred_thousand_rows_take_seconds() -> None:
    chance = random.Random(0)
    labels = [f"label {min(400, int(chance.expovariate(0.05)))}" for _ in range(100_000)]
    families = [chance.randrange(60_000) for _ in labels]
    started = time.process_time()
    held_out = draw_held_rows(labels, families)
    assert held_out is not None
    assert time.process_time() - started < 15
    assert held_out.mean() == pytest.approx(0.1, abs=0.003)


def test_rows_for_training_only_are_never_drawn_nor_others_of_their_clusters() -> None:
    labels = ["a", "b"] * 50
    clusters = [number // 2 for number in range(100)]
    training_only = np.arange(100) % 5 == 0
    held = select_validation_rows(
        name_rows(100), np.array(clusters), [(one,) for one in labels], 0.2, 0, training_only
    )
    assert held is not None
    assert held.sum() == 20
    assert not {clusters[row] for row in np.flatnonzero(held)} & {
        clusters[row] for row in np.flatnonzero(training_only)
    }

from __future__ import annotations

import pytest

pytest.importorskip("numpy")

from hypothesis import given
from hypothesis import strategies as st

from medtask.engines.decoding.sequence import (
    MAX_PERIOD,
    MIN_LOOP_TOKENS,
    MIN_REPETITIONS,
    RepetitionDetector,
)

TOKENS = st.integers(0, 500)


def find_loop(tokens: list[int]) -> tuple[int, int] | None:
    """At which token a loop was noticed, and how many tokens only repeat."""
    watch = RepetitionDetector()
    for index, token in enumerate(tokens):
        if repeated := watch.add_token(token):
            return index + 1, repeated
    return None


@given(st.lists(TOKENS, max_size=300), st.lists(TOKENS, min_size=1, max_size=MAX_PERIOD))
def test_every_loop_is_noticed_in_time_and_what_repeats_is_reported(
    before: list[int], rounds: list[int]
) -> None:
    needed = max(MIN_LOOP_TOKENS, MIN_REPETITIONS * len(rounds))
    tokens = before + rounds * (needed // len(rounds) + 1)
    found = find_loop(tokens)
    assert found is not None
    index, repeated = found
    assert index <= len(before) + needed
    # By the definition: the tail that repeats, with its first round, is long enough and has a
    # period.
    tail = tokens[index - repeated : index]
    period = next(
        size
        for size in range(1, MAX_PERIOD + 1)
        if tail == tokens[index - repeated - size : index - size]
    )
    assert repeated + period >= max(MIN_LOOP_TOKENS, MIN_REPETITIONS * period)


@given(st.lists(TOKENS, max_size=40), st.integers(1, 30))
def test_a_list_whose_entries_are_numbered_is_no_loop(entry: list[int], width: int) -> None:
    tokens = [token for number in range(200) for token in (*entry[:width], 1000 + number)]
    assert find_loop(tokens) is None


@given(st.sets(TOKENS, max_size=100), st.integers(1, MAX_PERIOD))
def test_a_few_rounds_are_no_loop(before: set[int], length: int) -> None:
    assert find_loop([*before, *list(range(1000, 1000 + length)) * (MIN_REPETITIONS - 1)]) is None


def test_a_table_of_equal_cells_is_no_loop_and_an_endless_one_is() -> None:
    row = [5, 6, 5, 6, 5, 7]  # | 0 | 0 |
    assert find_loop(row * (MIN_LOOP_TOKENS // len(row) - 1)) is None
    assert find_loop(row * MIN_LOOP_TOKENS) == (MIN_LOOP_TOKENS, MIN_LOOP_TOKENS - len(row))


def test_real_prose_is_no_loop() -> None:
    prose = (
        "The patient was seen for pain in the left wrist . There was no fever , no swelling and "
        "no redness . The right wrist was seen "
        "too . There was no pain in the right wrist . Pain in the left wrist was worse at night "
        ". The patient was sent home ."
    )
    words = (prose * 3).split()
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    assert find_loop([vocabulary[word] for word in words]) is None


def test_a_round_longer_than_the_longest_is_not_noticed() -> None:
    assert find_loop(list(range(MAX_PERIOD + 1)) * 5) is None

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medtask.engines.decoding.scheduler import OutOfKvMemoryError, Scheduler, StepOutput
from medtask.engines.decoding.sequence import DecodingSequence, StopConditions
from medtask.engines.decoding.token_selection import NumpyLogits
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Message, Prompt

END_TOKEN = 3
ALPHABET = "abcd"


class AlphabetTokenizer:
    """Token 0 is written "a", token 1 "b", and so on."""

    def decode(self, tokens: list[int], *, keep_special_tokens: bool = False) -> str:
        return "".join(ALPHABET[token] for token in tokens)


class CountingBackend:
    """Generates "abcabc...", as many letters as the first prompt token says, then the end token.

    The keys and values of a row are counted by the tokens that it has read; a step is out of memory
    if those of all rows exceed ``kv_tokens``. ``step_tokens`` limits the tokens that
    one step reads for admitted rows; ``failing_step`` is the index of a step that fails.
    """

    def __init__(
        self,
        max_running: int = 4,
        *,
        refill_fraction: float = 0.0,
        keeps_rows_after_failure: bool = True,
        kv_tokens: int = 10_000,
        step_tokens: int = 10_000,
        failing_step: int | None = None,
    ) -> None:
        self.max_running = max_running
        self.refill_fraction = refill_fraction
        self.keeps_rows_after_failure = keeps_rows_after_failure
        self.kv_tokens = kv_tokens
        self.step_tokens = step_tokens
        self.failing_step = failing_step
        self.read: dict[str, int] = {}
        self.sequences: dict[str, DecodingSequence] = {}
        self.steps: list[list[str]] = []

    def can_admit(self, admitted: Sequence[DecodingSequence], seq: DecodingSequence) -> bool:
        return sum(len(one.tokens) for one in (*admitted, seq)) <= self.step_tokens

    def step(self, admitted: Sequence[DecodingSequence]) -> StepOutput:
        index = len(self.steps)
        self.steps.append([seq.record_id for seq in admitted])
        if index == self.failing_step:
            raise RuntimeError("the device is lost")
        for seq in admitted:
            assert seq.record_id not in self.read, "admitted twice"
            self.sequences[seq.record_id] = seq
            self.read[seq.record_id] = 0
        before = dict(self.read)
        rows = [self.sequences[record_id] for record_id in self.read]
        counts = [len(seq.tokens) - self.read[seq.record_id] for seq in rows]
        for seq in rows:
            self.read[seq.record_id] = len(seq.tokens)
        if sum(self.read.values()) > self.kv_tokens:
            self.read = before if self.keeps_rows_after_failure else {}
            raise OutOfKvMemoryError
        assert len(rows) <= self.max_running
        logits = np.full((len(rows), len(ALPHABET)), -5.0)
        for at, seq in enumerate(rows):
            written = len(seq.tokens) - seq.prompt_length
            logits[at, END_TOKEN if written >= seq.tokens[0] else written % 3] = 5.0
        return StepOutput(rows, counts, NumpyLogits(logits))

    def release(self, seqs: Sequence[DecodingSequence]) -> None:
        for seq in seqs:
            self.read.pop(seq.record_id, None)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise EngineError(str(error), fix="restart the run") from error


def make_sequence(record_id: str, letters: int, prompt_tokens: int = 2, **limits: object):
    prompt = Prompt(record_id, (Message("user", "?"),), (), "")
    return DecodingSequence(
        prompt,
        (letters, *[0] * (prompt_tokens - 1)),
        Limits(**{"max_tokens": 100} | limits),
        StopConditions(frozenset({END_TOKEN}), ()),
        AlphabetTokenizer(),
    )


def run(backend: CountingBackend, seqs: Sequence[DecodingSequence]) -> dict[str, Generated | Fault]:
    results = [seq.to_result() for seq in Scheduler(backend, seqs).run(lambda seq: None)]
    assert len({result.record_id for result in results}) == len(results)
    assert not backend.read, "all keys and values are released"
    return {result.record_id: result for result in results}


def test_rows_are_yielded_as_they_finish() -> None:
    seqs = [make_sequence(name, letters) for name, letters in (("r0", 5), ("r1", 1), ("r2", 3))]
    results = run(CountingBackend(), seqs)
    assert list(results) == ["r1", "r2", "r0"]
    assert [result.text for result in results.values()] == ["a", "abc", "abcab"]
    assert {result.finish_reason for result in results.values()} == {"stop"}


def test_a_waiting_row_joins_when_another_leaves() -> None:
    backend = CountingBackend(max_running=2)
    run(backend, [make_sequence(f"r{index}", letters) for index, letters in enumerate((1, 4, 2))])
    assert backend.steps == [["r0", "r1"], [], ["r2"], [], []]


def test_rows_are_admitted_only_when_enough_places_are_free() -> None:
    backend = CountingBackend(max_running=2, refill_fraction=1.0)
    run(backend, [make_sequence(f"r{index}", letters) for index, letters in enumerate((1, 4, 2))])
    assert [step for step in backend.steps if step] == [["r0", "r1"], ["r2"]]
    assert backend.steps.index(["r2"]) == 5, "after both rows have finished"


def test_long_prompts_are_read_in_several_steps() -> None:
    backend = CountingBackend(step_tokens=10)
    seqs = [make_sequence(f"r{index}", 3, prompt_tokens=6) for index in range(3)]
    run(backend, seqs)
    assert [step for step in backend.steps if step] == [["r0"], ["r1"], ["r2"]]


def test_a_prompt_longer_than_a_step_is_read_alone() -> None:
    backend = CountingBackend(step_tokens=3)
    (result,) = run(backend, [make_sequence("r0", 2, prompt_tokens=8)]).values()
    assert result.text == "ab"


def test_the_limit_of_tokens_ends_a_row() -> None:
    (result,) = run(CountingBackend(), [make_sequence("r0", 9, max_tokens=4)]).values()
    assert (result.text, result.finish_reason, result.tokens) == ("abca", "length", 4)


@pytest.mark.parametrize("keeps_rows", [True, False])
def test_out_of_memory_moves_rows_back_without_changing_their_texts(keeps_rows: bool) -> None:
    backend = CountingBackend(kv_tokens=20, keeps_rows_after_failure=keeps_rows)
    results = run(backend, [make_sequence(f"r{index}", 6) for index in range(4)])
    assert {result.text for result in results.values()} == {"abcabc"}
    assert backend.max_running == 2
    readmitted = [name for step in backend.steps[1:] for name in step]
    assert {"r2", "r3"} <= set(readmitted)
    assert ("r0" in readmitted) == (not keeps_rows)


def test_a_row_that_runs_out_of_memory_alone_fails_and_the_others_finish() -> None:
    results = run(CountingBackend(kv_tokens=12), [make_sequence("r0", 20), make_sequence("r1", 2)])
    assert isinstance(results["r0"], Fault)
    assert "out of memory on this row alone" in results["r0"].reason
    assert results["r1"].text == "ab"


def test_an_error_of_the_model_is_translated_and_all_rows_are_released() -> None:
    backend = CountingBackend(failing_step=2)
    seqs = [make_sequence("r0", 5), make_sequence("r1", 1)]
    finished = []
    with pytest.raises(EngineError, match="the device is lost"):
        finished.extend(seq.record_id for seq in Scheduler(backend, seqs).run(lambda seq: None))
    assert finished == ["r1"]
    assert not backend.read


def test_a_consumer_that_stops_early_releases_all_rows() -> None:
    backend = CountingBackend()
    results = Scheduler(backend, [make_sequence("r0", 1), make_sequence("r1", 9)]).run(
        lambda seq: None
    )
    assert next(results).record_id == "r0"
    assert list(backend.read) == ["r1"]
    results.close()
    assert not backend.read


def test_updates_show_the_growing_text_of_the_first_row() -> None:
    texts: list[str] = []
    scheduler = Scheduler(CountingBackend(), [make_sequence("r0", 3)])
    list(scheduler.run(lambda seq: texts.append(seq.get_text())))
    assert texts == ["a", "ab", "abc", "abc"]


def test_the_tokens_read_are_those_of_all_steps() -> None:
    seq = make_sequence("r0", 3, prompt_tokens=5)
    run(CountingBackend(), [seq])
    assert seq.tokens_read == 5 + 3, "the prompt once, then each generated token"


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 6)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.floats(0, 1),
    st.integers(15, 60),
    st.integers(1, 20),
    st.booleans(),
)
@example([(1, 6), (1, 6), (1, 6)], 3, 0.0, 15, 20, True)  # admitted rows do not fit
def test_texts_do_not_depend_on_the_schedule(
    rows: list[tuple[int, int]],
    max_running: int,
    refill_fraction: float,
    kv_tokens: int,
    step_tokens: int,
    keeps_rows: bool,
) -> None:
    backend = CountingBackend(
        max_running,
        refill_fraction=refill_fraction,
        kv_tokens=kv_tokens,
        step_tokens=step_tokens,
        keeps_rows_after_failure=keeps_rows,
    )
    results = run(
        backend, [make_sequence(f"r{at}", count, size) for at, (count, size) in enumerate(rows)]
    )
    for at, (count, _) in enumerate(rows):
        assert results[f"r{at}"].text == ("abc" * 3)[:count]

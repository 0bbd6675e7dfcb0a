from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.engines.base import Caps
from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, TableError
from medtask.prediction.predictor import RowAnswer, answer_rows, predict_uncalibrated
from medtask.records import Answer, Fault, Prompt, Record, Scores, Status
from medtask.tasks.task import Label, MultipleChoice, Task

TASK = Task(
    "purpose",
    "Which purpose?",
    "{{ text }}",
    labels=tuple(Label(name, "", name) for name in ("curative", "palliative")),
)


class BatchRecordingEngine(FakeEngine):
    """Keeps the batches that it was asked, as the texts in them."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.batches: list[list[str]] = []

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.batches.append([prompt.text for prompt in batch])
        return super().score_batch(batch)


class DictCache:
    """The plainest memory: everything, in a dictionary."""

    def __init__(self, answers_by_row: Collection[RowAnswer] = ()) -> None:
        self.given = {one.row: one for one in answers_by_row}

    def list_answered_rows(self, first: int, last: int) -> set[int]:
        return {row for row in self.given if first <= row <= last}

    def find_answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        earlier = sorted(
            (one for one in self.given.values() if one.row < row and one.key in keys),
            key=lambda one: -one.row,
        )
        return {one.key: one.answer for one in earlier if one.key is not None}


def make_rows(*words: str) -> list[dict[str, object]]:
    return [{"text": word} for word in words]


def make_records(words: Sequence[str]) -> list[Record]:
    return [Record(f"case-{row}", {"text": word}) for row, word in enumerate(words, 1)]


def answer_until(
    engine: FakeEngine,
    words: Sequence[str],
    cache: DictCache,
    stop_after: int | None = None,
    window: int = 8,
) -> DictCache:
    """Answer rows into the book, and stop dead after so many answers."""
    for count, one in enumerate(
        answer_rows(TASK, engine, make_records(words), cache, window=window), 1
    ):
        cache.given[one.row] = one
        if count == stop_after:
            break
    return cache


def test_answers_come_in_the_order_of_the_rows() -> None:
    words = ["a longer text", "b", "middling", "", "b"]
    answers = list(predict_uncalibrated(TASK, FakeEngine(batch=2), make_rows(*words), window=3))
    assert [answer.record_id for answer in answers] == ["1", "2", "3", "4", "5"]
    assert [answer.status for answer in answers].count(Status.EMPTY_INPUT) == 1
    assert answers[1].probabilities == answers[4].probabilities


def test_records_are_taken_as_well_as_mappings() -> None:
    from_records = predict_uncalibrated(TASK, FakeEngine(), make_records(["biopsy"]))
    from_mappings = predict_uncalibrated(TASK, FakeEngine(), make_rows("biopsy"))
    assert next(from_records).probabilities == next(from_mappings).probabilities


def test_no_rows_make_no_answers() -> None:
    assert list(predict_uncalibrated(TASK, FakeEngine(), [])) == []


def test_answers_are_there_before_all_rows_are_read() -> None:
    def endless() -> Iterator[dict[str, object]]:
        number = 0
        while True:
            yield {"text": f"text {(number := number + 1)}"}

    answers = predict_uncalibrated(TASK, FakeEngine(), endless(), window=4)
    assert [next(answers).record_id for _ in range(10)] == [str(number) for number in range(1, 11)]


def test_equal_prompts_are_asked_once_within_and_across_windows() -> None:
    engine = BatchRecordingEngine()
    answers = list(
        predict_uncalibrated(TASK, engine, make_rows("a", "b", "a", "a", "b", "c", "a"), window=3)
    )
    assert sorted(text for batch in engine.batches for text in batch) == ["a", "b", "c"]
    assert len({answers[row].confidence for row in (0, 2, 3, 6)}) == 1
    assert [answer.tokens_read > 0 for answer in answers] == [
        True,
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert answers[6].ms == 0


def test_what_predict_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medtask.prediction.predictor.CACHED_PROMPTS", 2)
    engine = BatchRecordingEngine()
    list(predict_uncalibrated(TASK, engine, make_rows("a", "b", "a", "c", "a", "b"), window=1))
    assert engine.batches == [["a"], ["b"], ["c"], ["b"]]


def test_an_empty_row_costs_no_question() -> None:
    engine = FakeEngine()
    (answer,) = predict_uncalibrated(TASK, engine, make_rows("  "))
    assert (answer.status, answer.value, engine.prompt_count) == (Status.EMPTY_INPUT, None, 0)


def test_bad_numbers_and_long_records_are_faults_of_their_rows_alone() -> None:
    plain = list(predict_uncalibrated(TASK, FakeEngine(batch=2), make_rows(*"abcdef")))
    answers = list(
        predict_uncalibrated(
            TASK,
            FakeEngine(batch=2, nan={"2"}, impossible={"3"}, too_long={"5"}),
            make_rows(*"abcdef"),
        )
    )
    assert [answer.status for answer in answers[1:5]] == [
        Status.FAILED,
        Status.FAILED,
        Status.OK,
        Status.TOO_LONG,
    ]
    for row in (1, 2, 4):
        assert (answers[row].value, answers[row].confidence, answers[row].probabilities) == (
            None,
            None,
            None,
        )
    for row in (0, 3, 5):
        assert answers[row].probabilities == plain[row].probabilities


def test_two_rows_with_one_id_are_refused() -> None:
    twice = [
        Record("k-1", {"text": "a"}),
        Record("k-2", {"text": "b"}),
        Record("k-1", {"text": "c"}),
    ]
    with pytest.raises(TableError, match="k-1"):
        list(predict_uncalibrated(TASK, FakeEngine(), twice))


words_and_stops = st.tuples(
    st.lists(st.sampled_from([*"abcdefghij", "", "kk", "lll"]), min_size=1, max_size=30),
    st.integers(1, 30),
)


@settings(deadline=None)
@given(words_and_stops, st.integers(1, 9), st.integers(1, 4))
def test_an_interrupted_run_asks_the_batches_of_an_undisturbed_one(
    given: tuple[list[str], int], window: int, batch: int
) -> None:
    words, stop_after = given
    undisturbed, interrupted, resumed = (
        BatchRecordingEngine(batch=batch),
        BatchRecordingEngine(batch=batch),
        BatchRecordingEngine(batch=batch),
    )
    full = answer_until(undisturbed, words, DictCache(), window=window)
    partial = answer_until(interrupted, words, DictCache(), stop_after, window)
    kept = set(partial.given)
    answer_until(resumed, words, partial, window=window)
    assert {
        row: (one.answer.value, one.answer.probabilities) for row, one in partial.given.items()
    } == {row: (one.answer.value, one.answer.probabilities) for row, one in full.given.items()}
    assert [one.answer.record_id for _, one in sorted(partial.given.items())] == [
        f"case-{row}" for row in range(1, len(words) + 1)
    ]
    # At most the batch in which it stopped is read again, and whatever is read is read in the same
    # company.
    assert interrupted.batches == undisturbed.batches[: len(interrupted.batches)]
    assert resumed.batches in (
        undisturbed.batches[len(interrupted.batches) :],
        undisturbed.batches[max(0, len(interrupted.batches) - 1) :],
    )
    assert kept <= set(partial.given)


class UnreadableRow(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        pytest.fail("somebody reads it")

    def __iter__(self) -> Iterator[str]:
        pytest.fail("somebody reads it")

    def __len__(self) -> int:
        return 1


def test_a_complete_window_is_not_even_rendered() -> None:
    book = answer_until(FakeEngine(), ["a", "b"], DictCache())
    untouched = [Record("case-1", UnreadableRow()), Record("case-2", UnreadableRow())]
    assert list(answer_rows(TASK, FakeEngine(), untouched, book)) == []
    with pytest.raises(pytest.fail.Exception):
        list(answer_rows(TASK, FakeEngine(), untouched, DictCache()))


def test_a_copy_is_answered_from_the_row_that_was_asked() -> None:
    book = answer_until(FakeEngine(), ["a", "b", "a"], DictCache())
    del book.given[3]
    engine = FakeEngine()
    answer_until(engine, ["a", "b", "a"], book)
    assert engine.prompt_count == 0
    assert book.given[3].answer.record_id == "case-3"
    assert book.given[3].answer.probabilities == book.given[1].answer.probabilities


def test_a_missing_row_is_asked_again_although_its_duplicate_is_cached() -> None:
    book = answer_until(FakeEngine(), ["a", "b", "a"], DictCache())
    lost = book.given.pop(1)
    (found,) = answer_rows(TASK, FakeEngine(), make_records(["a", "b", "a"]), book)
    assert (found.row, found.key, found.answer.probabilities) == (
        1,
        lost.key,
        lost.answer.probabilities,
    )


class MismatchedEngine(FakeEngine):
    def __init__(self, record_ids: Sequence[str]) -> None:
        super().__init__()
        self.say = record_ids

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        yield from (Fault(name, Status.FAILED, "?") for name in self.say)


@pytest.mark.parametrize(
    ("say", "complaint"), [(["1"], "1 of 2"), (["1", "1"], "twice"), (["1", "2", "3"], "not asked")]
)
def test_an_engine_that_answers_too_much_or_too_little_is_refused(
    say: list[str], complaint: str
) -> None:
    with pytest.raises(EngineError, match=complaint):
        list(predict_uncalibrated(TASK, MismatchedEngine(say), make_rows("a", "b")))


def test_an_engine_without_probabilities_is_refused() -> None:
    engine = FakeEngine()
    engine.caps = Caps(score="none")
    with pytest.raises(EngineError, match="restricted to a set"):
        next(predict_uncalibrated(TASK, engine, make_rows("a")))


def test_an_engine_that_only_chooses_is_not_asked_to_weigh_whole_texts() -> None:
    engine = FakeEngine()
    engine.caps = Caps(score="none", choose=True)
    task = replace(
        TASK, answer_spec=MultipleChoice(columns=("options",), readout="text"), labels=()
    )
    with pytest.raises(EngineError, match="whole texts"):
        next(predict_uncalibrated(task, engine, make_rows("a")))

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medtask.errors import StorageError
from medtask.prediction.predictor import RowAnswer
from medtask.records import Answer, PassStep, Quote, Status
from medtask.runs.ledger import FLUSH_ROWS, Ledger
from support.file_size_limit import limit_file_size

LABELS = ("curative", "palliative", "cannot tell")


def make_row_answer(row: int, key: bytes | None = None, share: float = 0.75) -> RowAnswer:
    probabilities = dict(zip(LABELS, (share, 1 - share, 0.0), strict=True))
    answer = Answer(
        f"case-{row}",
        Status.OK,
        "curative",
        share,
        probabilities,
        0.125,
        1e-5,
        ms=1.5,
        tokens_read=14,
        tokens_reused=200,
    )
    return RowAnswer(row, key or row.to_bytes(16), answer)


def fill_ledger_file(path: Path, rows: int) -> list[RowAnswer]:
    given = [make_row_answer(row, share=random.Random(row).random()) for row in range(1, rows + 1)]
    ledger = Ledger(path, LABELS)
    for one in given:
        ledger.add(one)
    ledger.flush()
    ledger.close()
    return given


numbers = st.floats(allow_nan=False, allow_infinity=False)
fields = st.dictionaries(
    st.text(),
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.lists(st.text()),
    max_size=3,
)
quotes = st.builds(Quote, st.text(), st.integers(0, 9), st.integers(0, 9))
steps = st.builds(
    PassStep, st.text(), st.sampled_from(Status), st.none() | st.text(), st.none() | numbers
)
answers = st.builds(
    Answer,
    record_id=st.text(st.characters(codec="utf-8")),
    status=st.sampled_from(Status),
    value=st.none() | st.sampled_from(LABELS) | st.lists(st.text(), max_size=3).map(tuple) | fields,
    confidence=st.none() | numbers,
    probabilities=st.none()
    | st.tuples(numbers, numbers, numbers).map(
        lambda shares: dict(zip(LABELS, shares, strict=True))
    ),
    off_set=st.none() | numbers,
    slack=numbers,
    text=st.none() | st.text(),
    thoughts=st.none() | st.text(),
    quotes=st.none() | st.dictionaries(st.text(), quotes, min_size=1, max_size=2),
    reason=st.none() | st.text(),
    steps=st.lists(steps, max_size=2).map(tuple),
    ms=numbers,
    tokens_read=st.integers(0, 2**40),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(answers, max_size=5))
@example([Answer("r", Status.OK, confidence=-0.0, off_set=-0.0, slack=-0.0)])
def test_every_answer_comes_back_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, given: list[Answer]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    ledger = Ledger(path, LABELS)
    for row, answer in enumerate(given, 1):
        ledger.add(RowAnswer(row, None, answer))
    ledger.flush()
    ledger.close()
    ledger = Ledger(path, LABELS)
    assert ledger.damaged == 0
    assert list(ledger.read_answers(10)) == [
        RowAnswer(row, None, answer) for row, answer in enumerate(given, 1)
    ]
    ledger.close()


def test_an_outcome_that_a_row_does_not_have_is_not_there_when_it_comes_back(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "ledger.db", ("A", "B", "C", "D"))
    answer = Answer("r", Status.OK, "D", 0.75, {"A": 0.25, "D": 0.75})
    ledger.add(RowAnswer(1, b"k" * 16, answer))
    assert next(ledger.read_answers(1)).answer == answer
    ledger.close()


def test_half_a_surrogate_pair_in_an_id_does_not_stop_a_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", LABELS)
    ledger.add(RowAnswer(1, None, Answer("a\ud800", Status.EMPTY_INPUT)))
    assert [given.answer.record_id for given in ledger.read_answers(1)] == ["a\\ud800"]
    ledger.close()


def test_answers_are_committed_in_small_transactions(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", LABELS)
    safe = [ledger.add(make_row_answer(row)) for row in range(1, 2 * FLUSH_ROWS + 1)]
    assert safe.count(True) >= 2
    other = sqlite3.connect(tmp_path / "ledger.db")
    assert other.execute("SELECT count(*) FROM answers").fetchone() == (2 * FLUSH_ROWS,)
    other.close()
    ledger.close()


def test_a_slow_row_is_committed_after_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "ledger.db", LABELS)
    assert not ledger.add(make_row_answer(1))
    monkeypatch.setattr("medtask.runs.ledger.time.monotonic", lambda now=ledger._flushed: now + 1.1)
    assert ledger.add(make_row_answer(2))
    ledger.close()


def test_rows_and_answers_are_found_even_before_they_are_committed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", LABELS)
    for row in (3, 5, 9):
        ledger.add(make_row_answer(row, key=b"same"))
    assert ledger.list_answered_rows(4, 9) == {5, 9}
    assert ledger.find_answers_before(9, [b"same", b"none"]) == {b"same": make_row_answer(3).answer}
    assert ledger.find_answers_before(3, [b"same"]) == {}
    ledger.close()


def test_a_ledger_is_private(tmp_path: Path) -> None:
    fill_ledger_file(tmp_path / "ledger.db", 1)
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_a_changed_byte_is_found_by_the_checksum_and_the_row_is_forgotten(tmp_path: Path) -> None:
    """Flip bits until enough of them hit rows: what is read afterwards is what was written, or
    nothing, or an error.
    """
    path = tmp_path / "ledger.db"
    given = {one.row: one for one in fill_ledger_file(path, 200)}
    full, seed, dropped, refused = path.read_bytes(), random.Random(0), 0, 0
    for _ in range(60):
        torn = bytearray(full)
        torn[seed.randrange(len(torn))] ^= 1 << seed.randrange(8)
        path.write_bytes(torn)
        try:
            ledger = Ledger(path, LABELS)
            found = {one.row: one for one in ledger.read_answers(1000)}
            recalled = ledger.find_answers_before(1000, [row.to_bytes(16) for row in given])
            dropped += ledger.damaged
            ledger.close()
        except StorageError as error:
            assert "aside" in error.fix or "version" in error.fix or "free" in error.fix
            refused += 1
            continue
        assert found.items() <= given.items()
        assert all(answer == given[int.from_bytes(key)].answer for key, answer in recalled.items())
    assert dropped > 20
    assert refused < 30


@pytest.mark.parametrize("size", [0, 1, 99, 100, 4096, 5000, 20000])
def test_a_truncated_ledger_is_empty_or_refused_with_the_remedy(tmp_path: Path, size: int) -> None:
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 200)
    path.write_bytes(path.read_bytes()[:size])
    try:
        ledger = Ledger(path, LABELS)
    except StorageError as error:
        assert str(path) in str(error)
        assert "move the file aside" in error.fix
    else:
        assert list(ledger.read_answers(1000)) == []
        ledger.close()


def test_text_that_is_no_longer_utf_8_is_found_by_the_checksum_too(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE answers SET id = CAST(x'ff' AS TEXT) WHERE row = 2")
    ledger = Ledger(path, LABELS)
    assert (ledger.damaged, ledger.list_answered_rows(1, 3)) == (1, {1, 3})
    ledger.close()


def test_a_commit_waits_for_the_disk_and_happens_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", LABELS)
    before = ledger._db.total_changes
    ledger.add(make_row_answer(1))
    ledger.flush()
    ledger.flush()
    assert ledger._db.total_changes - before == 1
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
    ledger.close()


class InterruptedRows(list[tuple[object, ...]]):
    """Pending rows of which the first is written when a signal comes."""

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        yield self[0]
        raise KeyboardInterrupt


def test_a_signal_in_the_midst_of_a_commit_undoes_it_and_it_can_be_done_again(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "ledger.db", LABELS)
    ledger.add(make_row_answer(1))
    ledger.add(make_row_answer(2))
    pending = ledger._pending
    ledger._pending = InterruptedRows(pending)
    with pytest.raises(KeyboardInterrupt):
        ledger.flush()
    assert ledger._db.execute("SELECT count(*) FROM answers").fetchone() == (0,)
    ledger._pending = pending
    assert [given.row for given in ledger.read_answers(9)] == [1, 2]
    ledger.close()


def test_other_labels_are_refused(tmp_path: Path) -> None:
    fill_ledger_file(tmp_path / "ledger.db", 1)
    with pytest.raises(StorageError, match="labels"):
        Ledger(tmp_path / "ledger.db", LABELS[:2])


def test_a_path_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no-folder"):
        Ledger(tmp_path / "no-folder" / "ledger.db", LABELS)


def test_on_a_full_disk_what_was_committed_is_kept_and_the_rest_waits_for_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, LABELS)
    row = 0
    with (
        limit_file_size(100_000),
        pytest.raises(StorageError, match=re.escape(str(path))) as refusal,
    ):
        while row < 10_000:
            ledger.add(make_row_answer(row := row + 1))
    assert "free space" in refusal.value.fix
    with closing(sqlite3.connect(path)) as other:
        (kept,) = other.execute("SELECT count(*) FROM answers").fetchone()
    assert row - FLUSH_ROWS <= kept < row < 10_000
    ledger.flush()
    ledger.close()
    ledger = Ledger(path, LABELS)
    assert [given.row for given in ledger.read_answers(10_000)] == list(range(1, row + 1))
    ledger.close()

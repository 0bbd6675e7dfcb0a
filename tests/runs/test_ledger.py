from __future__ import annotations

import itertools
import random
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medtask.errors import StorageError
from medtask.prediction.predictor import RowAnswer
from medtask.records import Answer, PassStep, Quote, Status
from medtask.runs.ledger import FLUSH_SECONDS, Ledger
from medtask.runs.ledger_file import LedgerRecovery, verify_ledger
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
quotes = st.builds(
    Quote,
    st.text(),
    st.integers(0, 9),
    st.integers(0, 9),
    st.none() | st.text(),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 9),
    st.booleans(),
)
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
    assert ledger.recovery is None
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


def test_an_answer_is_committed_at_once_after_a_pause(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", LABELS)
    other = sqlite3.connect(tmp_path / "ledger.db")
    for row in range(1, 4):
        time.sleep(FLUSH_SECONDS)
        assert ledger.add(make_row_answer(row))
        assert other.execute("SELECT count(*) FROM answers").fetchone() == (row,)
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


def test_an_answer_that_is_damaged_while_the_ledger_is_open_is_not_reused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 3)
    keys = [row.to_bytes(16) for row in (1, 2, 3)]
    with closing(Ledger(path, LABELS)) as ledger:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE answers SET value = '\"palliative\"' WHERE row = 2")
        assert ledger.find_answers_before(9, keys).keys() == {keys[0], keys[2]}


def test_a_ledger_is_private(tmp_path: Path) -> None:
    fill_ledger_file(tmp_path / "ledger.db", 1)
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


WRITTEN_ROWS = 150


class WrittenLedger(NamedTuple):
    content: bytes
    answers: dict[int, RowAnswer]

    def __repr__(self) -> str:  # hypothesis prints the arguments of a failing test
        return "WrittenLedger()"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenLedger:
    """The bytes of a ledger, and its answers by row."""
    path = tmp_path_factory.mktemp("written") / "ledger.db"
    given = {one.row: one for one in fill_ledger_file(path, WRITTEN_ROWS)}
    return WrittenLedger(path.read_bytes(), given)


def check_recovery(
    content: bytes, given: dict[int, RowAnswer]
) -> tuple[int, LedgerRecovery | None]:
    """Open a damaged ledger as a resumed run does; returns the number of answers that it kept.

    What it returns is what was written, the other answers can be added, and it is intact then.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        path.write_bytes(content)
        with closing(Ledger(path, LABELS)) as ledger:
            found = {one.row: one for one in ledger.read_answers(1000)}
            assert found.items() <= given.items()
            keys = [row.to_bytes(16) for row in given]
            for key, answer in ledger.find_answers_before(1000, keys).items():
                assert answer == given[int.from_bytes(key)].answer
            recovery = ledger.recovery
            if recovery:
                assert recovery.kept == len(found)
                assert recovery.saved_as.read_bytes() == content
            else:
                assert len(found) in {0, len(given)}
            for row in given.keys() - found.keys():
                ledger.add(given[row])
            ledger.flush()
        with closing(Ledger(path, LABELS)) as ledger:
            assert ledger.recovery is None
            assert list(ledger.read_answers(1000)) == list(given.values())
    return len(found), recovery


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3 * 4096))
def test_a_ledger_cut_in_its_last_pages_keeps_all_other_answers(
    written: WrittenLedger, cut: int
) -> None:
    content, given = written
    kept, recovery = check_recovery(content[:-cut], given)
    assert recovery is not None
    assert kept + recovery.lost <= WRITTEN_ROWS
    assert kept >= WRITTEN_ROWS - 3 * 40  # a page holds fewer than 40 of these rows


@pytest.mark.scale
def test_cuts_anywhere_in_the_last_three_pages_are_recovered(
    written: WrittenLedger, tmp_path: Path
) -> None:
    content, given = written
    path = tmp_path / "ledger.db"
    # Every second cut of the last page, every fifth of the two before it, and the page boundaries.
    cuts = itertools.chain(range(1, 4096, 2), (4096, 2 * 4096, 3 * 4096), range(4097, 3 * 4096, 5))
    for number, cut in enumerate(cuts):
        path.write_bytes(content[:-cut])
        state = verify_ledger(path)
        assert state.problem is not None
        assert WRITTEN_ROWS - 3 * 40 <= state.intact <= WRITTEN_ROWS - state.damaged
        if number % 64 == 0:
            assert check_recovery(content[:-cut], given)[0] == state.intact


@settings(deadline=None, max_examples=60)
@given(st.integers(0), st.integers(0, 7))
@example(18, 3)  # SQLite opens such a file for reading only
@example(60 + 3, 0)  # the format 3 of a later version
@example(3718, 7)  # a name that is not UTF-8, in an error message of SQLite
def test_a_flipped_bit_costs_at_most_the_answers_of_one_page(
    written: WrittenLedger, place: int, bit: int
) -> None:
    content, given = written
    flipped = bytearray(content)
    flipped[place % len(content)] ^= 1 << bit
    kept, _ = check_recovery(bytes(flipped), given)
    assert kept >= WRITTEN_ROWS - 40


def test_a_ledger_that_is_removed_in_use_is_an_error_that_says_so(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db", ("left", "right"))) as ledger:
        ledger.add(RowAnswer(1, b"1" * 16, Answer("1", Status.OK, "left")))
        ledger.flush()
        ledger.path.unlink()
        ledger.add(RowAnswer(2, b"2" * 16, Answer("2", Status.OK, "left")))
        with pytest.raises(StorageError, match="was removed while it was in use"):
            ledger.flush()


def test_a_zeroed_page_costs_the_answers_of_that_page_and_they_are_counted(
    written: WrittenLedger,
) -> None:
    content, given = written
    for start in range(0, len(content), 4096):
        zeroed = content[:start] + bytes(4096) + content[start + 4096 :]
        kept, recovery = check_recovery(zeroed, given)
        assert recovery is not None
        assert (kept + recovery.lost, kept >= WRITTEN_ROWS - 40) == (WRITTEN_ROWS, True)


def test_an_empty_file_is_an_empty_ledger(written: WrittenLedger) -> None:
    assert check_recovery(b"", written[1]) == (0, None)


def test_a_file_that_is_not_a_ledger_is_kept_beside_an_empty_one(
    written: WrittenLedger, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE answers (row INTEGER PRIMARY KEY, id TEXT)")
        db.execute("INSERT INTO answers VALUES (1, 'a')")
        db.commit()
    for content in (b"row,answer\n1,curative\n" * 300, b"\x17" * 5000, other.read_bytes()):
        kept, recovery = check_recovery(content, written[1])
        assert (kept, recovery is not None) == (0, True)


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_a_stale_journal_changes_no_answer(
    written: WrittenLedger, tmp_path: Path, suffix: str
) -> None:
    """The journal of an earlier state of the file, as a restored backup can hold."""
    content, given = written
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 60)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN")
        db.execute("UPDATE answers SET value = 'palliative', crc = 0")
        journal = path.with_name("ledger.db-journal").read_bytes()
    for state in (content, content[:-5000], bytes(16) + content[16:]):
        path.write_bytes(state)
        path.with_name(f"ledger.db{suffix}").write_bytes(journal)
        with closing(Ledger(path, LABELS)) as ledger:
            found = list(ledger.read_answers(1000))
        assert {one.row: one for one in found}.items() <= given.items()
        with closing(Ledger(path, LABELS)) as ledger:
            assert ledger.recovery is None
            assert list(ledger.read_answers(1000)) == found


def test_answers_longer_than_a_page_are_recovered(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    given = [
        RowAnswer(row, None, Answer(f"r{row}", Status.OK, "x" * (row * 900), text="é" * 5000))
        for row in range(1, 30)
    ]
    with closing(Ledger(path, LABELS)) as ledger:
        for one in given:
            ledger.add(one)
        ledger.flush()
    with path.open("r+b") as file:
        file.write(b"not SQLite")
    with closing(Ledger(path, LABELS)) as ledger:
        assert ledger.recovery is not None
        assert list(ledger.read_answers(100)) == given


def test_a_damaged_ledger_is_not_changed_by_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 100)
    content = path.read_bytes()[:-3500]
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged") as refusal:
        Ledger(path, LABELS, read_only=True)
    assert "run again" in refusal.value.fix
    state = verify_ledger(path)
    assert state.problem is not None
    assert (state.intact + state.damaged, state.damaged > 0) == (100, True)
    assert [path.read_bytes(), *tmp_path.iterdir()] == [content, path]


def test_an_intact_ledger_is_verified(tmp_path: Path) -> None:
    fill_ledger_file(tmp_path / "ledger.db", 100)
    state = verify_ledger(tmp_path / "ledger.db")
    assert (state.problem, state.intact, state.damaged) == (None, 100, 0)


def test_a_ledger_of_a_later_format_is_refused_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA user_version = 3")
        other.execute("UPDATE meta SET value = '3' WHERE name = 'format'")
    with pytest.raises(StorageError, match="format 3"):
        Ledger(path, LABELS)


def test_text_that_is_no_longer_utf_8_is_found_by_the_checksum_too(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE answers SET id = CAST(x'ff' AS TEXT) WHERE row = 2")
    ledger = Ledger(path, LABELS)
    assert ledger.recovery is not None
    assert (ledger.recovery.lost, ledger.list_answered_rows(1, 3)) == (1, {1, 3})
    ledger.close()


CHANGED_COLUMNS = {
    "row": "9",
    "id": "'other'",
    "prompt_key": "x'00'",
    "status": "'review'",
    "value": "'\"palliative\"'",
    "confidence": "0.5",
    "probabilities": "zeroblob(24)",
    "off_set": "NULL",
    "slack": "1.0",
    "reason": "'other'",
    "pass": "'other'",
    "ms": "9.0",
    "tokens_read": "9",
    "tokens_reused": "9",
    "written": "'{}'",
    "crc": "0",
}


def test_the_changed_columns_are_all_columns(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 1)
    with closing(sqlite3.connect(path)) as other:
        columns = [column[1] for column in other.execute("PRAGMA table_info(answers)")]
    assert list(CHANGED_COLUMNS) == columns


@pytest.mark.parametrize(("column", "value"), CHANGED_COLUMNS.items(), ids=CHANGED_COLUMNS)
def test_a_change_of_any_column_is_found_by_the_checksum(
    tmp_path: Path, column: str, value: str
) -> None:
    path = tmp_path / "ledger.db"
    fill_ledger_file(path, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"UPDATE answers SET {column} = {value} WHERE row = 2")
    state = verify_ledger(path)
    assert (state.intact, state.damaged > 0) == (2, True)


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
            if row % 50 == 0:
                ledger.flush()
    assert "free space" in refusal.value.fix
    with closing(sqlite3.connect(path)) as other:
        (kept,) = other.execute("SELECT count(*) FROM answers").fetchone()
    assert row - 50 <= kept < row < 10_000
    ledger.flush()
    ledger.close()
    ledger = Ledger(path, LABELS)
    assert [given.row for given in ledger.read_answers(10_000)] == list(range(1, row + 1))
    ledger.close()

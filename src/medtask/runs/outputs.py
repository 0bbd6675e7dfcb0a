"""Output tables of a run and their summary, from the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medtask.atomic_files import make_storage_error
from medtask.display import format_count, format_path
from medtask.errors import MedtaskError, RunMismatch, StorageError
from medtask.prediction.deciding import apply_thresholds
from medtask.prediction.predictor import RowAnswer
from medtask.prediction.quotes import locate_quotes
from medtask.records import AnsweredRow, LeftOut, Prompt, Record
from medtask.runs.calibration_store import calibrate_answer
from medtask.runs.ledger import Ledger
from medtask.runs.measured_rows import CALIBRATED
from medtask.runs.output_columns import (
    DEFAULT_FORMATS,
    ROUNDED_FORMATS,
    WIDE_FORMATS,
    find_free_name,
    get_cell,
    list_output_columns,
    rename_columns,
    round_cell,
)
from medtask.tables.stored_rows import StoredRows, store_rows
from medtask.tables.table import Column, Table
from medtask.tables.write import write_answers
from medtask.tasks.field_values import list_units
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import build_prompt, hash_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.task import STUDENT_PASS, Task

if TYPE_CHECKING:
    from medtask.evaluation.calibration.thresholds import FittedThresholds
    from medtask.evaluation.calibration.transforms import Calibration
    from medtask.evaluation.report.run_summary import RunSummary, SummaryAccumulator

_RecordAnswer = tuple[Record, RowAnswer]


@dataclass(frozen=True, slots=True)
class WrittenTables:
    """What was written: the summary of the answers, notes, and formats that could not be written.

    The other formats are complete.
    """

    summary: RunSummary
    notes: tuple[str, ...]
    failures: tuple[MedtaskError, ...]

    def raise_failures(self) -> None:
        """Raise an error that names all formats that could not be written, if there are any."""
        if not self.failures:
            return
        first = self.failures[0]
        problems = "; ".join(map(str, self.failures))
        raise type(first)(f"{problems}. All other files are complete", fix=first.fix)


@dataclass(frozen=True, slots=True)
class OutputSource:
    """The source of a run's output tables: its first ``rows`` rows, all answered.

    ``left_out`` are the rows that metrics and thresholds leave out. ``row_calibrations``, by row
    number, replace ``calibration``. With ``wide``, fields have columns of their own in CSV, too.
    """

    task: Task
    table: Table
    ledger: Ledger
    rows: int
    gold_column: str | None
    calibration: Calibration | None = None
    left_out: Mapping[int, LeftOut] = field(default_factory=dict)
    row_calibrations: Mapping[int, Calibration] = field(default_factory=dict)
    wide: bool = False

    @property
    def is_calibrated(self) -> bool:
        """Whether probabilities differ from those of the model."""
        calibrations = {id(one): one for one in self.row_calibrations.values()}.values()
        return any(one is not None and one.calibrated for one in (self.calibration, *calibrations))

    def iter_records(self) -> Iterator[Record]:
        return islice(read_records(self.task, self.table, gold_column=self.gold_column), self.rows)

    def iter_answers(self) -> Iterator[RowAnswer]:
        """Yield the answers, with calibrated probabilities if there is a calibration."""
        for row_answer in self.ledger.read_answers(self.rows):
            calibration = self.row_calibrations.get(row_answer.row, self.calibration)
            if row_answer.answer.pass_name == STUDENT_PASS:
                calibration = None  # it was fitted on the model's probabilities
            yield (
                replace(
                    row_answer, answer=calibrate_answer(self.task, row_answer.answer, calibration)
                )
                if calibration
                else row_answer
            )

    def is_unknown(self, row_answer: RowAnswer) -> bool:
        """Whether an answer has an outcome that its calibration does not know."""
        calibration = self.row_calibrations.get(row_answer.row, self.calibration)
        if calibration is None or not calibration.calibrated:
            return False
        answer = row_answer.answer
        is_model = answer.pass_name != STUDENT_PASS
        return is_model and not (answer.probabilities or {}).keys() <= set(calibration.labels)

    def iter_pairs(self) -> Iterator[_RecordAnswer]:
        for record, row_answer in zip(self.iter_records(), self.iter_answers(), strict=True):
            answer = row_answer.answer
            if any(quote.column is None for quote in (answer.quotes or {}).values()):
                # Ledgers of earlier versions have the places in the prompt's text only.
                answer = locate_quotes(self.task, record, answer)
            yield record, replace(row_answer, answer=answer)

    def has_threshold_gold(self, record: Record, row: int) -> bool:
        """Whether thresholds are fitted on a row."""
        names = [label.name for label in self.task.labels]
        known = isinstance(record.gold, tuple) and all(name in names for name in record.gold)
        return known and self.left_out.get(row) in (None, *CALIBRATED)


def fit_thresholds(source: OutputSource) -> FittedThresholds | None:
    """Fit the task's thresholds on gold; None if it requests none or gold is missing."""
    task, threshold_fit = source.task, get_task_kind(source.task).threshold_fit
    if threshold_fit is None:
        return None
    from medtask.evaluation.calibration.thresholds import ThresholdFitter

    names = [label.name for label in task.labels]
    fitter = ThresholdFitter(names, *threshold_fit)
    usable_rows = 0
    for record, row_answer in source.iter_pairs():
        probabilities = row_answer.answer.probabilities
        # A further pass may cover only some of the labels.
        if (
            probabilities
            and probabilities.keys() >= set(names)
            and source.has_threshold_gold(record, row_answer.row)
        ):
            gold = cast("tuple[str, ...]", record.gold)
            fitter.add(row_answer.row, probabilities, gold, record.group)
            usable_rows += 1
    return fitter.finish() if usable_rows else None


def describe_thresholds(fitted: FittedThresholds) -> dict[str, Any]:
    """The manifest's entries about fitted thresholds."""
    sentence = (
        f"Fitted on the gold of {fitted.rows:,} rows. A row with gold was decided by "
        "thresholds fitted on the other four fifths."
    )
    if fitted.unfitted_labels:
        sentence += f" Too few gold rows, so 0.5 was kept: {', '.join(fitted.unfitted_labels)}."
    return {"thresholds": dict(fitted.overall), "thresholds_fitted": sentence}


def describe_default_thresholds(source: OutputSource) -> dict[str, Any]:
    """The manifest's entries about the thresholds of the model; empty if it has none."""
    fitted = source.calibration.get_thresholds() if source.calibration else {}
    named = get_task_kind(source.task).thresholds
    if not fitted.keys() - named:
        return {}
    sentence = "Fitted when the model was trained, except for labels with a threshold in the task."
    return {"thresholds": {**fitted, **named}, "thresholds_fitted": sentence}


def create_summary_accumulator(task: Task, *, has_gold: bool, seed: int = 0) -> SummaryAccumulator:
    """Create the accumulator for a task's summary."""
    from medtask.evaluation.report.run_summary import SummaryAccumulator

    units = list_units(get_task_kind(task).answer_schema or {})
    return SummaryAccumulator(
        task.kind, [label.name for label in task.labels], task.abstain_name, has_gold, seed, units
    )


def write_answer_tables(
    folder: Path,
    source: OutputSource,
    formats: Sequence[str],
    thresholds: FittedThresholds | None = None,
) -> WrittenTables:
    """Write answers.csv, answers.parquet and the other formats, each by itself.

    Raises RunMismatch if the text of a row has changed since it was answered, and StorageError if
    the disk is full.
    """
    task, table = source.task, source.table
    accumulator = create_summary_accumulator(task, has_gold=source.gold_column is not None)
    columns = list_output_columns(task, rounded=False, calibrated=source.is_calibrated)
    pairs = _apply_fitted_thresholds(source, thresholds) if thresholds else source.iter_pairs()
    unknown_rows: list[int] = []
    collected = _collect_pairs(source, pairs, accumulator, unknown_rows)
    cells = _list_cells(collected, table.columns, [column.name for column in columns])
    try:
        # Table and ledger are read once for all formats: that takes longer than a temporary file.
        with store_rows(folder, cells) as stored:
            notes, failures = _write_formats(folder, stored, source, formats)
    except OSError as error:
        raise make_storage_error(folder / f"answers.{DEFAULT_FORMATS[0]}", error) from error
    if unknown_rows:
        notes.append(
            f"{format_count(len(unknown_rows), 'row')} with an option that the calibration does "
            "not know: their probabilities are the model's own"
        )
    return WrittenTables(accumulator.finish(), tuple(notes), tuple(failures))


def _write_formats(
    folder: Path, cells: StoredRows, source: OutputSource, formats: Sequence[str]
) -> tuple[list[str], list[MedtaskError]]:
    """Write rows of input and output cells in all formats; returns notes and failures."""
    names = rename_columns(source.task, source.table.columns)
    exact, rounded = (
        list_output_columns(source.task, rounded=rounded, calibrated=source.is_calibrated)
        for rounded in (False, True)
    )
    notes: list[str] = []
    failures: list[MedtaskError] = []
    for suffix in dict.fromkeys((*DEFAULT_FORMATS, *formats)):
        is_rounded = suffix in ROUNDED_FORMATS
        columns = exact
        rows: Iterable[Sequence[object]] = cells
        if is_rounded:
            reading = get_task_kind(source.task).list_reading_columns(
                wide=source.wide or suffix in WIDE_FORMATS
            )
            rows = _RoundedRows(cells, source, exact, rounded, reading)
            titles = [find_free_name(name, names.values(), "medtask_") for name in reading]
            columns = [rounded[0], *map(Column, titles), *rounded[1:]]
        path = folder / f"answers.{suffix}"
        try:
            notes += write_answers(
                path,
                [*map(Column, names.values()), *columns],
                rows,
                # Scripts that read the answers to a plain CSV file find one.
                byte_order_mark=source.table.from_spreadsheet,
            )
        except MedtaskError as error:
            failures.append(error)
        except OSError as error:
            failures.append(make_storage_error(path, error))
        except Exception as error:
            # Whatever a library of one format cannot write, all answers are in the others.
            problem = f"{format_path(path)} cannot be written: {type(error).__name__}"
            failure = StorageError(problem, fix="report this, and use another format")
            failure.__cause__ = error
            failures.append(failure)
    return notes, failures


@dataclass(frozen=True, slots=True)
class _RoundedRows:
    """The rows with the cells of the output columns for people, see `round_cell`.

    The columns ``reading`` of the kind follow the answer.
    """

    rows: StoredRows
    source: OutputSource
    exact_columns: Sequence[Column]
    rounded_columns: Sequence[Column]
    reading: Sequence[str]

    def __iter__(self) -> Iterator[Sequence[object]]:
        exact_names = [column.name for column in self.exact_columns]
        names = [column.name for column in self.rounded_columns]
        places = [exact_names.index(name) - len(exact_names) for name in names]
        chosen = list(zip(names, places, strict=True))
        kind, inputs = get_task_kind(self.source.task), self.source.table.columns
        for row in self.rows:
            rounded = [round_cell(name, row[place]) for name, place in chosen]
            added: dict[str, object] = {}
            if self.reading:
                quotes = dict(zip(exact_names, row[-len(exact_names) :], strict=True)).get("quotes")
                added = kind.read_reading_cells(
                    dict(zip(inputs, row, strict=False)), row[places[0]], _read_quotes(quotes)
                )
            yield [
                *row[: -len(exact_names)],
                rounded[0],
                *(added.get(name) for name in self.reading),
                *rounded[1:],
            ]


def _read_quotes(cell: object) -> dict[str, str]:
    """The texts of quotes by field, from the cell of the column ``quotes``."""
    quotes = json.loads(cell) if isinstance(cell, str) else {}
    return {name: quote["text"] for name, quote in quotes.items()}


def _apply_fitted_thresholds(
    source: OutputSource, thresholds: FittedThresholds
) -> Iterator[_RecordAnswer]:
    """Yield the pairs with labels decided by the fitted thresholds."""
    for record, row_answer in source.iter_pairs():
        row = row_answer.row
        has_gold = source.has_threshold_gold(record, row)
        fitted = thresholds.get_thresholds(row, has_gold, record.group)
        answer = apply_thresholds(source.task, row_answer.answer, fitted)
        yield record, replace(row_answer, answer=answer)


def _collect_pairs(
    source: OutputSource,
    pairs: Iterable[_RecordAnswer],
    accumulator: SummaryAccumulator,
    unknown_rows: list[int],
) -> Iterator[_RecordAnswer]:
    """Yield the pairs after adding them to the summary, and rows that cannot be calibrated to
    ``unknown_rows``. Raises RunMismatch for changed texts.
    """
    for record, row_answer in pairs:
        if source.is_unknown(row_answer):
            unknown_rows.append(row_answer.row)
        prompt = build_prompt(source.task, record)
        prompt_or_none = prompt if isinstance(prompt, Prompt) else None
        key, text, options = (
            (hash_prompt(prompt_or_none), prompt_or_none.text, prompt_or_none.options)
            if prompt_or_none
            else (None, "", ())
        )
        if row_answer.key != key:
            raise RunMismatch(
                f"the text of row {row_answer.row:,} is not the one that was answered: the "
                "table was changed during the run",
                fix="start again with --new-run, and do not change the table meanwhile",
            )
        row = row_answer.row
        accumulator.add(
            AnsweredRow(
                row,
                row_answer.answer,
                text,
                record.gold,
                options,
                record.group,
                record.fields,
                source.left_out.get(row),
            )
        )
        yield record, row_answer


def _list_cells(
    pairs: Iterable[_RecordAnswer], columns: Sequence[str], output_names: Sequence[str]
) -> Iterator[Sequence[object]]:
    for record, row_answer in pairs:
        answer = row_answer.answer
        yield [
            *(record.fields[column] for column in columns),
            *(get_cell(name, answer) for name in output_names),
        ]

"""Checks of a task, its table and a run's options before any model call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.display import format_row_count
from medtask.engines.base import Engine
from medtask.errors import InputError, TableError, UsageError
from medtask.prediction.cascade import check_cascade
from medtask.prediction.predictor import AnswerMethod
from medtask.records import Record
from medtask.runs.manifest import describe_task_and_table
from medtask.runs.output_columns import DEFAULT_FORMATS, list_output_columns, rename_columns
from medtask.runs.session_request import SessionRequest
from medtask.tables.read import validate_table
from medtask.tables.repeated_ids import resolve_repeated_ids
from medtask.tables.table import Table
from medtask.tables.write import check_formats
from medtask.tables.write_excel import check_excel_size
from medtask.tasks.cell_counts import (
    CellCounts,
    count_gold_cells,
    describe_input_words,
    select_input_words,
)
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.rows import (
    check_gold,
    read_gold_column,
    read_records,
    require_columns,
    require_extras,
)
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluation.calibration.transforms import Calibration


# A cascade measures the model's time, and its sample must be asked in this run.
_CACHE_NOTE = "the answer cache is not used: a cascade asks the model in this run"


LoadedModels = tuple[Engine, Mapping[str, Engine]]  # those of passes by their references


@dataclass(frozen=True, slots=True)
class RecordedAnswers:
    """Answers of a run that other processes have asked for.

    Attributes:
        method: Yields the answers.
        pass_engines: The models of further passes, by their references.
        facts: Entries of the final manifest about these processes.
        open_models: Loads the model, and those of further passes, to ask rows again.
    """

    method: AnswerMethod
    pass_engines: Mapping[str, Engine]
    facts: Mapping[str, Any]
    open_models: Callable[[], AbstractContextManager[LoadedModels]]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run; see `medtask.run`.

    ``row_calibrations``, by row number, replace the calibration of the model, in runs in which rows
    are answered by different models. ``cascade_alpha`` is the share of rows that may differ from
    the model's answers, because a student answers for it. ``formats`` are None for those of
    `choose_formats`. ``recorded`` are the answers of other processes; None to ask the model.
    ``flip_check`` is the number of rows that are asked again; see `check_flips`.
    """

    out: Path | None = None
    limit: int | None = None
    gold_column: str | None = None
    formats: Sequence[str] | None = None
    max_error_rate: float = 0.05
    new_run: bool = False
    force_lock: bool = False
    allow_remote: bool = False
    calibrated: bool = True
    baselines: bool = True
    cascade_alpha: float | None = None
    cache: Path | None = None
    wide: bool = False
    row_calibrations: Mapping[int, Calibration] = field(default_factory=dict)
    recorded: RecordedAnswers | None = None
    flip_check: int = 0


@dataclass(slots=True)
class RunSetup:
    """A checked run over the first ``rows`` of the table's ``table_rows`` rows.

    ``gold_task`` is the task with the form of gold that its column has; ``cell_counts`` is the
    manifest's entry about gold and missing values.
    """

    task: Task
    gold_task: Task
    table: Table
    options: RunOptions
    gold_column: str | None
    table_rows: int
    rows: int
    notes: list[str] = field(default_factory=list)
    cell_counts: dict[str, object] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def iter_records(self) -> Iterator[Record]:
        return islice(self._read_table(), self.rows)

    def _read_table(self) -> Iterator[Record]:
        return read_records(self.gold_task, self.table, gold_column=self.gold_column)

    def match_prompts(self, task: Task) -> None:
        """Take over the prompts of ``task``, which are those of the loaded models."""
        self.task = _take_prompts(self.task, task)
        self.gold_task = _take_prompts(self.gold_task, task)

    def build_request(self) -> SessionRequest:
        """The session request of this run."""
        digest = self.table.digest()
        settings = {
            "rows": self.rows,
            "gold_column": self.gold_column,
            "formats": list(self.options.formats or DEFAULT_FORMATS),
            "max_error_rate": self.options.max_error_rate,
        }
        alpha, recorded = self.options.cascade_alpha, self.options.recorded
        # Another number of rows is another random order.
        cascade = {"cascade.alpha": f"{alpha:g}", "cascade.rows": str(self.rows)} if alpha else {}
        facts = describe_task_and_table(self.task, self.table, self.table_rows, digest)
        return SessionRequest(
            task=self.task,
            data_digest=digest,
            rows=self.rows,
            identity_facts=cascade,
            out=self.options.out,
            new_run=self.options.new_run,
            force_lock=self.options.force_lock,
            allow_remote=self.options.allow_remote,
            cache=None if alpha else self.options.cache,
            manifest_facts={**facts, "settings": settings, "cells": self.cell_counts},
            pass_engines=recorded.pass_engines if recorded else None,
            final_facts=recorded.facts if recorded else {},
            read_table=None if recorded else self._read_table,
            notes=tuple(self.notes),
            started=self.started,
        )


def prepare_run(task: Task, table: Table, options: RunOptions) -> RunSetup:
    """Check a run before a model is loaded.

    Raises:
        UsageError: The limit or a format is not valid.
        TaskFaults: The task uses columns that are missing in the table.
        TableError: The table has no rows, or ids that are blank or repeated.
        InputError: No gold value is a valid answer of the task, or gold is required and missing.
    """
    started = time.monotonic()
    _check_options(options)
    if options.cascade_alpha is not None:
        check_cascade(task, options.cascade_alpha)
    refuse_remote_phi(task, allow_remote=options.allow_remote)
    require_columns(task, table, gold_column=options.gold_column)
    table = resolve_repeated_ids(table, task.id_column)
    table_survey = validate_table(table, task.id_column, can_resolve=True)
    if not table_survey.rows:
        raise TableError(
            f"{table.source} has no rows", fix="give a table with at least one row below its header"
        )
    formats = choose_formats(table, options.formats)
    setup = RunSetup(
        task,
        task,
        table,
        replace(options, formats=formats),
        gold_column=options.gold_column or task.gold_column,
        table_rows=table_survey.rows,
        rows=min(table_survey.rows, options.limit or table_survey.rows),
        started=started,
        notes=[_CACHE_NOTE] if options.cache and options.cascade_alpha else [],
    )
    if "xlsx" in formats:
        output_columns = list_output_columns(task, rounded=True, calibrated=True)
        check_excel_size(setup.rows, len(table.columns) + len(output_columns))
    if table.id_note:
        setup.notes.append(table.id_note)
    if table_survey.blank_lines:
        setup.notes.append(
            f"{table_survey.blank_lines:,} blank line(s) of {table.source} are skipped"
        )
    setup.notes += table_survey.describe_suspects()
    for column, name in rename_columns(task, table.columns).items():
        if column != name:
            setup.notes.append(
                f'the table has a column "{column}": among the answers it is called "{name}"'
            )
    require_extras(task, table)
    setup.notes += task.cut_texts
    input_words = select_input_words(task, table_survey.missing_words)
    setup.cell_counts["missing_words"] = {name: dict(words) for name, words in input_words.items()}
    setup.notes += describe_input_words(input_words)
    if setup.gold_column is not None:
        _note_gold(setup)
    elif get_task_kind(task).threshold_fit:
        raise InputError(
            "thresholds are fitted on gold, and no gold column is named",
            fix="name the column with --gold, or under `gold:` in the task",
        )
    return setup


def refuse_remote_phi(task: Task, *, allow_remote: bool) -> None:
    """Raise UsageError if patient records could leave this machine."""
    if task.phi and allow_remote:
        raise UsageError(
            "the task says `phi: true`: its records must not leave this machine",
            fix="leave --allow-remote out: such a task is answered on this machine",
        )


def choose_formats(table: Table, formats: Sequence[str] | None) -> Sequence[str]:
    """The named formats; by default CSV and Parquet, and XLSX for tables that are workbooks."""
    if formats is not None:
        return formats
    return (*DEFAULT_FORMATS, "xlsx") if table.is_workbook else DEFAULT_FORMATS


def _take_prompts(task: Task, source: Task) -> Task:
    return replace(
        task,
        passes=source.passes,
        prompt_version=source.prompt_version,
        fingerprint=source.fingerprint,
    )


def _check_options(options: RunOptions) -> None:
    if options.limit is not None and options.limit < 1:
        raise UsageError(
            f"a limit of {options.limit} leaves no row", fix="set the limit to 1 row or more"
        )
    check_formats(options.formats or ())


def _note_gold(setup: RunSetup) -> None:
    """Note gold values that are not valid answers. Raises InputError if none is valid."""
    name, column = setup.gold_column or "", f'the gold column "{setup.gold_column}"'
    gold_cells = ((row, row.get(name)) for row in islice(setup.table, setup.rows))
    setup.gold_task, form_notes = read_gold_column(setup.task, gold_cells)
    cells = CellCounts(form_notes=form_notes)
    records = count_gold_cells(setup.gold_task, setup.iter_records(), name, cells)
    gold = check_gold(setup.gold_task, records)
    setup.cell_counts["gold"] = cells.to_json()
    setup.notes += cells.describe(column)
    if not gold.unknown:
        return
    noun = setup.task.kind_spec.gold_noun
    # The values are not shown: if the column is wrong, they are record text.
    found_in = [
        f"row {one.first_row:,}" + (f", {meaning}" if (meaning := one.describe_meaning()) else "")
        for one in gold.unknown.values()
    ]
    examples = f"{'; '.join(found_in[:5])}{'; ...' if len(found_in) > 5 else ''}"
    if not gold.valid_rows:
        raise InputError(
            "; ".join(
                (
                    f"no value of {column} is {noun} ({examples})",
                    *(f"it {note}" for note in form_notes),
                )
            ),
            fix="name the right column with --gold, or write its values as the task does",
        )
    setup.notes.append(
        f'gold in the column "{setup.gold_column}" is not {noun} in '
        f"{format_row_count(gold.invalid_rows)}, left out of the metrics ({examples})"
    )

"""Answers for Arrow batches, in worker processes that load the model once."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.engines.base import Engine
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.registry import check_options, choose_engine, load_model
from medtask.errors import InputError, MedtaskError, TableError, TaskFaults
from medtask.prediction.predictor import (
    WINDOW,
    check_engines,
    load_pass_engines,
    predict_uncalibrated,
)
from medtask.records import Answer, Record
from medtask.runs.calibration_store import (
    SavedCalibration,
    calibrate_answer,
    find_calibration,
    locate_model_calibration,
    read_calibrations,
    read_task_calibrations,
)
from medtask.runs.manifest import guard_network, identify_model
from medtask.runs.output_columns import get_cell, list_output_columns, rename_columns
from medtask.runs.run_setup import refuse_remote_phi
from medtask.tables.arrow import get_arrow_schema, make_arrow_table
from medtask.tables.cell_values import read_key
from medtask.tables.read import read_table
from medtask.tables.table import Column
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.rows import check_columns, read_records
from medtask.tasks.task import Task

if TYPE_CHECKING:
    import pyarrow as pa


_loaded_engines: dict[Hashable, tuple[Engine, ...]] = {}


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A task and a model for worker processes, which may run on other machines.

    Attributes:
        task: The task, without the column of gold, and without that of groups if there is none.
        model: The reference of the model.
        options: Options of loading it.
        calibrated: Whether the calibration of this task and model is applied.
        calibrations: The calibrations beside the task file, which workers may not have.
        has_uncalibrated: Whether the output has the model's own probabilities too.
        columns: Input columns -> their names in the output.
        window: How many rows are answered at a time.
    """

    task: Task
    model: str
    options: LoadOptions = DEFAULT_OPTIONS
    calibrated: bool = True
    calibrations: tuple[SavedCalibration, ...] = ()
    has_uncalibrated: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    window: int = WINDOW

    @property
    def output_columns(self) -> list[Column]:
        """The columns that answers add."""
        return list_output_columns(self.task, rounded=False, calibrated=self.has_uncalibrated)

    @property
    def answer_schema(self) -> pa.Schema:
        """The Arrow schema of the columns that answers add."""
        return get_arrow_schema(self.output_columns)


def prepare_job(
    task: Task,
    model: str,
    columns: Sequence[str],
    options: LoadOptions,
    *,
    calibrated: bool = True,
    ignore_case: bool = False,
) -> BatchJob:
    """Check a task, a model and the columns of a table before workers start.

    ``ignore_case`` renames input columns that differ from an output column in case only.

    Raises:
        TaskFaults: The task uses columns that are missing.
        TableError: Two columns have the same name.
        InputError: The task fits thresholds, which requires a run with gold.
        UsageError: The engine does not support an option, or records must not leave the machine.
        EngineError: The reference is not valid.
    """
    if get_task_kind(task).threshold_fit:
        raise InputError(
            "thresholds are fitted on the gold of a whole table, not row by row",
            fix="run the task with gold first, and write its thresholds into the task",
        )
    # Groups only choose between examples: a table without them can be answered.
    group = task.group_column if task.group_column in columns else None
    task = replace(task, gold_column=None, group_column=group)
    _check_names(columns)
    if faults := check_columns(task, columns):
        raise TaskFaults(str(task.source or task.name), faults)
    refuse_remote_phi(task, allow_remote=options.allow_remote)
    check_options(choose_engine(model).spec, options)
    beside_task = read_task_calibrations(task) if calibrated else []
    location = Path(model).expanduser()
    beside_model = read_calibrations(locate_model_calibration(location)) if calibrated else []
    return BatchJob(
        task,
        str(location.resolve()) if location.exists() else model,  # workers have another folder
        options,
        calibrated,
        tuple(beside_task),
        any(
            one.calibration.calibrated
            for one in (*beside_task, *beside_model)
            if one.task == task.fingerprint
        ),
        rename_columns(task, columns, ignore_case=ignore_case),
    )


def _check_names(columns: Sequence[str]) -> None:
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        raise TableError(
            f"the table has more than one column {repeated[0]!r}",
            fix="give every column its own name",
        )


def limit_threads(model: str, options: LoadOptions, cores: int) -> LoadOptions:
    """The options with as many threads as a worker has cores, unless threads are given."""
    supported = choose_engine(model).spec.option_fields
    if options.threads is not None or "threads" not in supported:
        return options
    return replace(options, threads=max(1, cores))


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """The models of a job in a worker process, and the calibration of its answers."""

    job: BatchJob
    engine: Engine
    pass_engines: Mapping[str, Engine]
    calibration: SavedCalibration | None

    def predict(self, records: Iterable[Record]) -> Iterator[Answer]:
        """Yield the answers for records, in order; they are those of `medtask.predict`."""
        task = self.job.task
        for answer in predict_uncalibrated(
            task, self.engine, records, window=self.job.window, pass_engines=self.pass_engines
        ):
            if self.calibration is None:
                yield answer
            else:
                yield calibrate_answer(task, answer, self.calibration.calibration)


def open_worker_model(job: BatchJob) -> WorkerModel:
    """The model of a job, which is loaded unless this process has it from the job before.

    A process keeps one model: memory may not be enough for two.
    """
    key = (job.model, job.options, tuple(_list_pass_models(job.task)), _list_files(job.model))
    if key not in _loaded_engines:
        while _loaded_engines:
            for engine in _loaded_engines.popitem()[1]:
                engine.close()
        pass_engines = load_pass_engines(job.task, allow_remote=job.options.allow_remote)
        _loaded_engines[key] = (load_model(job.model, job.options), *pass_engines.values())
    engine, *others = _loaded_engines[key]
    pass_engines = dict(zip(_list_pass_models(job.task), others, strict=True))
    check_engines(job.task, engine, pass_engines)
    saved = None
    if job.calibrated:
        identity = identify_model(engine, pass_engines)
        saved, _ = find_calibration(job.task, identity, beside_task=job.calibrations)
    return WorkerModel(job, engine, pass_engines, saved)


def _list_pass_models(task: Task) -> list[str]:
    return list(dict.fromkeys(one.model for one in task.passes if one.model is not None))


def _list_files(model: str) -> tuple[tuple[str, int, int], ...]:
    """Sizes and times of the files of a model folder: it may be replaced by another model."""
    folder = Path(model)
    if not folder.is_dir():
        return ()
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def answer_batches(
    model: WorkerModel, batches: Iterable[pa.RecordBatch | pa.Table]
) -> Iterator[pa.Table]:
    """Yield the rows of the batches with their answers, in order, a window at a time.

    Rows are answered in windows that do not depend on the sizes of the batches.
    """
    waiting: deque[pa.Table] = deque()
    with guard_network(model.engine, *model.pass_engines.values()):
        answers = model.predict(_read_batches(model.job, batches, waiting))
        rows: list[list[object]] = []
        names = [column.name for column in model.job.output_columns]
        try:
            for answer in answers:
                rows.append([get_cell(name, answer) for name in names])
                if len(rows) == waiting[0].num_rows:
                    yield _add_answers(model.job, waiting.popleft(), rows)
                    rows = []
        except MedtaskError as error:
            error.add_note(f"fix: {error.fix}")  # Spark and Ray show the traceback only
            raise


def _read_batches(
    job: BatchJob, batches: Iterable[pa.RecordBatch | pa.Table], waiting: deque[pa.Table]
) -> Iterator[Record]:
    """Yield the records of all batches; parts of them are added to ``waiting`` before."""
    import pyarrow as pa

    numbered = replace(job.task, id_column=None)
    ids: set[str] = set()
    row = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        for start in range(0, table.num_rows, job.window):
            waiting.append(table.slice(start, job.window))
            for record in read_records(numbered, read_table(waiting[-1])):
                if row % job.window == 0:
                    ids.clear()
                row += 1
                yield _name_record(job.task, record, row, ids)


def _name_record(task: Task, record: Record, row: int, ids: set[str]) -> Record:
    """The record with its own id, or with its row if that is blank or not unique in the window.

    A whole table is refused for such ids. Here they are not read after the answer, and one row
    must not end a job of many hours.
    """
    cell = record.fields.get(task.id_column) if task.id_column else None
    name = read_key(cell) or f"row {row}"
    if name in ids:
        name = f"row {row}: {name}"
    ids.add(name)
    return replace(record, id=name)


def _add_answers(job: BatchJob, part: pa.Table, rows: Sequence[Sequence[object]]) -> pa.Table:
    import pyarrow as pa

    answers = make_arrow_table(job.output_columns, rows)
    names = [job.columns[name] for name in part.column_names]
    return pa.Table.from_arrays(
        [*part.columns, *answers.columns], names=[*names, *answers.column_names]
    )

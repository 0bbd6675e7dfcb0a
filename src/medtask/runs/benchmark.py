"""`medtask.benchmark`: the speed and memory of models on a task, by batch size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtask.engines.base import BatchSetting, Engine
from medtask.engines.files.model_files import BUILT_IN_MODEL
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.registry import load_model
from medtask.errors import TableError, UsageError
from medtask.evaluation.report.benchmark_picture import SpeedCurve, check_picture, draw_curves
from medtask.prediction.asking import check_engine
from medtask.records import Prompt
from medtask.runs.batch_measurements import BatchSpeed, measure_sizes, select_by_length
from medtask.runs.batch_sizes import choose_batch_size, generates, keep_batch_size
from medtask.runs.manifest import guard_network
from medtask.runs.run_estimate import (
    PromptTokens,
    count_prompt_tokens,
    drop_repeated,
    estimate_seconds,
    time_prompts,
)
from medtask.runs.run_setup import refuse_remote_phi
from medtask.runs.signals import Interrupted, catch_signals
from medtask.tables.read import read_table, validate_table
from medtask.tables.repeated_ids import resolve_repeated_ids
from medtask.tables.table import Table
from medtask.tasks.dataset_statistics import (
    SAMPLE_PROMPTS,
    DatasetStatistics,
    collect_statistics,
)
from medtask.tasks.rows import read_records, require_columns, require_extras
from medtask.tasks.task import Task

MEASURED_SECONDS = 8.0  # without a number of rows, one measurement takes about as long
_PILOT_ROWS = 8

NoteCallback = Callable[[str], None]


@dataclass(slots=True)
class ModelBenchmark:
    """The measurements of one model.

    Attributes:
        model: The title of the model.
        reference: The reference by which it was named.
        unit: What batch sizes count: "tokens" of one forward pass, or "rows"; None if there is
            nothing to choose.
        default: The batch size that the engine uses without a measurement.
        rows: The rows that were measured.
        prompts: The prompts of the table that a run asks: distinct, and not too long.
        run_tokens: The tokens that a run reads; None if the engine does not count them.
        points: The speed of each batch size, in ascending order.
        chosen: The batch size that runs of this task use on this machine.
        run_seconds: The expected time of a run with that size.
    """

    model: str
    reference: str
    unit: str | None
    default: int | None
    rows: int
    prompts: int
    run_tokens: float | None
    points: list[BatchSpeed] = field(default_factory=list)
    chosen: int | None = None
    run_seconds: float | None = None

    def add_point(self, point: BatchSpeed) -> None:
        """Add a measurement."""
        by_size = {one.size: one for one in self.points}
        by_size[point.size] = by_size[point.size].add(point) if point.size in by_size else point
        self.points = [by_size[size] for size in sorted(by_size, key=lambda size: size or 0)]

    def to_json(self) -> dict[str, Any]:
        """The measurements as plain values."""
        return {
            "model": self.model,
            "reference": self.reference,
            "unit": self.unit,
            "default": self.default,
            "chosen": self.chosen,
            "rows": self.rows,
            "points": [point.to_json() for point in self.points],
            "run": {
                "prompts": self.prompts,
                "tokens": None if self.run_tokens is None else round(self.run_tokens),
                "seconds": None if self.run_seconds is None else round(self.run_seconds, 1),
            },
        }


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The result of `medtask.benchmark`.

    Attributes:
        task: The name of the task.
        table: The name of the table.
        table_rows: The rows of the table.
        models: The measurements of each model.
        exit_code: 0; 130 or 143 after a signal, with what was measured before.
        report: The picture; None if none was requested.
    """

    task: str
    table: str
    table_rows: int
    models: tuple[ModelBenchmark, ...]
    exit_code: int = 0
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON document that ``medtask bench --json`` prints; it contains no record text."""
        return {
            "task": self.task,
            "table": self.table,
            "rows": self.table_rows,
            "complete": self.exit_code == 0,
            "models": [model.to_json() for model in self.models],
        }


def benchmark(
    task: Task,
    table: object,
    *,
    models: Sequence[str | Engine] | None = None,
    rows: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    load_options: LoadOptions = DEFAULT_OPTIONS,
    progress: NoteCallback | None = None,
) -> Benchmark:
    """Measure the speed and memory of models on a task, by batch size.

    The same rows are asked with each batch size, in several rounds. Later runs of this task with
    this model on this machine use the size that is chosen. A signal ends the measurements; the
    result has those made before.

    Args:
        task: The task.
        table: A path, a table, or any other input of `read_table`.
        models: References of models, or models; by default the task's model.
        rows: How many rows are measured; by default as many as take about 8 seconds.
        seed: Seed of the selection of rows, in which short and long rows are represented.
        out: The picture to write: a name that ends in .svg or .png.
        load_options: Options of loading the models.
        progress: Called with each measurement, as a line of text.

    Returns:
        The measurements of each model, and the expected time of a run.

    Raises:
        UsageError: ``out`` is not a valid name of a picture, or ``rows`` is not valid.
        MissingExtra: matplotlib, which draws the picture, is not installed.
        TaskFaults: The task uses columns that are missing in the table.
        TableError: The table cannot be read, or has no row that can be asked.
        EngineError: A model cannot be loaded or cannot answer.

    Example:
        >>> result = medtask.benchmark(task, "procedures.csv", models=["minilm"])
        >>> result.models[0].run_seconds
    """
    picture = Path(out) if out else None
    if picture:
        check_picture(picture)
    if rows is not None and not 1 <= rows <= SAMPLE_PROMPTS:
        raise UsageError(
            f"{rows:,} rows cannot be measured", fix=f"use a number from 1 to {SAMPLE_PROMPTS}"
        )
    refuse_remote_phi(task, allow_remote=load_options.allow_remote)
    opened = read_table(table)
    statistics = _collect_statistics(task, opened)
    bench = _Measuring(task, statistics, rows, seed, progress or (lambda line: None))
    exit_code = 0
    with catch_signals() as signals:
        try:
            for model in models or [task.model or BUILT_IN_MODEL]:
                bench.add_model(model, load_options)
        except (Interrupted, Exception) as error:
            exit_code = signals.find_exit_code(error)
            if not exit_code:
                raise
    measured = tuple(one for one in bench.results if one.points)
    if picture and measured:
        draw_curves(task.name, [_make_curve(one) for one in measured], picture)
    return Benchmark(
        task.name,
        opened.source,
        statistics.rows,
        measured,
        exit_code,
        picture if measured else None,
    )


def _collect_statistics(task: Task, table: Table) -> DatasetStatistics:
    require_columns(task, table)
    table = resolve_repeated_ids(table, task.id_column)
    survey = validate_table(table, task.id_column, can_resolve=True)
    require_extras(task, table)
    statistics = DatasetStatistics(survey.rows, selects_examples=task.pool is not None)
    for _ in collect_statistics(task, read_records(task, table), statistics):
        pass
    if not statistics.sample:
        raise TableError(
            f"{table.source} has no row with a usable text",
            fix="check the columns that the task's input uses",
        )
    return statistics


@dataclass(slots=True)
class _Measuring:
    """The work of `benchmark`. ``results`` grows with each measurement, so that an interruption
    leaves those made before.
    """

    task: Task
    statistics: DatasetStatistics
    rows: int | None
    seed: int
    report: NoteCallback
    results: list[ModelBenchmark] = field(default_factory=list)

    def add_model(self, model: str | Engine, options: LoadOptions) -> None:
        """Load and measure a model."""
        with ExitStack() as stack:
            if isinstance(model, Engine):
                engine, reference = model, model.info.identity.get("model", model.info.name)
            else:
                self.report(f"Loading {model}")
                with redirect_stdout(sys.stderr):
                    engine, reference = load_model(model, options), model
                stack.enter_context(closing(engine))
            check_engine(self.task, engine)
            stack.enter_context(guard_network(engine))
            self._measure(engine, reference)

    def _measure(self, engine: Engine, reference: str) -> None:
        setting = engine.get_batch_setting(generates=generates(self.task))
        tokens = count_prompt_tokens(self.task, engine, self.statistics)
        prompts = self._select_prompts(engine, tokens)
        result = ModelBenchmark(
            engine.info.title,
            reference,
            setting.unit if setting else None,
            setting.size if setting else None,
            len(prompts),
            tokens.prompts if tokens else self.statistics.count_distinct_prompts(),
            tokens.run_tokens if tokens else None,
        )
        self.results.append(result)

        def add_point(point: BatchSpeed) -> None:
            result.add_point(point)
            self.report(f"{result.model}: {point.describe(result.unit)}")

        measure_sizes(self.task, engine, setting, prompts, add_point)
        self._choose(engine, setting, tokens, result)

    def _select_prompts(
        self, engine: Engine, tokens: PromptTokens | None
    ) -> list[tuple[Prompt, int]]:
        """The prompts to measure, with their own tokens; those that are too long are left out."""
        sample = self.statistics.sample
        prompts = tokens.readable if tokens else [(prompt, 0) for prompt in drop_repeated(sample)]
        if not prompts:
            raise TableError(
                f"{engine.info.title} cannot read any row of the sample whole",
                fix="use a model that reads longer prompts",
            )
        if self.rows is not None:
            return select_by_length(prompts, self.rows, self.seed)
        pilot = [prompt for prompt, _ in select_by_length(prompts, _PILOT_ROWS, self.seed)]
        time_prompts(self.task, engine, pilot)  # the first rows take longer
        speed = time_prompts(self.task, engine, pilot)
        rows = round(MEASURED_SECONDS * speed.rows / max(speed.seconds, 1e-6))
        return select_by_length(prompts, min(max(rows, _PILOT_ROWS), SAMPLE_PROMPTS), self.seed)

    def _choose(
        self,
        engine: Engine,
        setting: BatchSetting | None,
        tokens: PromptTokens | None,
        result: ModelBenchmark,
    ) -> None:
        if setting:
            speeds = {point.size or 0: point.rows_per_s for point in result.points}
            result.chosen = choose_batch_size(speeds, setting.size)
            keep_batch_size(self.task, engine, setting, result.chosen)
        used = next(point for point in result.points if point.size == result.chosen)
        result.run_seconds = estimate_seconds(self.task, used.speed, result.prompts, tokens)


def _make_curve(result: ModelBenchmark) -> SpeedCurve:
    return SpeedCurve(
        name=result.model,
        unit=result.unit,
        sizes=[point.size or 1 for point in result.points],
        rows_per_s=[point.rows_per_s for point in result.points],
        memory_bytes=[point.peak_bytes for point in result.points],
        chosen=result.chosen,
    )

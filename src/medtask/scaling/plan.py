"""The plan of a run in shards: ``plan.json`` in the run folder, which every process reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, PositiveInt

from medtask.atomic_files import make_private_folder, replace_text
from medtask.display import format_path
from medtask.engines.load_options import LoadOptions
from medtask.errors import InputError, RunMismatch, StorageError, UsageError
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.runs.manifest import format_differences, get_timestamp, identify_task
from medtask.runs.run_setup import RunOptions
from medtask.scaling.shards import MAX_SHARDS, Shard, ShardFolder, split_rows
from medtask.tables.binary_files import FileState, accept_inspected, get_file_state
from medtask.tables.read import read_table
from medtask.tables.read_options import ReadOptions
from medtask.tables.repeated_ids import resolve_repeated_ids
from medtask.tables.table import Table
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

PLAN_FILE, SHARDS_FOLDER = "plan.json", "shards"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """The table of a plan.

    Attributes:
        sources: The files, or the folder, as absolute paths.
        options: How they are read; see `ReadOptions.to_values`.
        sha256: The table's digest.
        files: Path, size in bytes and time of the last change (ns) of each file.
    """

    sources: tuple[str, ...]
    options: Mapping[str, Any]
    sha256: str
    files: tuple[FileState, ...]

    def open(self) -> Table:
        """Open the table.

        Raises:
            TableError: A file is not found or cannot be read.
        """
        accept_inspected(self.files)  # when the run was planned
        source = self.sources[0] if len(self.sources) == 1 else list(self.sources)
        return read_table(source, ReadOptions(**self.options))

    def find_digest(self, table: Table) -> str:
        """The digest of the table as it is; files that look unchanged are not read again."""
        return self.sha256 if _list_files(table) == self.files else table.digest()


@dataclass(frozen=True, slots=True)
class PlannedOptions:
    """The options of a run that its plan keeps; see `medtask.run`."""

    limit: int | None = None
    gold: str | None = None
    formats: tuple[str, ...] | None = None
    max_error_rate: float = 0.05
    calibrated: bool = True
    baselines: bool = True
    wide: bool = False

    def to_run_options(self, out: Path, *, allow_remote: bool = False) -> RunOptions:
        return RunOptions(
            out=out,
            limit=self.limit,
            gold_column=self.gold,
            formats=self.formats,
            max_error_rate=self.max_error_rate,
            calibrated=self.calibrated,
            baselines=self.baselines,
            wide=self.wide,
            allow_remote=allow_remote,
        )


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run in shards.

    Attributes:
        folder: The run folder.
        task: The task file.
        table: The table.
        model: The model's reference.
        load_options: The options with which each process loads the model.
        options: The options of the run.
        identity: The task and the table as facts that must not change; see `identify_task`.
        shards: The shards, in order.
        created: When the plan was made, in UTC.
    """

    folder: Path
    task: str
    table: PlannedTable
    model: str
    load_options: LoadOptions
    options: PlannedOptions
    identity: Mapping[str, str]
    shards: tuple[Shard, ...]
    created: str = field(default_factory=get_timestamp)

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    def describe(self) -> dict[str, str]:
        """The facts that must be equal when the same call continues the run."""
        return {
            **self.identity,
            "model": self.model,
            "model options": json.dumps(self.load_options.to_values(), sort_keys=True),
            "options": json.dumps(asdict(self.options), sort_keys=True),
            "shards": str(len(self.shards)),
        }

    def get_folder(self, number: int) -> ShardFolder:
        """The folder of a shard.

        Raises:
            UsageError: There is no shard with this number.
        """
        if not 1 <= number <= len(self.shards):
            raise UsageError(
                f"{self.folder} has no shard {number}",
                fix=f"give a number from 1 to {len(self.shards)}",
            )
        path = self.folder / SHARDS_FOLDER / f"{number:04d}"
        return ShardFolder(path, self.shards[number - 1])

    def list_folders(self) -> list[ShardFolder]:
        return [self.get_folder(shard.number) for shard in self.shards]

    def open(self) -> tuple[Task, Table]:
        """Load the task and open the table.

        Raises:
            RunMismatch: One of them is not the one that was planned.
            InputError: One of them cannot be read.
        """
        task = load_task(self.task)
        table = resolve_repeated_ids(self.table.open(), task.id_column)
        found = identify_task(task, self.table.find_digest(table))
        if listed := format_differences(self.identity, found):
            raise RunMismatch(
                f"the task or the table has changed since {self.folder} was planned:{listed}",
                fix="undo the change, or start again in another folder (--out)",
            )
        return task, table


def make_plan(
    folder: Path,
    task: Task,
    table: Table,
    model: tuple[str, LoadOptions],
    options: PlannedOptions,
    split: tuple[int, int],
) -> RunPlan:
    """Plan a run.

    Args:
        folder: The run folder.
        task: A task that was loaded from a file.
        table: A table of files.
        model: The model's reference, and the options with which it is loaded.
        options: The options of the run.
        split: How many rows are answered, and in how many shards.

    Raises:
        UsageError: Processes cannot open the task or the table, or the number of shards is not
            valid.
    """
    if task.source is None:
        raise UsageError(
            "the task has no file, and each process of the run loads the task",
            fix="write the task into a file, and load it with load_task",
        )
    if not table.paths:
        raise UsageError(
            "the table is in memory, and each process of the run opens the table",
            fix="write the rows to a Parquet file, and name the file",
        )
    digest = table.digest()
    sources = tuple(str(path.resolve()) for path in table.paths)
    return RunPlan(
        folder.resolve(),
        str(task.source.resolve()),
        PlannedTable(sources, table.options.to_values(), digest, _list_files(table)),
        *model,
        options,
        identify_task(task, digest),
        split_rows(*split),
    )


def write_plan(plan: RunPlan) -> None:
    """Write ``plan.json``, and make the folder of the shards."""
    content = {
        "format": FORMAT,
        "medtask": version("medtask"),
        "created": plan.created,
        "task": plan.task,
        "table": asdict(plan.table),
        "model": {"reference": plan.model, "options": plan.load_options.to_values()},
        "options": asdict(plan.options),
        "identity": dict(plan.identity),
        "shards": [[shard.first, shard.rows] for shard in plan.shards],
    }
    # A shard that makes its own folder would make this one with the mode of the umask.
    make_private_folder(plan.folder / SHARDS_FOLDER)
    replace_text(plan.folder / PLAN_FILE, json.dumps(content, indent=2) + "\n")


def find_plan(runs_folder: Path, plan: RunPlan) -> RunPlan | None:
    """The newest plan in a folder of runs that is the same run; None if there is none."""
    found = []
    if runs_folder.is_dir():
        for folder in runs_folder.iterdir():
            with suppress(StorageError):  # a run that cannot be read cannot be continued
                if has_plan(folder) and (known := read_plan(folder)).describe() == plan.describe():
                    found.append(known)
    return max(found, key=lambda known: known.created, default=None)


def has_plan(folder: Path) -> bool:
    """Whether a folder holds a run in shards."""
    return (folder / PLAN_FILE).is_file()


def read_plan(folder: Path) -> RunPlan:
    """Read the plan of a run folder.

    Raises:
        InputError: The folder has no plan.
        StorageError: The plan cannot be read, is damaged, or is of a later version.
    """
    path = folder / PLAN_FILE
    try:
        found = load_checked(path, _PlanFile)
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a run in shards: it has no {PLAN_FILE}",
            fix="name the folder that `medtask submit` or `medtask run --shards` printed",
        ) from None
    except InvalidJsonFile as error:
        raise StorageError(
            f"{format_path(path)} is damaged or cannot be read: {error}",
            fix="make it readable, or submit the run again in another folder (--out)",
        ) from None
    if found.format != FORMAT:
        raise StorageError(
            f"{format_path(path)} has format {found.format}, not {FORMAT}",
            fix="use the version of medtask that wrote it",
        )
    return RunPlan(
        folder.resolve(),
        found.task,
        found.table,
        found.model.reference,
        found.model.options,
        found.options,
        found.identity,
        tuple(Shard(number, *one) for number, one in enumerate(found.shards, 1)),
        found.created,
    )


class _PlannedModel(JsonContent):
    model_config = ConfigDict(strict=False, extra="forbid")

    reference: str
    options: LoadOptions


class _PlanFile(JsonContent):
    # Lists become tuples, and unknown options are refused.
    model_config = ConfigDict(strict=False, extra="forbid")

    format: int
    medtask: str = ""
    created: str
    task: str
    table: PlannedTable
    model: _PlannedModel
    options: PlannedOptions
    identity: dict[str, str]
    shards: list[tuple[PositiveInt, PositiveInt]] = Field(min_length=1, max_length=MAX_SHARDS)


def _list_files(table: Table) -> tuple[FileState, ...]:
    return tuple(map(get_file_state, table.paths))

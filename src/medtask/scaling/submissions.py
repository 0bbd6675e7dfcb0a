"""The jobs of a run: ``jobs.json`` in the run folder, and those of them in Slurm's queue."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from medtask.atomic_files import replace_text
from medtask.display import format_path
from medtask.errors import StorageError
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.scaling.slurm_jobs import list_jobs

JOBS_FILE = "jobs.json"


class _SubmittedJob(JsonContent):
    id: str
    shards: list[int]


class _JobsFile(JsonContent):
    jobs: list[_SubmittedJob]


def read_jobs(folder: Path) -> dict[str, frozenset[int]]:
    """The ids of the jobs that were submitted, with the shards that each answers.

    Raises:
        StorageError: The file cannot be read.
    """
    path = folder / JOBS_FILE
    try:
        return {one.id: frozenset(one.shards) for one in load_checked(path, _JobsFile).jobs}
    except FileNotFoundError:
        return {}
    except InvalidJsonFile as error:
        raise StorageError(
            f"{format_path(path)} cannot be read: {error}",
            fix="remove the file: it only serves `medtask status`",
        ) from None


def add_job(folder: Path, job: str, shards: Collection[int]) -> None:
    """Add a submitted job."""
    jobs = {**read_jobs(folder), job: frozenset(shards)}
    content = {"jobs": [{"id": name, "shards": sorted(one)} for name, one in jobs.items()]}
    replace_text(folder / JOBS_FILE, json.dumps(content) + "\n")


def read_queue(folder: Path) -> dict[int, tuple[str, str]] | None:
    """The shards that wait in Slurm's queue or run, with their state and the reason for waiting.

    None if Slurm does not answer here, or no job was submitted.
    """
    found = {
        job: (listed, numbers)
        for job, numbers in read_jobs(folder).items()
        if (listed := list_jobs(job)) is not None
    }
    if not found:
        return None
    return {
        int(shard): state
        for listed, numbers in found.values()
        for name, state in listed.items()
        if (shard := name.rpartition("_")[2]).isdigit() and int(shard) in numbers
    }

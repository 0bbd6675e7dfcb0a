"""The jobs of a run: ``jobs.json`` in the run folder."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from medtask.atomic_files import replace_text
from medtask.errors import StorageError

JOBS_FILE = "jobs.json"


def read_jobs(folder: Path) -> dict[str, frozenset[int]]:
    """The ids of the jobs that were submitted, with the shards that each answers.

    Raises:
        StorageError: The file cannot be read.
    """
    path = folder / JOBS_FILE
    try:
        content = json.loads(path.read_bytes())
        return {one["id"]: frozenset(one["shards"]) for one in content["jobs"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}",
            fix="remove the file: it only serves `medtask status`",
        ) from error


def add_job(folder: Path, job: str, shards: Collection[int]) -> None:
    """Add a submitted job."""
    jobs = {**read_jobs(folder), job: frozenset(shards)}
    content = {"jobs": [{"id": name, "shards": sorted(one)} for name, one in jobs.items()]}
    replace_text(folder / JOBS_FILE, json.dumps(content) + "\n")

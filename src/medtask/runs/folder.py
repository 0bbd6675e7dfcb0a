"""Run folders: creating a new one, or finding the one to resume."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from medtask.atomic_files import make_storage_error, raise_storage_errors
from medtask.engines.base import list_changed_facts
from medtask.errors import StorageError, UsageError
from medtask.os_errors import require_utf8
from medtask.runs.manifest import MANIFEST_FILE, read_manifest
from medtask.tasks.task import Task

_NAME_FORMAT = "%Y-%m-%d-%H%M"
_DATED_NAME = re.compile(r"(\d{4}-\d\d-\d\d)-(\d\d)(\d\d)(-\d+)?")


def open_run_folder(out: Path, *, new_run: bool = False) -> Path:
    """Create the folder, or check that it is a run folder or empty.

    With ``new_run``, the first unused name of OUT, OUT-2, OUT-3 ... is created. Raises UsageError
    if the folder holds something else, StorageError if it cannot be created.
    """
    with raise_storage_errors(out):
        if new_run:
            out = next(
                candidate
                for candidate in _list_candidate_folders(out)
                if not candidate.exists() or _is_empty(candidate)
            )
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out} is a file", fix="give a folder with --out")
        _make_folder(out)
        if not (out / MANIFEST_FILE).exists() and not _is_empty(out):
            raise UsageError(
                f"{out} contains files and is not a run folder",
                fix="give an empty or a new folder with --out",
            )
    return out


def open_runs_folder(task: Task) -> Path:
    """The folder of all runs of a task: next to its file, or in the current folder without one."""
    runs_folder = (task.source.parent if task.source else Path()) / "runs"
    _make_folder(runs_folder)
    return runs_folder


def find_runs(
    runs_folder: Path,
    select_facts: Callable[[Mapping[str, str]], tuple[Mapping[str, str], Mapping[str, str]]],
) -> list[Path]:
    """The runs in ``runs_folder`` with equal facts, newest first.

    ``select_facts`` returns the facts of a run's identity to compare, and those that are wanted.
    """
    found = []
    for candidate in runs_folder.iterdir():
        with suppress(StorageError):  # a run that cannot be read cannot be resumed
            manifest = read_manifest(candidate) if candidate.is_dir() else None
            if manifest and not list_changed_facts(*select_facts(manifest["identity"])):
                found.append((manifest["created"], candidate))
    return [folder for _, folder in sorted(found, reverse=True)]


def parse_run_time(name: str) -> str | None:
    """The time, such as "2026-11-29 14:05", of a folder named by `create_run_folder`, or None."""
    found = _DATED_NAME.fullmatch(name)
    return f"{found[1]} {found[2]}:{found[3]}{found[4] or ''}" if found else None


def create_run_folder(runs_folder: Path) -> Path:
    """Create a folder named after the current minute; the name is unique across processes."""
    name = datetime.now().astimezone().strftime(_NAME_FORMAT)
    for candidate in _list_candidate_folders(runs_folder / name):
        try:
            candidate.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise make_storage_error(candidate, error) from error
        return candidate
    raise AssertionError("the names do not end")


def _list_candidate_folders(first: Path) -> Iterator[Path]:
    return chain([first], (first.with_name(f"{first.name}-{number}") for number in count(2)))


def _is_empty(folder: Path) -> bool:
    """Whether a folder has no visible files; a run killed at its start leaves only hidden ones."""
    return folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir())


def _make_folder(folder: Path) -> None:
    require_utf8(folder.absolute())
    with raise_storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

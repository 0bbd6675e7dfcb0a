"""What is told of a run or an evaluation that has finished: its facts and figures, and no text of a
record.

A tracking store is read by more people than a run's folder is, and kept longer. So only what is on
the lists below goes there: neither the tables of answers nor the report, both of which show
records; no command line and no path of a table, which may name patients; no prompt and no example.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

MAX_METRICS = 1000  # told of one run: what MLflow takes in one call
MAX_NAME_CHARACTERS = 200  # characters of a figure's name

# Of the manifest: what ran and on what, not what was asked of whom.
_MANIFEST_KEYS = (
    *(
        "format",
        "state",
        "medtask",
        "created",
        "finished",
        "model",
        "caps",
        "models_of_passes",
        "hardware",
        "egress",
        "versions",
    ),
    *("timing", "counts", "settings"),
)


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """One finished run, evaluation or training.

    ``experiment``: the task's name; ``name``: the run's. ``parameters`` do not change when the same
    is done again, ``metrics`` may. ``documents``: by file name, JSON without record text. ``key``:
    the same for the same run, so that it is not told twice.
    """

    experiment: str
    name: str
    verb: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    documents: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    omitted_metrics: int = 0

    @property
    def key(self) -> str:
        facts = [
            self.experiment,
            self.name,
            self.verb,
            self.folder,
            sorted(self.parameters.items()),
        ]
        return sha256(json.dumps(facts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TrackingRecord:
    """What a verb has done, before it is reduced to what a tracker may receive.

    Attributes:
        verb: The verb, such as "run".
        task: The name of the task.
        name: The name of the run.
        document: What the verb prints with ``--json``.
        manifest: The manifest of the run; empty for the answers of another tool.
        settings: Options of the verb that the manifest does not have; no path among them.
        folder: The run folder.
    """

    verb: str
    task: str
    name: str
    document: Mapping[str, Any]
    manifest: Mapping[str, Any]
    settings: Mapping[str, object] | None = None
    folder: Path | None = None


def build_tracked_run(
    record: TrackingRecord, *, folder: str = "", metrics_only: bool = False
) -> TrackedRun:
    """Returns what a tracker receives of a record.

    Without a manifest the answers are another tool's, whose labels nobody has declared: then, and
    with ``metrics_only``, only metrics are sent, without those of single labels and without
    documents.
    """
    document, manifest = record.document, record.manifest
    metrics_only = metrics_only or not manifest
    metrics = _flatten_metrics(document, metrics_only)
    kept_metrics = dict(list(metrics.items())[:MAX_METRICS])
    documents = (
        {}
        if metrics_only
        else {
            "manifest.json": _format_manifest(manifest),
            f"{record.verb}.json": _format_value(_drop_texts(document)),
        }
    )
    extra_parameters = {
        _clean_name(name): _format_value(fact)
        for name, fact in (record.settings or {}).items()
        if fact is not None
    }
    parameters = {
        "verb": record.verb,
        **_list_parameters(manifest, metrics_only),
        **extra_parameters,
    }
    return TrackedRun(
        record.task,
        record.name,
        record.verb,
        parameters,
        kept_metrics,
        documents,
        "" if metrics_only else folder,
        len(metrics) - len(kept_metrics),
    )


def _list_parameters(manifest: Mapping[str, Any], metrics_only: bool) -> dict[str, str]:
    if not manifest:
        return {}
    identity, task, model = (
        manifest.get("identity", {}),
        manifest.get("task", {}),
        manifest.get("model", {}),
    )
    facts: dict[str, object] = {
        "medtask": manifest.get("medtask"),
        "task.fingerprint": task.get("fingerprint"),
    }
    facts |= {
        "task.kind": identity.get("task.kind"),
        "model": model.get("title"),
        "engine": model.get("name"),
    }
    if not metrics_only:
        facts |= {f"model.{name}": fact for name, fact in model.get("identity", {}).items()}
        facts |= {"data.sha256": identity.get("data.sha256")}
        facts |= {f"settings.{name}": fact for name, fact in manifest.get("settings", {}).items()}
    return {
        _clean_name(name): _format_value(fact) for name, fact in facts.items() if fact is not None
    }


def _flatten_metrics(document: Mapping[str, Any], metrics_only: bool) -> dict[str, float]:
    """Numbers by the path of their keys; an estimate as its value, and its interval and n below
    that.
    """
    found: dict[str, float] = {}
    numbers = list(_iter_numbers(document.get("metrics"), (), 2 if metrics_only else 99))
    numbers += (
        []
        if metrics_only
        else _iter_numbers(
            {name: value for name, value in document.items() if name != "metrics"}, (), 99
        )
    )
    for path, number in sorted(
        numbers, key=lambda one: len(one[0])
    ):  # those of the whole before those of single labels
        name = _clean_name(".".join(path[:-1] if path[-1] == "value" else path))
        while name in found:
            name += "_"
        found[name] = number
    return found


def _iter_numbers(
    value: object, path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items() if depth else ():
            yield from _iter_numbers(inner, (*path, str(key)), depth - 1)
    elif (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and path
    ):
        yield path, float(value)


def _drop_texts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without sentences and places: notes name files, and what is a list may be cases."""
    return {
        name: inner
        for name, inner in ((name, _keep_numbers(value)) for name, value in document.items())
        if inner is not None
    }


def _keep_numbers(value: object) -> Any:
    if isinstance(value, Mapping):
        return _drop_texts(value) or None
    return value if isinstance(value, int | float | bool) else None


def _format_manifest(manifest: Mapping[str, Any]) -> str:
    kept = {name: manifest[name] for name in _MANIFEST_KEYS if name in manifest}
    task, identity = manifest.get("task", {}), manifest.get("identity", {})
    kept |= {
        "task": {fact: task.get(fact) for fact in ("name", "fingerprint")},
        "data": {"sha256": identity.get("data.sha256")},
    }
    return _format_value(kept)


def _format_value(value: object) -> str:
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, indent=2 if isinstance(value, Mapping) else None, default=str)
    )


def _clean_name(name: str) -> str:
    """A name that stores take: MLflow reads "/" as a folder and refuses most marks."""
    return re.sub(r"[^\w\-. :]", "_", name).strip()[:MAX_NAME_CHARACTERS] or "_"

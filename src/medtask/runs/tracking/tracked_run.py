"""The facts and metrics of a finished run that tracking receives, without record text.

More people can read a tracking store than a run folder, and it is kept longer. Only the fields
listed below are sent: no answer tables and no report (both show records), no command line and no
table path (which may name patients), no prompts and no examples.
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

MAX_METRICS = 1000  # per run: the maximum of one MLflow call
MAX_NAME_CHARACTERS = 200  # characters of a metric's name

# Manifest keys about software and hardware, not about the task's content or the records.
_MANIFEST_KEYS = (
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
    "timing",
    "counts",
    "settings",
)


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """One finished run, evaluation or training.

    Attributes:
        experiment: The name of the task.
        name: The name of the run.
        verb: The command.
        parameters: Facts that are equal when the same is done again.
        metrics: Numbers, which may differ when the same is done again.
        documents: JSON without record text, by file name.
        folder: The name of the run folder.
        omitted_metrics: How many metrics exceeded the limit.
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
    """A finished command, before it is reduced to what a tracker may receive.

    Attributes:
        verb: The command, such as "run".
        task: The name of the task.
        name: The name of the run.
        document: The document that the command prints with ``--json``.
        manifest: The manifest of the run; empty for another tool's answers.
        settings: Options of the command that the manifest does not have, without paths.
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
    """The facts and metrics of a record that a tracker receives.

    Without a manifest (answers of another tool, whose labels may be record text) and with
    ``metrics_only``, only overall metrics are kept: none of single labels, and no documents.
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
    parameters = {
        "verb": record.verb,
        **_format_facts(_list_facts(manifest, metrics_only) if manifest else {}),
        **_format_facts(record.settings or {}),
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


def _list_facts(manifest: Mapping[str, Any], metrics_only: bool) -> dict[str, object]:
    identity, model = manifest.get("identity", {}), manifest.get("model", {})
    facts: dict[str, object] = {
        "medtask": manifest.get("medtask"),
        "task.fingerprint": manifest.get("task", {}).get("fingerprint"),
        "task.kind": identity.get("task.kind"),
        "model": model.get("title"),
        "engine": model.get("name"),
    }
    if not metrics_only:
        facts |= {f"model.{name}": fact for name, fact in model.get("identity", {}).items()}
        facts |= {"data.sha256": identity.get("data.sha256")}
        facts |= {f"settings.{name}": fact for name, fact in manifest.get("settings", {}).items()}
    return facts


def _format_facts(facts: Mapping[str, object]) -> dict[str, str]:
    return {
        _clean_name(name): _format_value(fact) for name, fact in facts.items() if fact is not None
    }


def _flatten_metrics(document: Mapping[str, Any], metrics_only: bool) -> dict[str, float]:
    """Numbers by their dotted path; an estimate by its own path, its interval and n below it."""
    found: dict[str, float] = {}
    numbers = list(_iter_numbers(document.get("metrics"), (), 2 if metrics_only else 99))
    if not metrics_only:
        others = {name: value for name, value in document.items() if name != "metrics"}
        numbers += _iter_numbers(others, (), 99)
    # Overall metrics come before those of single labels.
    for path, number in sorted(numbers, key=lambda one: len(one[0])):
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
    """The document's numbers only: notes name files, and lists may contain records."""
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
    """A valid metric name: MLflow reads "/" as a folder and rejects most punctuation."""
    return re.sub(r"[^\w\-. :]", "_", name).strip()[:MAX_NAME_CHARACTERS] or "_"

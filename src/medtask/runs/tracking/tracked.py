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
from typing import Any

FIGURES = 1000  # told of one run: what MLflow takes in one call
LONGEST = 200  # characters of a figure's name

# Of the manifest: what ran and on what, not what was asked of whom.
_MANIFEST = (
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
class Tracked:
    """One finished run, evaluation or training.

    ``experiment``: the task's name; ``name``: the run's. ``parameters`` do not change when the same
    is done again, ``figures`` may. ``documents``: by file name, JSON without record text. ``key``:
    the same for the same run, so that it is not told twice.
    """

    experiment: str
    name: str
    verb: str
    parameters: Mapping[str, str]
    figures: Mapping[str, float]
    documents: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    left_out: int = 0

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


def describe(
    verb: str,
    task: str,
    name: str,
    document: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    settings: Mapping[str, object] | None = None,
    folder: str = "",
    bare: bool = False,
) -> Tracked:
    """What is told of a ``document`` (what the verb prints with --json) and the ``manifest`` of the
    run that it is about.

    ``settings``: of the verb, where the manifest does not have them; no path among them.

    Without a manifest the answers are another tool's, whose labels nobody has declared: then, and
    with ``bare``, figures are told alone, without those of single labels and without documents.
    """
    bare = bare or not manifest
    figures = _flatten(document, bare)
    shown = dict(list(figures.items())[:FIGURES])
    documents = (
        {}
        if bare
        else {"manifest.json": _write_manifest(manifest), f"{verb}.json": _write(_prune(document))}
    )
    more = {
        _clean(name): _write(fact) for name, fact in (settings or {}).items() if fact is not None
    }
    parameters = {"verb": verb, **_list_parameters(manifest, bare), **more}
    return Tracked(
        task,
        name,
        verb,
        parameters,
        shown,
        documents,
        "" if bare else folder,
        len(figures) - len(shown),
    )


def _list_parameters(manifest: Mapping[str, Any], bare: bool) -> dict[str, str]:
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
    if not bare:
        facts |= {f"model.{name}": fact for name, fact in model.get("identity", {}).items()}
        facts |= {"data.sha256": identity.get("data.sha256")}
        facts |= {f"settings.{name}": fact for name, fact in manifest.get("settings", {}).items()}
    return {_clean(name): _write(fact) for name, fact in facts.items() if fact is not None}


def _flatten(document: Mapping[str, Any], bare: bool) -> dict[str, float]:
    """Numbers by the path of their keys; an estimate as its value, and its interval and n below
    that.
    """
    found: dict[str, float] = {}
    numbers = list(_walk(document.get("metrics"), (), 2 if bare else 99))
    numbers += (
        []
        if bare
        else _walk({name: value for name, value in document.items() if name != "metrics"}, (), 99)
    )
    for path, number in sorted(
        numbers, key=lambda one: len(one[0])
    ):  # those of the whole before those of single labels
        name = _clean(".".join(path[:-1] if path[-1] == "value" else path))
        while name in found:
            name += "_"
        found[name] = number
    return found


def _walk(
    value: object, path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items() if depth else ():
            yield from _walk(inner, (*path, str(key)), depth - 1)
    elif (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and path
    ):
        yield path, float(value)


def _prune(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without sentences and places: notes name files, and what is a list may be cases."""
    return {
        name: inner
        for name, inner in ((name, _keep(value)) for name, value in document.items())
        if inner is not None
    }


def _keep(value: object) -> Any:
    if isinstance(value, Mapping):
        return _prune(value) or None
    return value if isinstance(value, int | float | bool) else None


def _write_manifest(manifest: Mapping[str, Any]) -> str:
    kept = {name: manifest[name] for name in _MANIFEST if name in manifest}
    task, identity = manifest.get("task", {}), manifest.get("identity", {})
    kept |= {
        "task": {fact: task.get(fact) for fact in ("name", "fingerprint")},
        "data": {"sha256": identity.get("data.sha256")},
    }
    return _write(kept)


def _write(value: object) -> str:
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, indent=2 if isinstance(value, Mapping) else None, default=str)
    )


def _clean(name: str) -> str:
    """A name that stores take: MLflow reads "/" as a folder and refuses most marks."""
    return re.sub(r"[^\w\-. :]", "_", name).strip()[:LONGEST] or "_"

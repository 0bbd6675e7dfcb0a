"""Calibrations that were fitted on gold: kept beside the task, found again for the same task and
model, applied to answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medtask.data.atomic import replace_text
from medtask.decision.decide import apply_shares
from medtask.errors import InputError
from medtask.records import Answer
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluate.calibration import Calibration

NAME = "calibration.json"
FORMAT = 1
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Kept:
    """A calibration as it stands in a file. ``task``: the fingerprint of the question, ``model``:
    the identity of who answered it; it holds for these alone. ``title``: of the model. ``run``: the
    answers that it was fitted on, ``fitted``: when.
    """

    calibration: Calibration
    task: str
    model: Mapping[str, str]
    title: str
    run: str
    fitted: str

    def tell(self) -> dict[str, Any]:
        """What the manifest of a run says of it."""
        return {"fitted": self.fitted, "on": self.run, **self.calibration.to_json()}


def warn_of_reuse(applied: Mapping[str, Any] | None, run: str) -> str:
    """What is to be told where a calibration that can change the order of rows has seen the gold by
    which they are graded; else "".

    ``applied``: what the manifest says of it. A temperature alone leaves the order as it is.
    """
    if not applied or applied.get("method") == "temperature" or applied.get("on") != run:
        return ""
    return (
        "the probabilities were calibrated on this run's own gold, on which its figures and any "
        "promise about accepted rows rest too: "
        "they may be too good; for strict ones use other gold rows, or run with --uncalibrated"
    )


def locate_calibrations(task: Task) -> Path | None:
    """The file beside the task's own; None for a task that has none."""
    return task.source.parent / NAME if task.source else None


def keep_calibration(path: Path, kept: Kept) -> None:
    """Add it to a file, in the place of an earlier one of the same task and model; the file is its
    owner's only.
    """
    others = [one for one in _read(path) if (one.task, one.model) != (kept.task, kept.model)]
    document = {"format": FORMAT, "calibrations": [_write(one) for one in (*others, kept)]}
    replace_text(path, json.dumps(document, indent=2) + "\n")


def find_calibration(task: Task, model: Mapping[str, str]) -> tuple[Kept | None, str]:
    """The calibration of this very task and model, beside the task or else in the model's own
    folder (training fits one); else None, and a note where there are some beside the task, but none
    of it.
    """
    path = locate_calibrations(task)
    kept = _read(path) if path else []
    folder = Path(model.get("model.model", ""))
    match = _match(kept, task, model) or (
        _match(_read(folder / NAME), task, model) if folder.is_dir() else None
    )
    if match or not kept:
        return match, ""
    why = (
        "of another model"
        if any(one.task == task.fingerprint for one in kept)
        else "of the task as it was before"
    )
    return None, f"{path} holds calibrations {why}: probabilities are the model's own"


def _match(kept: Sequence[Kept], task: Task, model: Mapping[str, str]) -> Kept | None:
    return next(
        (one for one in kept if one.task == task.fingerprint and _know(one.model) == _know(model)),
        None,
    )


def _know(model: Mapping[str, str]) -> Mapping[str, str]:
    """By what a model is known: where hashes say which one it is, its name does not matter, which
    changes with its folder's.
    """
    hashed = any(_HASH.fullmatch(fact) for fact in model.values())
    return {name: fact for name, fact in model.items() if not (hashed and name == "model.model")}


def model_facts(identity: Mapping[str, str]) -> dict[str, str]:
    """Of the facts that must not change while a run is resumed, those of who answers."""
    return {name: fact for name, fact in identity.items() if name.startswith("model.")}


def calibrate_answer(task: Task, answer: Answer, calibration: Calibration) -> Answer:
    """The answer by calibrated probabilities; as it is where its outcomes are not those of the
    calibration.
    """
    shares = answer.probabilities
    if shares is None or not shares.keys() <= set(calibration.labels):
        return answer
    row = np.array([[shares.get(name, np.nan) for name in calibration.labels]])
    calibrated = calibration.apply(row)[0].tolist()
    return apply_shares(
        task,
        answer,
        {
            name: share
            for name, share in zip(calibration.labels, calibrated, strict=True)
            if name in shares
        },
    )


def _read(path: Path) -> list[Kept]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}")
        return [_read_one(entry) for entry in document["calibrations"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        fix = "move the file aside; medtask evaluate RUN --calibrate writes it anew"
        raise InputError(
            f"{path} is no file of calibrations ({type(error).__name__})", fix=fix
        ) from error


def _read_one(entry: Mapping[str, Any]) -> Kept:
    from medtask.evaluate.calibration import read_calibration

    facts = {name: str(entry[name]) for name in ("task", "title", "run", "fitted")}
    return Kept(read_calibration(entry["calibration"]), model=dict(entry["model"]), **facts)


def _write(kept: Kept) -> dict[str, Any]:
    facts = {
        "task": kept.task,
        "model": dict(kept.model),
        "title": kept.title,
        "run": kept.run,
        "fitted": kept.fitted,
    }
    return {**facts, "calibration": kept.calibration.to_json()}

"""Baselines of a run: their time limit, and their predictions, which are kept in the run folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.atomic_files import replace_text
from medtask.errors import StorageError
from medtask.evaluation.baselines.context import (
    BASELINE_SECONDS,
    BaselineSettings,
    Predictions,
    ProgressListener,
)
from medtask.runs.session import Session
from medtask.runs.signals import Interrupted
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluation.report.run_summary import RunSummary
    from medtask.evaluation.statistics.significance import Baseline

BASELINES_FILE = "baselines.json"
MAX_SAMPLES = 8  # samples whose predictions a folder keeps
MAX_FILE_BYTES = 32_000_000


@dataclass(frozen=True, slots=True)
class KeptPredictions:
    """The predictions of baselines in run folders; they are written to the first one.

    The file has hashes, label names, letters and row numbers, and no text of a record. A file that
    is damaged, too large or a link counts as empty.
    """

    folders: Sequence[Path]

    def read(self, key: str) -> Predictions:
        for folder in self.folders:
            if sample := _read_samples(folder).get(key):
                return {
                    name: [tuple(one) if isinstance(one, list) else one for one in predictions]
                    for name, predictions in sample["methods"].items()
                }
        return {}

    def write(self, key: str, predictions: Predictions) -> None:
        if not self.folders:
            return
        samples = _read_samples(self.folders[0])
        samples.pop(key, None)
        methods = {name: list(one) for name, one in predictions.items()}
        samples[key] = {"sha256": _hash_methods(methods), "methods": methods}
        newest = dict(list(samples.items())[-MAX_SAMPLES:])
        # Without the file they are only computed again.
        with suppress(StorageError, OSError):
            self.folders[0].mkdir(mode=0o700, parents=True, exist_ok=True)
            document = {"format": 1, "samples": newest}
            replace_text(self.folders[0] / BASELINES_FILE, json.dumps(document) + "\n")


def make_baseline_settings(
    folders: Sequence[Path],
    timing: Mapping[str, Any],
    progress: ProgressListener | None,
    seed: int = 0,
) -> BaselineSettings:
    """Settings of the baselines of a run.

    Args:
        folders: Run folders that keep predictions.
        timing: The entry of the run's manifest: baselines may take as long as asking the model.
        progress: Receives the progress.
        seed: The seed.
    """
    asked = timing.get("asking_seconds", 0.0)
    seconds = max(BASELINE_SECONDS, asked if isinstance(asked, int | float) else 0.0)
    return BaselineSettings(seed, seconds, progress, KeptPredictions(folders))


def has_baselines(summary: RunSummary) -> bool:
    """Whether there are rows with gold and texts that baselines can be computed on."""
    return bool(summary.gold and summary.gold.sample.gold and any(summary.gold.sample.texts))


def evaluate_baselines(
    task: Task, summary: RunSummary, settings: BaselineSettings
) -> tuple[Baseline, ...]:
    """Simple methods on the rows with gold; empty if gold or texts are missing."""
    if not has_baselines(summary):
        return ()
    from medtask.evaluation.comparison.baselines import run_baselines

    assert summary.gold is not None
    return run_baselines(
        task.kind,
        summary.gold.sample,
        [(label.name, label.definition) for label in task.candidates],
        keywords=task.keywords,
        settings=settings,
    )


def compare_with_baselines(
    task: Task, session: Session, summary: RunSummary, timing: Mapping[str, Any]
) -> tuple[Baseline, ...]:
    """The baselines of a run whose answers are complete.

    After a signal these are the ones that were finished or take no time.
    """
    settings = make_baseline_settings([session.folder], timing, session.observer.on_baseline)
    try:
        return evaluate_baselines(task, summary, settings)
    except (Interrupted, Exception) as error:
        if not session.signals.find_exit_code(error):
            raise
    session.add_note(
        "a signal stopped the comparison with simple methods; the run is complete (the same "
        "command compares again, and asks nothing)"
    )
    return evaluate_baselines(task, summary, replace(settings, stopped="stopped by a signal"))


def _read_samples(folder: Path) -> dict[str, dict[str, Any]]:
    """The intact samples in a folder's file by key; empty if there is no valid file."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(folder / BASELINES_FILE, flags), "rb") as file:
            document = json.loads(file.read(MAX_FILE_BYTES))
        samples = dict(document["samples"]) if document["format"] == 1 else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return {key: sample for key, sample in samples.items() if _is_intact(sample)}


def _is_intact(sample: Any) -> bool:
    return (
        isinstance(sample, dict)
        and isinstance(methods := sample.get("methods"), dict)
        and all(isinstance(predictions, list) for predictions in methods.values())
        and sample.get("sha256") == _hash_methods(methods)
    )


def _hash_methods(methods: object) -> str:
    return hashlib.sha256(json.dumps(methods).encode()).hexdigest()

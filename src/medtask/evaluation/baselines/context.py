"""What baselines may spend, and the predictions that an earlier computation has kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, Protocol

from medtask.evaluation.statistics.significance import Baseline

BASELINE_SECONDS = 60.0
TFIDF_SHARE = 0.5  # of the time, if another method follows
_VERSION = 1  # of the methods; a change of their predictions needs a higher one

ProgressListener = Callable[[str, int, int], None]  # method, rows done, rows
Predictions = Mapping[str, Sequence[Any]]  # of the first rows of a sample, by method
# A baseline without metrics, and its answers or the reason why it has none. The answers of a guess
# are the probability that it is right.
BaselineAnswers = tuple[Baseline, Any]


def _ignore_rows(done: int) -> None: ...


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The time of one method.

    Attributes:
        seconds: A method that would take longer predicts the first rows only.
        on_rows: Receives the number of rows that are done.
    """

    seconds: float = math.inf
    on_rows: Callable[[int], None] = _ignore_rows


NO_LIMIT = TimeLimit()


class PredictionStore(Protocol):
    """Keeps predictions, so that they are computed once."""

    def read(self, key: str) -> Predictions:
        """The predictions kept for a sample; empty if there are none or they cannot be read."""

    def write(self, key: str, predictions: Predictions) -> None:
        """Keep the predictions for a sample, if possible."""


@dataclass(frozen=True, slots=True)
class BaselineSettings:
    """How baselines are computed.

    Attributes:
        seed: Seed of cross-validation, bootstraps and randomisation tests.
        seconds: Time for the predictions of all methods together, about.
        on_progress: Receives the method, the number of its rows that are done, and of all rows.
        store: Keeps predictions; None computes all of them.
        stopped: Why methods without kept predictions are left out; "" if they are not.
    """

    seed: int = 0
    seconds: float = BASELINE_SECONDS
    on_progress: ProgressListener | None = None
    store: PredictionStore | None = None
    stopped: str = ""


@dataclass(slots=True)
class BaselineContext:
    """One computation of baselines.

    Attributes:
        settings: The settings.
        kept: Predictions by method; those that are computed are added.
        deadline: The end of the time for predictions, by `time.monotonic`.
    """

    settings: BaselineSettings = field(default_factory=BaselineSettings)
    kept: dict[str, Sequence[Any]] = field(default_factory=dict)
    deadline: float = math.inf

    def predict(
        self,
        baseline: Baseline,
        rows: int,
        method: Callable[[TimeLimit], Sequence[Any] | str],
        *,
        share: float = 1.0,
    ) -> BaselineAnswers:
        """A baseline with its predictions for the first rows, or why there are none.

        Args:
            baseline: The baseline; predictions are kept by its name.
            rows: The number of rows.
            method: Computes the predictions; they must be JSON values, or tuples of them.
            share: The share of the remaining time that the method may take.
        """
        name = baseline.name
        if len(self.kept.get(name, ())) in range(1, rows + 1):
            return baseline, self.kept[name]
        if self.settings.stopped:
            return baseline, self.settings.stopped
        report = self.settings.on_progress
        if report:
            report(name, 0, rows)
        seconds = share * max(0.0, self.deadline - time.monotonic())
        on_rows = partial(_report_rows, report, name, rows) if report else _ignore_rows
        predictions = method(TimeLimit(seconds, on_rows))
        if not isinstance(predictions, str):
            self.kept[name] = predictions
        return baseline, predictions


def _report_rows(report: ProgressListener, name: str, rows: int, done: int) -> None:
    report(name, done, rows)


def fingerprint_sample(columns: Sequence[Sequence[Any]], *facts: object) -> str:
    """A key of predictions: a hash of everything that they depend on.

    Args:
        columns: The sample by column: texts, gold and so on.
        facts: Further facts, such as the seed.
    """
    digest = blake2b(digest_size=32)
    for part in (_VERSION, version("medtask"), *facts, *columns):
        digest.update(json.dumps(part, default=str).encode() + b"\n")
    return digest.hexdigest()

"""Calibrations of probabilities; `fitting` fits them.

Every method maps probabilities [n, k]. NaN, a label that is not an option of the row, stays NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from medtask.errors import InputError
from medtask.evaluation.statistics.intervals import MIN_PROBABILITY, FloatArray, Metric

CalibrationMethod = Literal["none", "temperature", "bias", "batch", "isotonic"]
Knots = tuple[tuple[float, ...], tuple[float, ...]]

FORMAT = "medtask-calibration-1"
_MAX_LABELS = 10_000
_MAX_BIAS = 50.0


@dataclass(frozen=True, slots=True)
class CalibrationScores:
    """Scores on gold rows; ``accuracy`` is of the likeliest label, or of all decisions at 0.5."""

    log_loss: Metric
    brier: Metric
    ece: float
    accuracy: Metric


@dataclass(frozen=True, slots=True)
class Calibration:
    """A map of probabilities.

    Attributes:
        method: "none" changes nothing.
        labels: The labels.
        exclusive: Whether exactly one label applies and probabilities sum to 1.
        rows: Number of rows that it was fitted on.
        temperature: Divisor of log probabilities (or log odds).
        bias: Added to the scaled log probabilities (or log odds), one per label.
        knots: Probabilities before and after, per label, for isotonic.
        reason: Why probabilities are unchanged, or why a method was not used.
        thresholds: The probability before calibration from which each label applies, where the
            task names no threshold; empty for 0.5 after calibration.
        before: Scores before, by five-fold cross-fitting; None for batch.
        after: Scores after.
    """

    method: CalibrationMethod
    labels: tuple[str, ...]
    exclusive: bool
    rows: int
    temperature: float = 1.0
    bias: tuple[float, ...] = ()
    knots: tuple[Knots, ...] = ()
    reason: str = ""
    before: CalibrationScores | None = None
    after: CalibrationScores | None = None
    thresholds: tuple[float, ...] = ()

    @property
    def calibrated(self) -> bool:
        return self.method != "none"

    def apply(self, probabilities: FloatArray) -> FloatArray:
        """Returns calibrated probabilities [n, k]; rows without options stay as they are.

        Raises:
            InputError: If the number of labels differs.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.labels):
            message = (
                f"the calibration is for {len(self.labels)} labels, and the answers have "
                f"{probabilities.shape[-1]}"
            )
            raise InputError(message, fix="use the calibration that was fitted for this task")
        if not self.calibrated:
            return probabilities.copy()
        if self.method == "isotonic":
            return (
                _renormalize(_apply_isotonic(probabilities, self.knots), probabilities)
                if self.exclusive
                else _apply_isotonic(probabilities, self.knots)
            )
        bias = np.array(self.bias) if self.bias else np.zeros(len(self.labels))
        return scale_probabilities(probabilities, self.temperature, bias, exclusive=self.exclusive)

    def get_thresholds(self) -> dict[str, float]:
        """The calibrated probability from which each label applies; empty without thresholds."""
        if not self.thresholds:
            return {}
        calibrated = self.apply(np.array([self.thresholds]))[0].tolist()
        return dict(zip(self.labels, calibrated, strict=True))

    def to_json(self) -> dict[str, object]:
        """Returns the calibration as JSON values, without record text."""
        return {
            "format": FORMAT,
            "method": self.method,
            "labels": list(self.labels),
            "exclusive": self.exclusive,
            "rows": self.rows,
            "temperature": self.temperature,
            "bias": list(self.bias),
            "knots": [[list(x), list(y)] for x, y in self.knots],
            "reason": self.reason,
            "before": asdict(self.before) if self.before else None,
            "after": asdict(self.after) if self.after else None,
            "thresholds": list(self.thresholds),
        }


def parse_calibration(document: object) -> Calibration:
    """Parses a document written by `Calibration.to_json`.

    Raises:
        InputError: If the document is not a valid calibration.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise _build_read_error(f"it is not a {FORMAT} document")
    try:
        found = TypeAdapter(Calibration).validate_python(
            {name: value for name, value in document.items() if name != "format"}
        )
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_input=False, include_url=False)[0]["loc"]))
        raise _build_read_error(f"its {place} is missing or not valid") from error
    fault = _find_invalid_value(found)
    if fault:
        raise _build_read_error(fault)
    return found


def scale_probabilities(
    probabilities: FloatArray, temperature: float, bias: FloatArray, *, exclusive: bool
) -> FloatArray:
    """softmax(log p / temperature + bias) over the options; for independent labels, of log odds."""
    from scipy.special import expit, logit

    known = ~np.isnan(probabilities)
    if not exclusive:
        moved = expit(
            logit(
                np.clip(np.where(known, probabilities, 0.5), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
            )
            / temperature
            + bias
        )
        return np.where(known, moved, np.nan)
    logs = np.where(
        known,
        np.log(np.clip(np.where(known, probabilities, 1.0), MIN_PROBABILITY, 1.0)) / temperature
        + bias,
        -np.inf,
    )
    top = logs.max(axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp(logs - np.where(np.isfinite(top), top, 0.0))
    return np.where(known, weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300), np.nan)


def _apply_isotonic(probabilities: FloatArray, knots: Sequence[Knots]) -> FloatArray:
    columns = [
        np.interp(column, np.array(x), np.array(y))
        for column, (x, y) in zip(probabilities.T, knots, strict=True)
    ]
    return np.where(
        np.isnan(probabilities), np.nan, np.array(columns).T.reshape(probabilities.shape)
    )


def _renormalize(calibrated: FloatArray, probabilities: FloatArray) -> FloatArray:
    """Rows scaled to a sum of 1; a row in which all labels are 0 keeps its probabilities."""
    known = ~np.isnan(calibrated)
    total = np.where(known, calibrated, 0.0).sum(axis=1, keepdims=True)
    plain = scale_probabilities(
        probabilities, 1.0, np.zeros(probabilities.shape[1]), exclusive=True
    )
    return np.where(total > 0, calibrated / np.where(total > 0, total, 1.0), plain)


def _find_invalid_value(calibration: Calibration) -> str | None:
    count = len(calibration.labels)
    if not 1 <= count <= _MAX_LABELS or len(set(calibration.labels)) < count:
        return "its labels are none, too many or repeated"
    # Ranges are tested negated, because every comparison with NaN is false.
    if (
        calibration.rows < 0
        or not 0.01 <= calibration.temperature <= 100
        or not all(abs(one) <= _MAX_BIAS for one in calibration.bias)
    ):
        return "one of its numbers is out of range"
    if len(calibration.bias) not in (0, count) or (
        calibration.method in ("bias", "batch") and not calibration.bias
    ):
        return f"it has {len(calibration.bias)} biases for {count} labels"
    if len(calibration.knots) != (count if calibration.method == "isotonic" else 0):
        return f"it has {len(calibration.knots)} curves for {count} labels"
    if len(calibration.thresholds) not in (0, count) or not all(
        0 <= one <= 1 for one in calibration.thresholds
    ):
        return f"it has {len(calibration.thresholds)} thresholds for {count} labels"
    if not all(_is_increasing(*knot) for knot in calibration.knots):
        return "one of its curves does not rise from 0 to 1"
    return None


def _is_increasing(before: Sequence[float], after: Sequence[float]) -> bool:
    inside = all(0 <= one <= 1 for one in (*before, *after))
    return (
        inside
        and 0 < len(before) == len(after)
        and all(a < b for a, b in pairwise(before))
        and all(a <= b for a, b in pairwise(after))
    )


def _build_read_error(reason: str) -> InputError:
    return InputError(
        f"the calibration cannot be read: {reason}", fix="fit it again on rows with gold"
    )

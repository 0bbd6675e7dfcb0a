"""A calibration: how probabilities are changed so that they mean what they say. See calibrate.py
for how it is fitted.

Every method works on the shares of a row's labels [n, k]. A share that is NaN is no option of its
row, and stays so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from medtask.errors import InputError
from medtask.evaluate.intervals import Estimate, Figures

Method = Literal["none", "temperature", "bias", "batch", "isotonic"]
Knots = tuple[tuple[float, ...], tuple[float, ...]]

FORMAT = "medtask-calibration-1"
FLOOR = (
    1e-6  # a share below is read as this, or one that a table rounded to 0 could never rise again
)
_MOST_LABELS = 10_000
_MOST_BIAS = 50.0


@dataclass(frozen=True, slots=True)
class Scored:
    """What probabilities are worth on the gold rows. ``accuracy``: of the likeliest label; with
    each label by itself, of all yes-or-no decisions at one half.
    """

    log_loss: Estimate
    brier: Estimate
    ece: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """How shares are changed. ``exclusive``: one label applies, and a row's shares sum to 1; else
    each label stands by itself.

    ``temperature``, ``bias``: log shares (or log odds) are divided by the one, the other is added,
    one a label. ``knots``: share before and after, a label each, for method isotonic. ``rows``:
    those it was fitted on. ``before``, ``after``: on rows that the fit had not seen (five folds);
    None for batch, which saw no gold. Method none changes nothing, and ``reason`` says why.
    """

    method: Method
    labels: tuple[str, ...]
    exclusive: bool
    rows: int
    temperature: float = 1.0
    bias: tuple[float, ...] = ()
    knots: tuple[Knots, ...] = ()
    reason: str = ""
    before: Scored | None = None
    after: Scored | None = None

    @property
    def calibrated(self) -> bool:
        return self.method != "none"

    def apply(self, shares: Figures) -> Figures:
        """The shares [n, k], calibrated; rows without any option stay as they are. InputError for
        another number of labels.
        """
        if shares.ndim != 2 or shares.shape[1] != len(self.labels):
            message = (
                f"the calibration is for {len(self.labels)} labels, and the answers have "
                f"{shares.shape[-1]}"
            )
            raise InputError(message, fix="use the calibration that was fitted for this task")
        if not self.calibrated:
            return shares.copy()
        if self.method == "isotonic":
            return (
                _normalise(_bend(shares, self.knots), shares)
                if self.exclusive
                else _bend(shares, self.knots)
            )
        bias = np.array(self.bias) if self.bias else np.zeros(len(self.labels))
        return shift(shares, self.temperature, bias, exclusive=self.exclusive)

    def describe(self) -> str:
        """In a line or two, for a person."""
        if not self.calibrated:
            return f"uncalibrated: {self.reason}"
        if self.before is None or self.after is None:
            return (
                f"batch calibration without gold, from {self.rows:,} rows: each label's mean "
                "share was divided out, as if all labels were "
                "about equally frequent; do not use it where they are not"
            )
        heat, before, after = f"temperature {self.temperature:.2f}", self.before, self.after
        way = {"temperature": heat, "bias": f"{heat} and a bias for each label"}.get(
            self.method, "isotonic regression"
        )
        return (
            f"calibrated by {way}, fitted on {self.rows:,} rows; on rows it had not seen log "
            f"loss {before.log_loss.value:.3f} -> "
            f"{after.log_loss}, calibration error {before.ece:.3f} -> {after.ece:.3f}, "
            f"accuracy {before.accuracy.value:.3f} -> {after.accuracy.value:.3f}"
        )

    def to_json(self) -> dict[str, object]:
        """All of it, as JSON; it holds labels and numbers, and no text of a record."""
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
        }


def read_calibration(document: object) -> Calibration:
    """A calibration from what to_json made. InputError for everything else, such as a damaged file,
    or one made to mislead.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise _unreadable(f"it is no {FORMAT} document")
    try:
        found = TypeAdapter(Calibration).validate_python(
            {name: value for name, value in document.items() if name != "format"}
        )
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_input=False, include_url=False)[0]["loc"]))
        raise _unreadable(f"its {place} is missing or no such value") from error
    fault = _find_fault(found)
    if fault:
        raise _unreadable(fault)
    return found


def shift(shares: Figures, temperature: float, bias: Figures, *, exclusive: bool) -> Figures:
    """softmax(log share / temperature + bias) over a row's options; with each label by itself, the
    same of its log odds.
    """
    from scipy.special import expit, logit

    known = ~np.isnan(shares)
    if not exclusive:
        moved = expit(
            logit(np.clip(np.where(known, shares, 0.5), FLOOR, 1 - FLOOR)) / temperature + bias
        )
        return np.where(known, moved, np.nan)
    logs = np.where(
        known,
        np.log(np.clip(np.where(known, shares, 1.0), FLOOR, 1.0)) / temperature + bias,
        -np.inf,
    )
    top = logs.max(axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp(logs - np.where(np.isfinite(top), top, 0.0))
    return np.where(known, weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300), np.nan)


def _bend(shares: Figures, knots: Sequence[Knots]) -> Figures:
    columns = [
        np.interp(column, np.array(x), np.array(y))
        for column, (x, y) in zip(shares.T, knots, strict=True)
    ]
    return np.where(np.isnan(shares), np.nan, np.array(columns).T.reshape(shares.shape))


def _normalise(bent: Figures, shares: Figures) -> Figures:
    """Rows that sum to 1 again. A row all of whose labels fell to 0 keeps its shares."""
    known = ~np.isnan(bent)
    total = np.where(known, bent, 0.0).sum(axis=1, keepdims=True)
    plain = shift(shares, 1.0, np.zeros(shares.shape[1]), exclusive=True)
    return np.where(total > 0, bent / np.where(total > 0, total, 1.0), plain)


def _find_fault(found: Calibration) -> str | None:
    count = len(found.labels)
    if not 1 <= count <= _MOST_LABELS or len(set(found.labels)) < count:
        return "its labels are none, too many or repeated"
    # NaN is in no range.
    if (
        found.rows < 0
        or not 0.01 <= found.temperature <= 100
        or not all(abs(one) <= _MOST_BIAS for one in found.bias)
    ):
        return "one of its numbers is out of range"
    if len(found.bias) not in (0, count) or (found.method in ("bias", "batch") and not found.bias):
        return f"it has {len(found.bias)} biases for {count} labels"
    if len(found.knots) != (count if found.method == "isotonic" else 0):
        return f"it has {len(found.knots)} curves for {count} labels"
    if not all(_rises(*knot) for knot in found.knots):
        return "one of its curves does not rise from 0 to 1"
    return None


def _rises(before: Sequence[float], after: Sequence[float]) -> bool:
    inside = all(0 <= one <= 1 for one in (*before, *after))
    return (
        inside
        and 0 < len(before) == len(after)
        and all(a < b for a, b in pairwise(before))
        and all(a <= b for a, b in pairwise(after))
    )


def _unreadable(why: str) -> InputError:
    return InputError(
        f"the calibration cannot be read: {why}", fix="fit it again on rows with gold"
    )

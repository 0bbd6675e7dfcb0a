"""Fits a calibration on gold rows, or without gold by the labels' mean probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medtask.errors import UsageError
from medtask.evaluation.calibration.methods import (
    GoldArray,
    fit_bias,
    fit_isotonic,
    fit_temperature,
)
from medtask.evaluation.calibration.reliability import (
    compute_ece,
    compute_proper_scores,
    estimate_mean,
)
from medtask.evaluation.calibration.transforms import (
    Calibration,
    CalibrationMethod,
    CalibrationScores,
    scale_probabilities,
)
from medtask.evaluation.statistics.intervals import MIN_PROBABILITY, FloatArray, GroupCodes
from medtask.evaluation.statistics.refusal import Refusal
from medtask.evaluation.statistics.resampling import FOLDS

CalibrationFitter = Callable[[FloatArray, GoldArray, Calibration], Calibration]

MIN_ROWS: dict[CalibrationMethod, int] = {
    "temperature": 30,
    "bias": 100,
    "isotonic": 1000,
    "batch": 50,
}
_ROWS_PER_LABEL = 5  # rows for each label that a bias is fitted to


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels of a task.

    Attributes:
        names: The labels.
        exclusive: Whether exactly one of them applies to each row.
        threshold_by_name: For labels that are not exclusive, the probability from which each
            applies; 0.5 for others.
    """

    names: Sequence[str]
    exclusive: bool
    threshold_by_name: Mapping[str, float] = field(default_factory=dict)

    @property
    def thresholds(self) -> FloatArray:
        return np.array([self.threshold_by_name.get(name, 0.5) for name in self.names])


def fit_calibration(
    probabilities: FloatArray,
    gold: GoldArray,
    labels: LabelSet,
    *,
    method: CalibrationMethod | Literal["auto"] = "auto",
    groups: GroupCodes | None = None,
    seed: int = 0,
) -> Calibration | Refusal:
    """Fits a calibration on rows with gold.

    Methods: ``temperature`` (Guo et al. 2017); ``bias``, vector scaling of log probabilities with
    one temperature and a bias for each label (Kull et al. 2019), under a standard normal prior so
    that the biases of rare labels stay small; ``isotonic``, label by label, renormalised (Zadrozny
    and Elkan 2002); ``auto``, no calibration, then each of these in turn if it lowers the log loss
    of held-out rows by more than one standard error. A method that makes decisions worse, on
    held-out rows or on all, is not used: the calibration is then a temperature, or none, and its
    reason says so. The scores before and after are from five-fold cross-fitting, which keeps groups
    together; choosing by them flatters ``after`` a little.

    Args:
        probabilities: Probabilities, [n, k]; NaN where a label is not an option of the row.
        gold: If exactly one label applies, its column, [n], -1 if unknown; else truth values,
            [n, k].
        labels: The k labels.
        method: The method.
        groups: Group of each row, [n].
        seed: Seed of the folds and bootstraps.

    Returns:
        The calibration, or a refusal if there are too few rows, gold has one class only, or all
        rows have the same probabilities.
    """
    known = _find_usable_rows(probabilities, gold)
    shares_, truth = np.asarray(probabilities, dtype=np.float64)[known], np.asarray(gold)[known]
    units = (
        np.arange(len(shares_))
        if groups is None
        else np.unique(groups[known], return_inverse=True)[1].ravel()
    )
    methods = _list_methods(method, len(shares_), len(labels.names))
    fault = (
        _find_unfit_reason(shares_, truth, labels.exclusive)
        if len(shares_)
        else "no row has gold among its options"
    )
    if fault:
        return Refusal(fault, len(shares_))
    if not methods or len(np.unique(units)) < FOLDS:
        needed = (
            MIN_ROWS["temperature"]
            if method == "auto"
            else _compute_min_rows(method, len(labels.names))
        )
        kind = "rows with gold" if groups is None else "rows with gold, of five groups or more"
        return Refusal(f"a reliable calibration needs {needed:,} {kind}", len(shares_), needed)
    uncalibrated = Calibration("none", tuple(labels.names), labels.exclusive, len(shares_))
    # A temperature is fitted in every case: it replaces a method that makes decisions worse.
    methods = list(dict.fromkeys(("temperature", *methods)))
    trial = _Trial(shares_, truth, units, labels.thresholds)
    fitted = {name: _FITTERS[name](shares_, truth, uncalibrated) for name in methods}
    unseen = {
        name: _cross_fit(_FITTERS[name], shares_, truth, uncalibrated, units, seed)
        for name in methods
    }
    unseen["none"] = scale_probabilities(
        shares_, 1.0, np.zeros(len(labels.names)), exclusive=labels.exclusive
    )
    best, reason = trial.choose_method(unseen, fitted, None if method == "auto" else method)
    drawn = None if groups is None else units
    before, after = (
        _compute_calibration_scores(unseen[name], trial, drawn, seed) for name in ("none", best)
    )
    chosen = uncalibrated if best == "none" else fitted[best]
    return replace(chosen, reason=reason, before=before, after=after)


def fit_batch_calibration(
    probabilities: FloatArray, labels: Sequence[str]
) -> Calibration | Refusal:
    """Batch calibration (Zhou et al. 2023) without gold: divides by each label's mean probability.

    The mean over a batch is taken as the model's prior, which assumes that all labels are about
    equally frequent; it does harm if one label is most of the rows. For exclusive labels, [n, k].
    """
    known = ~np.isnan(probabilities)
    usable = known.sum(axis=1) >= 2
    rows = int(usable.sum())
    if rows < MIN_ROWS["batch"]:
        return Refusal(
            f"batch calibration needs the probabilities of {MIN_ROWS['batch']} rows or more",
            rows,
            MIN_ROWS["batch"],
        )
    seen = known[usable].sum(axis=0)
    if len(labels) < 2 or _is_constant(probabilities[usable]):
        return Refusal(
            "all rows have the same probabilities: a bias cannot be distinguished from an answer",
            rows,
        )
    mean = np.where(known, probabilities, 0.0)[usable].sum(axis=0) / np.maximum(seen, 1)
    bias = -np.log(np.clip(mean, MIN_PROBABILITY, 1.0))
    bias = np.where(seen > 0, bias - bias[seen > 0].mean(), 0.0)
    return Calibration("batch", tuple(labels), True, rows, bias=tuple(bias.tolist()))


_METHOD_NAMES: Mapping[CalibrationMethod, str] = {
    "temperature": "a temperature",
    "bias": "a bias for each label",
    "isotonic": "isotonic regression",
}
_ROUNDING = 1e-9  # of sums of hits
_FITTERS: dict[CalibrationMethod, CalibrationFitter] = {
    "temperature": fit_temperature,
    "bias": fit_bias,
    "isotonic": fit_isotonic,
}


def _find_usable_rows(probabilities: FloatArray, gold: GoldArray) -> NDArray[np.bool_]:
    """Rows with at least two options and, for exclusive labels, gold among them."""
    known = ~np.isnan(probabilities)
    if gold.ndim == 2:
        return np.asarray(known.any(axis=1))
    inside = (gold >= 0) & (gold < probabilities.shape[1])
    return np.asarray(
        inside & (known.sum(axis=1) >= 2) & known[np.arange(len(gold)), np.where(inside, gold, 0)]
    )


def _list_methods(
    method: CalibrationMethod | Literal["auto"], rows: int, labels: int
) -> list[CalibrationMethod]:
    if method != "auto" and method not in _FITTERS:
        raise UsageError(
            f'"{method}" is not fitted on gold', fix=f"choose auto or one of {', '.join(_FITTERS)}"
        )
    return [
        name
        for name in _FITTERS
        if method in ("auto", name) and rows >= _compute_min_rows(name, labels)
    ]


def _compute_min_rows(method: CalibrationMethod, labels: int) -> int:
    return max(MIN_ROWS[method], _ROWS_PER_LABEL * labels if method != "temperature" else 0)


def _find_unfit_reason(probabilities: FloatArray, gold: GoldArray, exclusive: bool) -> str | None:
    if (gold.ndim == 1) != exclusive:
        raise UsageError(
            "gold has the wrong shape for these labels",
            fix="one column a row where one label applies, else [rows, labels]",
        )
    if exclusive and len(np.unique(gold)) < 2:
        return (
            "gold has one class only: the probabilities of the other classes cannot be calibrated"
        )
    if not exclusive and len(np.unique(gold)) < 2:
        return "gold is the same for every label of every row"
    return (
        "all rows have the same probabilities: there is nothing to calibrate"
        if _is_constant(probabilities)
        else None
    )


def _is_constant(probabilities: FloatArray) -> bool:
    return bool(
        np.array_equal(
            probabilities, np.broadcast_to(probabilities[0], probabilities.shape), equal_nan=True
        )
    )


def drop_if_decisions_worse(
    calibration: Calibration, probabilities: FloatArray, gold: GoldArray, labels: LabelSet
) -> Calibration:
    """The calibration, or none with the reason if it makes decisions on rows with gold worse.

    For a calibration that was fitted without this gold. Fewer than 30 rows decide nothing.
    """
    known = _find_usable_rows(probabilities, gold)
    shares, truth = np.asarray(probabilities, dtype=np.float64)[known], np.asarray(gold)[known]
    if len(shares) < MIN_ROWS["temperature"]:
        return calibration
    trial = _Trial(shares, truth, np.arange(len(shares)), labels.thresholds)
    before, after = (trial.compute_hits(one).mean() for one in (shares, calibration.apply(shares)))
    if after >= before - _ROUNDING:
        return calibration
    reason = (
        f"it would make decisions worse on the {len(shares):,} rows with gold (accuracy "
        f"{before:.3f} -> {after:.3f})"
    )
    return Calibration(
        "none", calibration.labels, calibration.exclusive, calibration.rows, reason=reason
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """Rows on which methods of calibration are compared."""

    probabilities: FloatArray
    gold: GoldArray
    groups: GroupCodes
    thresholds: FloatArray

    def choose_method(
        self,
        unseen: Mapping[CalibrationMethod, FloatArray],
        fitted: Mapping[CalibrationMethod, Calibration],
        requested: CalibrationMethod | None,
    ) -> tuple[CalibrationMethod, str]:
        """The method, and why it is not the requested one or not the best by log loss.

        Args:
            unseen: Probabilities of rows by fits that have not seen them, by method.
            fitted: The fits on all rows.
            requested: The method that is used unless it makes decisions worse; None for the best.
        """
        allowed = [name for name in fitted if self._keeps_decisions(unseen, fitted[name], name)]
        by_loss = requested or self._find_best(unseen, list(fitted))
        if by_loss == "none" or by_loss in allowed:
            reason = (
                f"no method lowers the log loss of the {len(self.gold):,} gold rows, unseen, by "
                "more than chance"
            )
            return by_loss, reason if by_loss == "none" else ""
        best = self._find_best(unseen, allowed)
        accuracy, worse = (self.compute_hits(unseen[name]).mean() for name in ("none", by_loss))
        return best, (
            f"{_METHOD_NAMES[by_loss]} would make decisions worse on held-out rows (accuracy "
            f"{accuracy:.3f} -> {worse:.3f})"
        )

    def compute_hits(self, probabilities: FloatArray) -> FloatArray:
        """The share of right decisions of each row [n]."""
        known = ~np.isnan(probabilities)
        if self.gold.ndim == 1:
            filled = np.where(known, probabilities, -1.0)
            return np.asarray(filled.argmax(axis=1) == self.gold, dtype=np.float64)
        hits = known & ((np.where(known, probabilities, 0.0) >= self.thresholds) == self.gold)
        return np.asarray(hits.sum(axis=1) / known.sum(axis=1))

    def _keeps_decisions(
        self,
        unseen: Mapping[CalibrationMethod, FloatArray],
        calibration: Calibration,
        name: CalibrationMethod,
    ) -> bool:
        """Whether decisions are not worse, on held-out rows and with the fit on all rows."""
        pairs = (
            (unseen["none"], unseen[name]),
            (self.probabilities, calibration.apply(self.probabilities)),
        )
        return all(
            self.compute_hits(after).sum() >= self.compute_hits(before).sum() - _ROUNDING
            for before, after in pairs
        )

    def _find_best(
        self, unseen: Mapping[CalibrationMethod, FloatArray], methods: Sequence[CalibrationMethod]
    ) -> CalibrationMethod:
        """The simplest method that no later one beats by more than one standard error."""
        best: CalibrationMethod = "none"
        losses = {
            name: compute_proper_scores(unseen[name], self.gold)["log_loss"]
            for name in ("none", *methods)
        }
        for name in methods:
            gain = losses[best] - losses[name]
            error = float(np.sqrt((np.bincount(self.groups, gain - gain.mean()) ** 2).sum()))
            if gain.sum() > error:
                best = name
        return best


def _cross_fit(
    fit: CalibrationFitter,
    probabilities: FloatArray,
    gold: GoldArray,
    uncalibrated: Calibration,
    groups: GroupCodes,
    seed: int,
) -> FloatArray:
    """Every row's probabilities by a fit on the other folds."""
    from sklearn.model_selection import GroupKFold

    found = np.full(probabilities.shape, np.nan)
    for seen, unseen in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(
        probabilities, groups=groups
    ):
        found[unseen] = fit(probabilities[seen], gold[seen], uncalibrated).apply(
            probabilities[unseen]
        )
    return found


def _compute_calibration_scores(
    probabilities: FloatArray, trial: _Trial, groups: GroupCodes | None, seed: int
) -> CalibrationScores:
    gold = trial.gold
    means = {
        name: estimate_mean(values, groups, seed)
        for name, values in compute_proper_scores(probabilities, gold).items()
    }
    known = ~np.isnan(probabilities)
    if gold.ndim == 1:
        filled = np.where(known, probabilities, -1.0)
        ece = compute_ece(filled.max(axis=1), filled.argmax(axis=1) == gold)
    else:
        ece = compute_ece(probabilities[known], gold[known])
    accuracy = estimate_mean(trial.compute_hits(probabilities), groups, seed)
    return CalibrationScores(means["log_loss"], means["brier"], ece, accuracy)

"""Fits a calibration on gold rows, or without gold by the labels' mean probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medtask.errors import UsageError
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

GoldArray = NDArray[Any]  # [rows] of int, or [rows, labels] of bool
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
    """Labels, and whether exactly one of them applies to each row."""

    names: Sequence[str]
    exclusive: bool


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
    of held-out rows by more than one standard error. The scores before and after are from five-fold
    cross-fitting, which keeps groups together; choosing by them flatters ``after`` a little.

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
        return Refusal(
            f"a calibration that can be believed needs {needed:,} {kind}", len(shares_), needed
        )
    uncalibrated = Calibration("none", tuple(labels.names), labels.exclusive, len(shares_))
    unseen: dict[CalibrationMethod, FloatArray] = {
        name: _cross_fit(_FITTERS[name], shares_, truth, uncalibrated, units, seed)
        for name in methods
    }
    unseen["none"] = scale_probabilities(
        shares_, 1.0, np.zeros(len(labels.names)), exclusive=labels.exclusive
    )
    best = _choose_method(unseen, ["none", *methods], truth, units) if method == "auto" else method
    drawn = None if groups is None else units
    before, after = (
        _compute_calibration_scores(unseen[name], truth, drawn, seed) for name in ("none", best)
    )
    if best == "none":
        reason = (
            f"no method lowers the log loss of the {len(shares_):,} gold rows, unseen, by "
            "more than chance"
        )
        return replace(uncalibrated, reason=reason, before=before, after=after)
    return replace(_FITTERS[best](shares_, truth, uncalibrated), before=before, after=after)


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
            f"batch calibration needs the shares of {MIN_ROWS['batch']} rows or more",
            rows,
            MIN_ROWS["batch"],
        )
    seen = known[usable].sum(axis=0)
    if len(labels) < 2 or _is_constant(probabilities[usable]):
        return Refusal(
            "all rows have the same shares: there is nothing that tells a liking from an answer",
            rows,
        )
    mean = np.where(known, probabilities, 0.0)[usable].sum(axis=0) / np.maximum(seen, 1)
    bias = -np.log(np.clip(mean, MIN_PROBABILITY, 1.0))
    bias = np.where(seen > 0, bias - bias[seen > 0].mean(), 0.0)
    return Calibration("batch", tuple(labels), True, rows, bias=tuple(bias.tolist()))


def fit_temperature(
    probabilities: FloatArray, gold: GoldArray, uncalibrated: Calibration, *, prior: float = 1.0
) -> Calibration:
    """Fits one temperature in [0.05, 20].

    ``prior`` is the weight of a standard normal prior on its logarithm; 1 counts about as much as
    one row. Without it, rows that are all right would make every answer certain.
    """
    from scipy.optimize import minimize_scalar

    zeros = np.zeros(len(uncalibrated.labels))

    def loss(log_temperature: float) -> float:
        moved = scale_probabilities(
            probabilities, float(np.exp(log_temperature)), zeros, exclusive=uncalibrated.exclusive
        )
        return _compute_total_loss(moved, gold) + prior * log_temperature**2 / 2

    found = minimize_scalar(
        loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-5}
    )
    return replace(uncalibrated, method="temperature", temperature=float(np.exp(found.x)))


def fit_bias(probabilities: FloatArray, gold: GoldArray, uncalibrated: Calibration) -> Calibration:
    """Fits a temperature and a bias for each label under standard normal priors."""
    from scipy.optimize import minimize
    from scipy.special import logit

    known = ~np.isnan(probabilities)
    if uncalibrated.exclusive:
        truth, base = (
            _one_hot(gold, probabilities.shape),
            np.log(np.clip(np.where(known, probabilities, 1.0), MIN_PROBABILITY, 1.0)),
        )
    else:
        truth, base = (
            gold & known,
            logit(
                np.clip(np.where(known, probabilities, 0.5), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
            ),
        )

    def loss(point: FloatArray) -> tuple[float, FloatArray]:
        inverse_temperature = float(np.exp(-point[0]))
        moved = np.where(
            known,
            scale_probabilities(
                probabilities, 1 / inverse_temperature, point[1:], exclusive=uncalibrated.exclusive
            ),
            0.0,
        )
        off = moved - truth
        slope = np.concatenate([[-inverse_temperature * (off * base).sum()], off.sum(axis=0)])
        return _compute_total_loss(np.where(known, moved, np.nan), gold) + float(
            point @ point
        ) / 2, slope + point

    bounds = [(np.log(0.05), np.log(20)), *[(-20.0, 20.0)] * len(uncalibrated.labels)]
    found = minimize(
        loss, np.zeros(1 + len(uncalibrated.labels)), jac=True, method="L-BFGS-B", bounds=bounds
    )
    return replace(
        uncalibrated,
        method="bias",
        temperature=float(np.exp(found.x[0])),
        bias=tuple(found.x[1:].tolist()),
    )


def fit_isotonic(
    probabilities: FloatArray, gold: GoldArray, uncalibrated: Calibration
) -> Calibration:
    """Fits an isotonic curve for each label; the identity if no row has the label."""
    from sklearn.isotonic import IsotonicRegression

    truth = _one_hot(gold, probabilities.shape) if uncalibrated.exclusive else gold
    knots = []
    for share, right in zip(probabilities.T, truth.T, strict=True):
        known = ~np.isnan(share)
        if not known.any() or np.ptp(share[known]) == 0:
            knots.append(((0.0, 1.0), (0.0, 1.0)))
            continue
        # Laplace's rule at both ends: a step at exactly 0 or 1 would be a promise that no sample
        # can make.
        rows = int(known.sum())
        curve = IsotonicRegression(
            y_min=1 / (rows + 2), y_max=(rows + 1) / (rows + 2), out_of_bounds="clip"
        )
        curve.fit(np.clip(share[known], 0, 1), right[known].astype(np.float64))
        knots.append((tuple(curve.X_thresholds_.tolist()), tuple(curve.y_thresholds_.tolist())))
    return replace(uncalibrated, method="isotonic", knots=tuple(knots))


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
            "gold has one class only: it cannot show what the probabilities of the others are worth"
        )
    if not exclusive and len(np.unique(gold)) < 2:
        return "gold says the same of every label of every row"
    return (
        "all rows have the same shares: there is nothing to calibrate"
        if _is_constant(probabilities)
        else None
    )


def _is_constant(probabilities: FloatArray) -> bool:
    return bool(
        np.array_equal(
            probabilities, np.broadcast_to(probabilities[0], probabilities.shape), equal_nan=True
        )
    )


def _one_hot(gold: GoldArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(gold[:, None] == np.arange(shape[1]))


def _compute_total_loss(probabilities: FloatArray, gold: GoldArray) -> float:
    """The minimised log loss; of independent labels their sum, not their mean."""
    losses = compute_proper_scores(probabilities, gold)["log_loss"]
    return float(
        losses.sum() if gold.ndim == 1 else (losses * (~np.isnan(probabilities)).sum(axis=1)).sum()
    )


def _choose_method(
    unseen: dict[CalibrationMethod, FloatArray],
    methods: Sequence[CalibrationMethod],
    gold: GoldArray,
    groups: GroupCodes,
) -> CalibrationMethod:
    """The simplest method that no later one beats by more than one standard error."""
    best, *others = methods
    losses = {name: compute_proper_scores(unseen[name], gold)["log_loss"] for name in methods}
    for name in others:
        gain = losses[best] - losses[name]
        error = float(np.sqrt((np.bincount(groups, gain - gain.mean()) ** 2).sum()))
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
    probabilities: FloatArray, gold: GoldArray, groups: GroupCodes | None, seed: int
) -> CalibrationScores:
    means = {
        name: estimate_mean(values, groups, seed)
        for name, values in compute_proper_scores(probabilities, gold).items()
    }
    known = ~np.isnan(probabilities)
    if gold.ndim == 1:
        filled = np.where(known, probabilities, -1.0)
        right = filled.argmax(axis=1) == gold
        ece, accuracy = compute_ece(filled.max(axis=1), right), right.astype(np.float64)
    else:
        ece = compute_ece(probabilities[known], gold[known])
        hits = known & ((np.where(known, probabilities, 0.0) >= 0.5) == gold)
        accuracy = hits.sum(axis=1) / known.sum(axis=1)
    return CalibrationScores(
        means["log_loss"], means["brier"], ece, estimate_mean(accuracy, groups, seed)
    )

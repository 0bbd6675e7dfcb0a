from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from sklearn.metrics import accuracy_score, log_loss

from medtask.errors import UsageError
from medtask.evaluation.calibration.fitting import (
    LabelSet,
    drop_if_decisions_worse,
    fit_batch_calibration,
    fit_calibration,
)
from medtask.evaluation.calibration.methods import fit_temperature
from medtask.evaluation.calibration.transforms import Calibration
from medtask.evaluation.report.calibration_report import describe_result
from medtask.evaluation.statistics.refusal import Refusal
from support.drawn_probabilities import draw_probabilities

RANDOM = np.random.default_rng(20261120)
NAMES = ("a", "b", "c")
PLAIN = Calibration("none", NAMES, True, 0)
PLAIN_EACH = Calibration("none", NAMES, False, 0)


def fit_probabilities(shares: np.ndarray, gold: np.ndarray, **more: object) -> Calibration:
    found = fit_calibration(
        shares, gold, LabelSet(NAMES[: shares.shape[1]], gold.ndim == 1), **more
    )  # type: ignore[arg-type]
    assert isinstance(found, Calibration), found
    return found


def test_labels_by_themselves_are_scaled_on_their_odds() -> None:
    odds = RANDOM.normal(0, 1.5, (800, 3))
    truth = RANDOM.random((800, 3)) < expit(odds)
    shares = expit(2 * odds)
    found = fit_temperature(shares, truth, PLAIN_EACH, prior=0.0)
    direct = minimize_scalar(
        lambda heat: log_loss(truth.ravel(), expit(logit(shares) / heat).ravel()),
        bounds=(0.2, 5),
        method="bounded",
    )
    assert found.temperature == pytest.approx(direct.x, rel=1e-3)
    shares[::5, 1] = np.nan
    output = fit_probabilities(shares, truth)
    assert output.method in ("temperature", "bias")
    moved = output.apply(shares)
    assert np.isnan(moved[::5, 1]).all()
    assert not np.isnan(np.delete(moved, np.s_[::5], axis=0)).any()
    assert output.after is not None
    assert output.before is not None
    assert output.after.log_loss.value < output.before.log_loss.value


def test_a_temperature_never_changes_the_answer_and_rows_sum_to_one() -> None:
    shares, gold = draw_probabilities(RANDOM, 300, overconfidence=4)
    shares[:, 2] = np.where(np.arange(300) % 3 == 0, np.nan, shares[:, 2])
    shares[5] = [1.0, 0.0, np.nan]
    shares /= np.nansum(shares, axis=1, keepdims=True)
    found = fit_probabilities(shares, gold, method="temperature")
    moved = found.apply(shares)
    assert np.array_equal(np.isnan(moved), np.isnan(shares))
    assert np.nansum(moved, axis=1) == pytest.approx(np.ones(300))
    assert np.array_equal(np.nanargmax(moved, axis=1), np.nanargmax(shares, axis=1))
    unknown = np.full((1, 3), np.nan)
    assert np.isnan(found.apply(unknown)).all()


def test_figures_are_of_rows_that_the_fit_had_not_seen() -> None:
    shares, gold = draw_probabilities(RANDOM, 500, overconfidence=3, bias=(1, 0, 0))
    found = fit_probabilities(shares, gold)
    assert found.method == "bias"
    assert found.before is not None
    assert found.after is not None
    assert found.before.log_loss.value == pytest.approx(log_loss(gold, shares), rel=1e-3)
    assert found.before.accuracy.value == pytest.approx(accuracy_score(gold, shares.argmax(axis=1)))
    fresh, truth = draw_probabilities(RANDOM, 20_000, overconfidence=3, bias=(1, 0, 0))
    seen = log_loss(gold, found.apply(shares))
    assert seen < found.after.log_loss.value < found.before.log_loss.value
    assert log_loss(truth, found.apply(fresh)) == pytest.approx(found.after.log_loss.value, abs=0.1)
    assert found.after.ece < found.before.ece
    assert "bias for each label" in describe_result(found)


def test_what_is_calibrated_already_stays_as_it_is() -> None:
    shares, gold = draw_probabilities(RANDOM, 400)
    found = fit_probabilities(shares, gold)
    assert (found.method, found.calibrated) == ("none", False)
    assert found.apply(shares) == pytest.approx(shares)
    assert describe_result(found).startswith("uncalibrated: no method lowers")


def test_groups_are_kept_together() -> None:
    # Thirty texts, each forty times: by rows the folds know the answers, by groups they do not.
    shares, gold = draw_probabilities(RANDOM, 30)
    many, truths, groups = (np.repeat(one, 40, axis=0) for one in (shares, gold, np.arange(30)))
    alone = fit_probabilities(many, truths, method="isotonic")
    grouped = fit_probabilities(many, truths, method="isotonic", groups=groups)
    assert alone.after is not None
    assert grouped.after is not None
    assert (alone.method, grouped.method != "isotonic") == ("isotonic", True)
    assert grouped.after.log_loss.value > 1.2 * alone.after.log_loss.value
    few = fit_calibration(many, truths, LabelSet(NAMES, True), groups=np.repeat(np.arange(4), 300))
    assert isinstance(few, Refusal)


@pytest.mark.parametrize("n", [0, 1, 5, 29])
def test_tiny_samples_are_refused(n: int) -> None:
    shares, gold = draw_probabilities(RANDOM, 60)
    found = fit_calibration(shares[:n], gold[:n], LabelSet(NAMES, True))
    assert isinstance(found, Refusal)
    assert found.rows == n


@pytest.mark.parametrize(
    ("gold", "constant", "reason"),
    [
        (np.zeros(200, dtype=int), False, "one class"),
        (np.arange(200) % 3, True, "same probabilities"),
        (np.full(200, -1), False, "no row has gold"),
    ],
)
def test_what_teaches_nothing_is_refused(gold: np.ndarray, constant: bool, reason: str) -> None:
    shares, _ = draw_probabilities(RANDOM, 200)
    if constant:
        shares[:] = shares[0]
    found = fit_calibration(shares, gold, LabelSet(NAMES, True))
    assert isinstance(found, Refusal)
    assert reason in found.reason
    assert str(found)


def test_answers_that_are_all_right_do_not_become_certain() -> None:
    gold = np.arange(60) % 3
    truth = gold[:, None] == np.arange(3)
    shares = np.where(truth, 0.8, 0.1) + RANDOM.random((60, 1)) * np.where(truth, 0.02, -0.01)
    found = fit_probabilities(shares, gold)
    assert found.apply(shares).max() < 0.999


def test_a_label_that_gold_never_has_keeps_a_small_share() -> None:
    shares, gold = draw_probabilities(RANDOM, 400)
    gold = np.where(gold == 2, 0, gold)
    found = fit_probabilities(shares, gold, method="bias")
    assert -8 < found.bias[2] - found.bias[0] < 0
    assert found.apply(shares)[:, 2].min() > 0


def test_isotonic_and_bias_wait_for_rows() -> None:
    shares, gold = draw_probabilities(RANDOM, 60)
    found = fit_calibration(shares, gold, LabelSet(NAMES, True), method="isotonic")
    assert isinstance(found, Refusal)
    assert found.needed == 1000
    with pytest.raises(UsageError):
        fit_calibration(shares, gold, LabelSet(NAMES, True), method="batch")
    with pytest.raises(UsageError):
        fit_calibration(shares, gold, LabelSet(NAMES, False))


def test_batch_calibration_divides_by_the_mean() -> None:
    shares, gold = draw_probabilities(RANDOM, 3000, bias=(2, 0, -1))
    found = fit_batch_calibration(shares, NAMES)
    assert isinstance(found, Calibration)
    expected = shares / shares.mean(axis=0)
    assert found.apply(shares) == pytest.approx(
        expected / expected.sum(axis=1, keepdims=True), rel=1e-6
    )
    assert (
        accuracy_score(gold, found.apply(shares).argmax(axis=1))
        > accuracy_score(gold, shares.argmax(axis=1)) + 0.05
    )
    assert "equally frequent" in describe_result(found)


def test_batch_calibration_refuses_too_little() -> None:
    shares, _ = draw_probabilities(RANDOM, 100)
    assert isinstance(fit_batch_calibration(shares[:49], NAMES), Refusal)
    assert isinstance(fit_batch_calibration(np.repeat(shares[:1], 100, axis=0), NAMES), Refusal)
    shares[:, 1] = np.nan
    shares /= np.nansum(shares, axis=1, keepdims=True)
    found = fit_batch_calibration(shares, NAMES)
    assert isinstance(found, Calibration)
    assert found.bias[1] == 0


def test_a_batch_calibration_that_makes_decisions_worse_is_dropped() -> None:
    gold = np.array([0] * 90 + [1] * 10)
    shares = np.where(gold[:, None] == np.arange(2), 0.7, 0.3) + np.array([0.15, -0.15])
    batch = fit_batch_calibration(shares, NAMES[:2])
    assert isinstance(batch, Calibration)
    labels = LabelSet(NAMES[:2], True)
    harmless = drop_if_decisions_worse(batch, shares, gold, labels)
    assert harmless is batch
    doubtful = np.where(shares > 0.8, [[0.55, 0.45]], shares)
    batch = fit_batch_calibration(doubtful + np.array([0.1, -0.1]), NAMES[:2])
    dropped = drop_if_decisions_worse(batch, doubtful, gold, labels)
    assert dropped.method == "none"
    assert "it would make decisions worse on the 100 rows with gold" in describe_result(dropped)
    assert drop_if_decisions_worse(batch, doubtful[:29], gold[:29], labels) is batch


def draw_harmful_bias(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose log loss a bias lowers, and whose decisions it makes worse: a rare label
    is right where the model is certain of it, and often wrong where it is not.
    """
    random = np.random.default_rng(seed)
    certain = random.random(n) < 0.3
    gold = np.where(certain, 2, random.choice(3, n, p=[0.48, 0.46, 0.06]))
    logs = np.zeros((n, 3))
    logs[np.arange(n), gold] += np.where(random.random(n) < 0.62, 1.0, -0.2)
    logs[:, 2] += np.where(certain, 0.4, -0.2)
    return softmax(logs + np.array([0.0, 0.0, 0.9]), axis=1), gold


@pytest.mark.parametrize("method", ["auto", "bias", "isotonic"])
@given(
    st.integers(0, 10_000),
    st.integers(100, 300),
    st.sampled_from([draw_harmful_bias, None]),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_a_calibration_never_makes_decisions_worse(method, seed, n, draw, exclusive) -> None:
    random = np.random.default_rng(seed)
    if draw:
        shares, gold = draw(n, seed)
    else:
        shares = softmax(random.normal(0, 1, (n, 3)), axis=1)
        gold = random.integers(0, 3, n)
    if not exclusive:
        gold = gold[:, None] == np.arange(3)
    thresholds = {} if exclusive else {"b": 0.3}
    found = fit_calibration(shares, gold, LabelSet(NAMES, exclusive, thresholds), method=method)
    if isinstance(found, Refusal):
        assert found.rows < 1000
        return
    assert found.before is not None and found.after is not None
    assert found.after.accuracy.value >= found.before.accuracy.value - 1e-9
    limits = np.array([0.5, 0.3, 0.5])
    decided = [
        (one.argmax(axis=1) == gold) if exclusive else ((one >= limits) == gold)
        for one in (shares, found.apply(shares))
    ]
    assert decided[1].sum() >= decided[0].sum()
    if method == "auto" and found.calibrated:
        assert found.after.log_loss.value < found.before.log_loss.value


def test_a_bias_that_makes_decisions_worse_is_not_used_and_the_reason_is_reported() -> None:
    found = [fit_probabilities(*draw_harmful_bias(400, seed)) for seed in range(40)]
    rejected = [one for one in found if "would make decisions worse" in one.reason]
    assert rejected, "the drawn probabilities are not harmful"
    for one in rejected:
        assert one.method in ("none", "temperature")
        assert "a bias for each label would make decisions worse on held-out rows (accuracy 0." in (
            describe_result(one)
        )

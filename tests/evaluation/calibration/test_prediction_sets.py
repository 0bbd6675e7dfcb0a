from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from medtask.errors import UsageError
from medtask.evaluation.calibration.prediction_sets import PredictionSets, fit_prediction_sets
from medtask.evaluation.report.calibration_report import build_result_blocks, describe_result
from medtask.evaluation.statistics.refusal import Refusal

RANDOM = np.random.default_rng(20261120)


class IdentityClassifier(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose inputs are its answers."""

    def __init__(self, labels: int = 4) -> None:
        self.labels = labels
        self.classes_ = np.arange(labels)
        self.is_fitted_ = True

    def fit(self, x: np.ndarray, y: np.ndarray) -> IdentityClassifier:
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)


def draw_probabilities(n: int, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    shares = RANDOM.dirichlet([0.5] * labels, n)
    return shares, np.array([RANDOM.choice(labels, p=row) for row in shares])


def fit_valid_sets(shares: np.ndarray, gold: np.ndarray, **more: object) -> PredictionSets:
    found = fit_prediction_sets(shares, gold, **more)  # type: ignore[arg-type]
    assert isinstance(found, PredictionSets), found
    return found


@pytest.mark.slow  # MAPIE takes seconds to import
@pytest.mark.parametrize("miss", [0.05, 0.1, 0.3])
def test_sets_are_those_of_mapie(miss: float) -> None:
    pytest.importorskip("mapie", reason="MAPIE is not installed")
    from mapie.classification import SplitConformalClassifier

    shares, gold = draw_probabilities(300)
    fresh, _ = draw_probabilities(500)
    reference = SplitConformalClassifier(
        IdentityClassifier(), confidence_level=1 - miss, conformity_score="lac", prefit=True
    )
    reference.conformalize(shares, gold)
    _, sets = reference.predict_set(fresh)
    assert np.array_equal(fit_valid_sets(shares, gold, miss=miss).apply(fresh), sets[:, :, 0])


@pytest.mark.slow
def test_crc_is_mapies_on_a_grid() -> None:
    pytest.importorskip("mapie", reason="MAPIE is not installed")
    from mapie.risk_control import MultiLabelClassificationController

    shares = RANDOM.random((200, 3))
    truth = RANDOM.random((200, 3)) < shares
    truth[~truth.any(axis=1), 0] = True  # MAPIE requires a true label in every row
    grid = np.linspace(0, 1, 501)
    reference = MultiLabelClassificationController(
        lambda x: x, risk="recall", method="crc", target_level=0.8, predict_params=grid
    )
    reference.calibrate(shares, truth)
    assert fit_valid_sets(shares, truth, miss=0.2).threshold == pytest.approx(
        float(np.ravel(reference.best_predict_param)[0]), abs=0.004
    )


@pytest.mark.parametrize("several", [False, True])
def test_the_promise_holds_on_average(several: bool) -> None:
    shares, gold = draw_probabilities(20_000)
    truth = gold[:, None] == np.arange(4)
    missed = []
    for seed in range(60):
        rows = np.random.default_rng(seed).integers(0, len(gold), 100)
        found = fit_valid_sets(shares[rows], truth[rows] if several else gold[rows], miss=0.1)
        missed.append(1 - found.apply(shares)[truth].mean())
    assert np.mean(missed) <= 0.1 + 2 * np.std(missed) / np.sqrt(60)
    assert np.mean(missed) > 0.07


def test_sets_match_a_worked_example() -> None:
    # Nine rows, one in ten may be missed: rank ceil(10 x 0.9) = 9, so the lowest share of a truth
    # is the threshold.
    truths = np.linspace(0.9, 0.1, 9)
    shares = np.stack([truths, 1 - truths], axis=1)
    found = fit_valid_sets(shares, np.zeros(9, dtype=int), miss=0.1)
    assert found.threshold == pytest.approx(0.1)
    assert found.sizes == (0, 0, 9)
    assert found.apply(np.array([[0.95, 0.05], [0.1, np.nan]])).tolist() == [
        [True, False],
        [True, False],
    ]
    short = fit_prediction_sets(shares[:8], np.zeros(8, dtype=int), miss=0.1)
    assert isinstance(short, Refusal)
    assert short.needed == 9
    assert str(short).endswith("(about 1 more gold row would be enough)")
    groups = np.repeat(np.arange(8), 10)
    short = fit_prediction_sets(
        shares[:1].repeat(80, axis=0), np.zeros(80, dtype=int), miss=0.1, groups=groups
    )
    assert str(short).endswith(
        "(one gold row of each group counts; about 1 more group with gold would be enough)"
    )


def test_truths_that_are_no_options_are_missed_by_every_set() -> None:
    shares, gold = draw_probabilities(200)
    shares[np.arange(10), gold[:10]] = np.nan
    sets = fit_valid_sets(shares, gold, miss=0.1).apply(shares)
    assert not sets[np.arange(10), gold[:10]].any()
    assert sets[np.arange(200), gold].mean() >= 0.9
    shares[np.arange(100), gold[:100]] = np.nan
    assert isinstance(fit_prediction_sets(shares, gold, miss=0.1), Refusal)


def test_rows_without_true_labels_do_not_hide_misses_of_the_others() -> None:
    """Four of five rows have no label: counted as rows that miss none, they would let the sets miss
    half of the labels of the others.
    """
    random = np.random.default_rng(7)
    missed = []
    for _ in range(100):
        shares = random.random((200, 3))
        truth = (random.random((200, 3)) < shares) & (np.arange(200) % 5 == 0)[:, None]
        found = fit_valid_sets(shares, truth, miss=0.1)
        assert (found.method, found.rows) == ("crc", 200)
        assert found.rows_with_label == truth.any(axis=1).sum()
        fresh = random.random((500, 3))
        true = random.random((500, 3)) < fresh
        some = true.any(axis=1)
        share = (true & ~found.apply(fresh)).sum(axis=1)[some] / true.sum(axis=1)[some]
        missed.append(share.mean())
    assert np.mean(missed) <= 0.1 + 2 * np.std(missed) / 10
    assert "on average over rows that have any" in describe_result(found)


def test_sets_of_several_labels_need_rows_with_a_label() -> None:
    shares, truth = RANDOM.random((200, 3)), np.zeros((200, 3), dtype=bool)
    none = fit_prediction_sets(shares, truth)
    assert isinstance(none, Refusal)
    assert "9 gold rows with a label or more" in str(none)
    truth[:5, 0] = True
    few = fit_prediction_sets(shares, truth)
    assert isinstance(few, Refusal)
    assert (few.rows, few.needed) == (200, 360)
    truth[:, 0] = True
    assert fit_valid_sets(shares, truth, miss=0.01).threshold == pytest.approx(
        np.sort(shares[:, 0])[1], abs=0.02
    )


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_rows_are_refused(n: int) -> None:
    shares, gold = draw_probabilities(10)
    assert isinstance(fit_prediction_sets(shares[:n], gold[:n]), Refusal)


def test_invalid_arguments_are_refused() -> None:
    shares, gold = draw_probabilities(50)
    for miss in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError):
            fit_prediction_sets(shares, gold, miss=miss)


def test_one_row_of_each_group_is_used_and_reported() -> None:
    shares, gold = draw_probabilities(300)
    found = fit_valid_sets(shares, gold, groups=np.repeat(np.arange(100), 3))
    assert (found.rows, found.grouped, sum(found.sizes)) == (100, True, 100)
    assert found.mean_size == pytest.approx(
        sum(size * rows for size, rows in enumerate(found.sizes)) / 100
    )
    assert found.to_json()["mean_size"] == found.mean_size
    assert len(build_result_blocks(found)) == 2
    constant = fit_valid_sets(np.full((50, 4), 0.25), np.zeros(50, dtype=int))
    assert constant.mean_size == 4


def test_sets_that_must_miss_more_than_the_bound_are_refused() -> None:
    shares, truth = np.full((100, 3), 0.9), np.zeros((100, 3), dtype=bool)
    truth[:, 0] = True
    shares[:50, 0] = np.nan  # the true label is not an option of the row
    for gold in (truth, np.zeros(100, dtype=int)):
        found = fit_prediction_sets(shares, gold, miss=0.1)
        assert isinstance(found, Refusal)
        assert "not an option" in found.reason

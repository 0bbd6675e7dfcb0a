"""medtask as an estimator of scikit-learn: by scikit-learn's own checks, and in its pipelines and
searches.
"""

from __future__ import annotations

import copy
import gc
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer
from sklearn.utils.estimator_checks import parametrize_with_checks

import medtask
from medtask.errors import InputError, UsageError
from medtask.records import Record
from medtask.sklearn import MedtaskClassifier, _make_task
from medtask.tasks.prompt import build_prompt
from medtask.training.estimator_data import name_classes
from support.small_trainings import PARTS, TAGS, TEXTS, make_rows, use_default_settings

GOLD = [str(row["gold"]) for row in make_rows()]
SETS = [row["gold"] for row in make_rows(kind="labels")]
NEW_TEXTS = ["CT of the knee", "MRI of the left wrist"]


def make_linear_classifier(**more: Any) -> MedtaskClassifier:
    return MedtaskClassifier(method="linear", **more)


@pytest.fixture(autouse=True, scope="module")
def default_settings() -> Iterator[None]:
    """The search for settings has tests of its own, in training/test_linear.py."""
    with use_default_settings():
        yield


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: those that are fitted again on the same rows are found there."""
    return tmp_path_factory.mktemp("models")


# All of them, without exception: their tables of numbers are read as lines of text, "x0: 0.52".
@pytest.mark.slow
@parametrize_with_checks([make_linear_classifier()])
def test_scikit_learns_own_checks(
    estimator: MedtaskClassifier, check: Any, model_folder: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator.set_params(out=model_folder))


@pytest.fixture(scope="module")
def fitted() -> MedtaskClassifier:
    return make_linear_classifier().fit(TEXTS, GOLD)


def test_it_predicts_what_it_learnt(fitted: MedtaskClassifier) -> None:
    assert fitted.classes_.tolist() == sorted(PARTS)
    assert fitted.predict(NEW_TEXTS).tolist() == ["knee", "wrist"]
    shares = fitted.predict_proba(NEW_TEXTS)
    assert shares.shape == (2, 3)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares.argmax(axis=1).tolist() == [1, 2]
    assert fitted.score(TEXTS, GOLD) > 0.9


def test_its_probabilities_are_those_of_a_run_of_its_folder(
    fitted: MedtaskClassifier, tmp_path: Path
) -> None:
    assert fitted.folder_ is not None
    result = medtask.run(
        fitted.task_,
        medtask.load_model(fitted.folder_),
        [{"text": text} for text in NEW_TEXTS],
        out=tmp_path / "run",
    )
    output = medtask.read_table(result.folder / "answers.parquet")
    for row, shares in zip(output, fitted.predict_proba(NEW_TEXTS), strict=True):
        assert row["probabilities"] == pytest.approx(
            dict(zip(fitted.classes_, shares, strict=True))
        )


@pytest.mark.parametrize(
    ("texts", "columns"),
    [
        (np.array(TEXTS), None),
        (np.array(TEXTS, dtype=object), None),
        (pd.Series(TEXTS), None),
        (tuple(TEXTS), None),
        (np.array(TEXTS)[:, None], 1),
        (pd.DataFrame({"text": TEXTS}), 1),
    ],
)
def test_texts_come_in_many_forms(
    texts: Any, columns: int | None, fitted: MedtaskClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = []
    monkeypatch.setattr(
        "medtask.sklearn._train_model",
        lambda classifier, given, home: rows.append(given) or Path("nowhere"),
    )
    model = make_linear_classifier().fit(texts, pd.Series(GOLD))
    assert rows == [[{"text": text, "gold": gold} for text, gold in zip(TEXTS, GOLD, strict=True)]]
    assert getattr(model, "n_features_in_", None) == columns


def test_several_columns_are_reported_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []
    monkeypatch.setattr(
        "medtask.sklearn._train_model",
        lambda classifier, given, home: rows.extend(given) or Path("nowhere"),
    )
    frame = pd.DataFrame({"procedure": ["CT", "MRI"], "age": [61, 4], "dose": [0.25, 3.0]})
    model = make_linear_classifier().fit(frame, ["knee", "wrist"])
    assert rows[0]["text"] == "procedure: CT\nage: 61\ndose: 0.25"
    assert model.n_features_in_ == 3
    with pytest.raises(ValueError, match="feature"):
        model.predict(frame[["age", "procedure"]])


@pytest.mark.parametrize(
    "labels",
    [
        [True, False],
        [3, 7],
        ["a b", "c"],
        [1.0, 2.0],
        [" other ", "knee\n"],
        ["", "knee"],
        ["NA", "none"],
        ["Knee", "knee"],
        [np.int8(0), np.int8(1)],
    ],
)
def test_labels_of_any_kind_come_back_as_they_were(labels: list[Any]) -> None:
    gold = [labels["knee" in text] for text in TEXTS]
    model = make_linear_classifier().fit(TEXTS, gold)
    found = model.predict(NEW_TEXTS)
    assert found.tolist() == [labels[1], labels[0]]
    assert found.dtype == np.unique(labels).dtype
    assert model.classes_.tolist() == np.unique(labels).tolist()


@pytest.mark.parametrize("form", [list, lambda gold: np.array(gold, dtype=object), pd.Series])
def test_labels_of_several_types_keep_their_types(form: Any) -> None:
    gold = ["knee" if "knee" in text else 0 for text in TEXTS]
    model = make_linear_classifier().fit(TEXTS, form(gold))
    assert model.classes_.tolist() == [0, "knee"]
    assert model.predict(NEW_TEXTS).tolist() == ["knee", 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [("knee", "knee "), ("a-b", "a\u2011b"), ("caf\u00e9", "cafe\u0301"), (1, "1")],
)
def test_classes_that_look_the_same_are_refused_when_fitting(one: Any, other: Any) -> None:
    gold = [one if "knee" in text else other for text in TEXTS]
    with pytest.raises(ValueError, match="look the same"):
        make_linear_classifier().fit(TEXTS, gold)


@given(
    st.lists(
        st.one_of(st.text(), st.integers(), st.booleans()), min_size=2, max_size=5, unique_by=repr
    )
)
def test_classes_of_any_text_have_labels_that_a_task_accepts(values: list[Any]) -> None:
    classes = np.empty(len(values), dtype=object)
    classes[:] = values
    try:
        names = name_classes(classes)
    except ValueError:
        return
    classifier = make_linear_classifier()
    classifier.multilabel_ = False
    task = _make_task(classifier, names)
    assert [label.name for label in task.labels] == names


def test_several_labels_are_a_table(fitted: MedtaskClassifier) -> None:
    binarizer = MultiLabelBinarizer(classes=list(TAGS))
    table = binarizer.fit_transform(SETS)
    model = make_linear_classifier().fit(TEXTS, table)
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.predict(["CT of the left knee after a fall"]).tolist() == [[1, 0, 1]]
    assert model.predict_proba(NEW_TEXTS).shape == (2, 3)
    named = make_linear_classifier().fit(TEXTS, pd.DataFrame(table, columns=list(TAGS)))
    assert named.classes_.tolist() == list(TAGS)
    assert [label.name for label in named.task_.labels] == list(TAGS)
    with pytest.raises(ValueError, match="MultiLabelBinarizer"):
        make_linear_classifier().fit(TEXTS, [set(one) for one in SETS])  # type: ignore[call-overload]


def test_several_labels_are_decided_by_the_thresholds_of_the_training() -> None:
    table = MultiLabelBinarizer(classes=list(TAGS)).fit_transform(SETS)
    model = make_linear_classifier().fit(TEXTS, table)
    document = json.loads((Path(str(model.folder_)) / "calibration.json").read_text())
    (entry,) = document["calibrations"]
    thresholds = np.array(entry["calibration"]["thresholds"])
    assert (thresholds != 0.5).any()
    assert entry["calibration"]["method"] == "none"
    assert (model.predict(TEXTS) == (model.predict_proba(TEXTS) >= thresholds)).all()


def test_several_methods_are_tried_within_the_budget() -> None:
    model = MedtaskClassifier(method="auto", options={"budget": 1e-6}).fit(TEXTS, GOLD)
    assert model.predict(NEW_TEXTS).tolist() == ["knee", "wrist"]


def test_definitions_and_instruction_reach_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MedtaskClassifier(
        "fake:seed=3",
        method="none",
        instruction="Which limb?",
        labels={"knee": "the joint of the leg"},
    )
    model.fit(TEXTS, GOLD)
    assert model.folder_ is None
    assert model.task_.instruction == "Which limb?"
    assert {label.name: label.definition for label in model.task_.labels}[
        "knee"
    ] == "the joint of the leg"
    engine = medtask.load_model("fake:seed=3")
    answers = medtask.predict(model.task_, engine, [{"text": text} for text in NEW_TEXTS])
    for answer, shares in zip(answers, model.predict_proba(NEW_TEXTS), strict=True):
        assert answer.probabilities == pytest.approx(dict(zip(model.classes_, shares, strict=True)))


def test_texts_without_an_answer_get_the_shares_of_the_labels_and_are_counted(
    fitted: MedtaskClassifier,
) -> None:
    with pytest.warns(UserWarning, match="2 of 3 texts have no answer"):
        shares = fitted.predict_proba(pd.Series(["", "CT of the knee", None]))
    assert shares[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_a_copy_and_a_pickle_share_the_model_and_the_last_one_removes_it() -> None:
    model = make_linear_classifier().fit(TEXTS, GOLD)
    expected = model.predict_proba(NEW_TEXTS)
    folder = Path(model.folder_ or "")
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for other in copies:
        assert other.task_.fingerprint == model.task_.fingerprint
        record = Record("1", {"text": "CT of the knee"})
        assert build_prompt(other.task_, record) == build_prompt(model.task_, record)
    del model
    gc.collect()
    for other in copies:
        assert other.predict_proba(NEW_TEXTS) == pytest.approx(expected)
    kept = pickle.dumps(copies[0])
    del other
    copies.clear()
    gc.collect()
    assert not folder.exists()
    with pytest.raises(InputError, match="was not found") as refused:
        pickle.loads(kept).predict(NEW_TEXTS)
    assert "`out`" in refused.value.fix


def test_a_folder_of_ones_own_keeps_every_fit_and_finds_it_again(tmp_path: Path) -> None:
    model = make_linear_classifier(out=tmp_path).fit(TEXTS, GOLD)
    folder = Path(model.folder_ or "")
    assert folder.parent == tmp_path
    written = (folder / "medtask.json").stat().st_mtime_ns
    assert make_linear_classifier(out=tmp_path).fit(TEXTS, GOLD).folder_ == str(folder)
    assert (folder / "medtask.json").stat().st_mtime_ns == written
    assert make_linear_classifier(out=tmp_path).fit(TEXTS[:-6], GOLD[:-6]).folder_ != str(folder)
    loaded = pickle.loads(pickle.dumps(model))
    del model
    gc.collect()
    assert loaded.predict(NEW_TEXTS).tolist() == ["knee", "wrist"]


def test_parameters_are_scikit_learns(fitted: MedtaskClassifier) -> None:
    model = clone(make_linear_classifier(epochs=2, labels={"knee": "a joint"}))
    assert model.get_params()["epochs"] == 2
    assert model.set_params(rank=4).rank == 4
    with pytest.raises(NotFittedError):
        model.predict(NEW_TEXTS)
    assert "method='linear'" in repr(fitted)


@pytest.mark.parametrize(
    ("method", "options", "output"),
    [
        (
            "lora",
            {},
            {"method": "lora", "bases": ("m",), "seed": 7, "rank": 8, "epochs": 2.0, "rate": None},
        ),
        ("hybrid", {"dropout": 0.1}, {"bases": ("a", "b"), "dropout": 0.1}),
        ("linear", {}, {"bases": ()}),
    ],
)
def test_the_recipe_is_that_of_the_command(
    method: str, options: dict[str, Any], output: dict[str, Any]
) -> None:
    from medtask.sklearn import _make_recipe

    model = ["a", "b"] if method == "hybrid" else "m"
    recipe = _make_recipe(
        MedtaskClassifier(model, method, rank=8, epochs=2.0, random_state=7, options=options)
    )
    assert {name: getattr(recipe, name) for name in output} == output


def test_what_cannot_be_learnt_from_is_refused() -> None:
    with pytest.raises(UsageError, match="'speed' is not a setting of a training"):
        make_linear_classifier(options={"speed": 3}).fit(TEXTS, GOLD)
    with pytest.raises(ValueError, match="needs 2 or more"):
        make_linear_classifier().fit(TEXTS, ["knee"] * len(TEXTS))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make_linear_classifier().fit(TEXTS, GOLD[:-1])
    with pytest.raises(TypeError, match="must be a string or a number"):
        make_linear_classifier().fit(np.array([[{}], [{}]], dtype=object), ["a", "b"])
    with pytest.raises(ValueError, match="0 sample"):
        make_linear_classifier().fit([], [])


def test_importing_it_loads_no_torch() -> None:
    code = (
        "import sys, medtask.sklearn; sys.exit(any(name in sys.modules for name in ('torch', "
        "'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_it_works_in_pipelines_and_searches() -> None:
    shout = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    pipeline = make_pipeline(shout, make_linear_classifier())
    assert cross_val_score(pipeline, TEXTS, GOLD, cv=3).mean() > 0.6
    search = GridSearchCV(
        make_linear_classifier(), {"validation_share": [0.1, 0.3]}, cv=2, scoring="neg_log_loss"
    ).fit(TEXTS, GOLD)
    assert search.predict(NEW_TEXTS).tolist() == ["knee", "wrist"]
    assert search.best_estimator_.validation_share in (0.1, 0.3)

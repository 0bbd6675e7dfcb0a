"""Fitting a hybrid's weights: the best ones, on rows that no member was trained on, and an
estimate of their gain.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

import medtask
from medtask.engines.base import Caps
from medtask.engines.fake import FakeEngine
from medtask.engines.hybrid import HybridEngine
from medtask.errors import EngineError, InputError, UsageError
from medtask.training.hybrid import fit_hybrid, fit_weights
from medtask.training.linear import fit_linear
from medtask.training.recipe import Recipe
from medtask.training.train import TaskData, train_tasks
from medtask.training.training_data import TrainingData
from support.small_trainings import (
    PARTS,
    TAGS,
    TEXTS,
    make_rows,
    make_task,
    make_training_context,
    make_training_data,
    predict_with_draft,
)

FAKE_REFERENCES = ("fake:seed=1", "fake:seed=2", "fake:seed=3")


def make_recipe(*bases: str) -> Recipe:
    return Recipe(method="hybrid", bases=bases)


@pytest.mark.parametrize("models", [2, 3, 5])
def test_the_weights_are_those_that_scipy_finds(models: int) -> None:
    chance = np.random.default_rng(models)
    given = chance.beta(2, 2, size=(300, models)) ** np.linspace(0.5, 2, models)

    def compute_loss(weights: Any) -> float:
        return float(-np.log(given @ weights).mean())

    found = fit_weights(given)
    sums = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    settings = {
        "bounds": [(0, 1)] * models,
        "constraints": [sums],
        "method": "SLSQP",
        "options": {"ftol": 1e-12},
    }
    other = minimize(compute_loss, np.full(models, 1 / models), **settings)
    assert found.sum() == pytest.approx(1)
    assert found == pytest.approx(other.x, abs=2e-3)
    assert compute_loss(found) <= compute_loss(other.x) + 1e-9


def test_a_model_that_gives_what_is_true_nothing_does_not_break_it() -> None:
    assert fit_weights(np.array([[0.0, 0.5], [0.0, 0.9]])) == pytest.approx([0, 1], abs=1e-3)
    assert fit_weights(np.zeros((3, 2))) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_what_is_saved_is_the_best_mixture_of_the_members(kind: str, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", kind, PARTS if kind == "label" else TAGS)
    data = make_training_data(task, every=2)
    context = make_training_context(tmp_path)
    fitted = fit_hybrid([data], make_recipe(*FAKE_REFERENCES), context)
    engine = medtask.load_model(str(tmp_path / "draft"))
    assert isinstance(engine, HybridEngine)
    assert (fitted.trained_model.engine, fitted.trained_model.kind) == ("hybrid", kind)
    assert sum(engine.weights) == pytest.approx(1)
    texts = [example.prompt.text for example in data.validation]
    alone = [
        list(medtask.predict(task, FakeEngine(seed=seed), [{"text": text} for text in texts]))
        for seed in (1, 2, 3)
    ]

    def compute_loss(weights: list[float]) -> float:
        total = []
        for row, example in enumerate(data.validation):
            shares = [one[row].probabilities or {} for one in alone]
            mixed = {
                name: sum(w * s[name] for w, s in zip(weights, shares, strict=True))
                for name in shares[0]
            }
            if kind == "label":
                total.append(-math.log(mixed[str(example.record.gold)]))
            else:
                total += [
                    -math.log(share if name in (example.record.gold or ()) else 1 - share)
                    for name, share in mixed.items()
                ]
        return sum(total) / len(total)

    weights = [float(weight) for weight in fitted.facts["weights"]]  # type: ignore[attr-defined]
    assert fitted.facts["validation_loss"] == pytest.approx(compute_loss(weights), abs=1e-3)
    assert fitted.facts["validation_losses"] == pytest.approx(
        [compute_loss([i == j for i in range(3)]) for j in range(3)], abs=1e-4
    )
    for step in ((0.05, -0.05, 0), (-0.05, 0, 0.05), (0, 0.05, -0.05), (0, -0.05, 0.05)):
        other = [weight + part for weight, part in zip(weights, step, strict=True)]
        assert min(other) < 0 or compute_loss(other) >= compute_loss(weights) - 1e-6
    for output, row in zip(
        predict_with_draft(task, tmp_path, texts), range(len(texts)), strict=True
    ):
        assert output.probabilities is not None
        for name, share in output.probabilities.items():
            by_hand = sum(
                w * (one[row].probabilities or {})[name]
                for w, one in zip(weights, alone, strict=True)
            )
            assert share == pytest.approx(by_hand, abs=2e-4)
    assert [point.validation_loss for point in context.log.points] == pytest.approx(
        fitted.facts["validation_losses"], abs=1e-3
    )


def test_choices_are_weighed_too(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", "choice", options="options")
    rows = [
        {
            "text": f"which one? {row}",
            "options": ["one", "two", "three"][: 2 + row % 2],
            "gold": "AB"[row % 2],
        }
        for row in range(24)
    ]
    fitted = fit_hybrid(
        [make_training_data(task, rows, every=2)],
        make_recipe(*FAKE_REFERENCES),
        make_training_context(tmp_path),
    )
    assert fitted.trained_model.kind == "choice"
    found = list(medtask.predict(task, medtask.load_model(str(tmp_path / "draft")), rows))
    assert all(
        answer.probabilities and sum(answer.probabilities.values()) == pytest.approx(1)
        for answer in found
    )


def test_a_model_that_is_always_better_takes_it_all_and_this_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows([text for text in TEXTS if "knee" in text])
    engines = {"good": FakeEngine({"knee": 0.9}), "bad": FakeEngine({"knee": 0.2})}
    monkeypatch.setattr("medtask.training.hybrid.load_model", engines.__getitem__)
    monkeypatch.setattr(
        "medtask.training.hybrid.save_hybrid", lambda folder, members, trained: trained
    )
    fitted = fit_hybrid(
        [make_training_data(make_task(tmp_path / "task"), rows)],
        make_recipe("good", "bad"),
        make_training_context(tmp_path),
    )
    assert fitted.facts["weights"] == [1.0, 0.0]
    assert fitted.trained_model.base == "good"
    assert fitted.notes[0] == "bad was left out: it would get less than 0.5% of the weight"
    assert fitted.notes[1].startswith(
        "the hybrid is not better than good alone on the validation rows (log loss 0.105"
    )


def test_models_that_know_different_things_are_better_together(tmp_path: Path) -> None:
    data = make_training_data(make_task(tmp_path / "task"), every=2)
    words = make_training_data(
        data.task, make_rows([text for text in TEXTS if "MRI" in text]), every=9
    )
    fit_linear([words], Recipe(method="linear"), make_training_context(tmp_path / "words"))
    fitted = fit_hybrid(
        [data],
        make_recipe(str(tmp_path / "words" / "draft"), *FAKE_REFERENCES[:2]),
        make_training_context(tmp_path),
    )
    losses = [float(loss) for loss in fitted.facts["validation_losses"]]  # type: ignore[attr-defined]
    assert float(str(fitted.facts["validation_loss"])) <= min(losses)


@pytest.mark.parametrize(("every", "seed", "output"), [(1, 0, 0), (1, 1, 1), (2, 0, 1)])
def test_a_model_that_may_have_learnt_from_the_rows_is_named(
    tmp_path: Path, every: int, seed: int, output: int
) -> None:
    task = make_task(tmp_path / "task")
    train_tasks(
        [TaskData(task, make_rows()[::every])],
        Recipe(method="linear", seed=seed),
        out=tmp_path / "words",
    )
    result = train_tasks(
        [TaskData(task, make_rows())],
        make_recipe(str(tmp_path / "words"), FAKE_REFERENCES[0]),
        out=tmp_path / "both",
    )
    assert sum("another split" in note and "words" in note for note in result.notes) == output


def test_one_model_twice_is_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two or more models"):
        fit_hybrid(
            [make_training_data(make_task(tmp_path / "task"))],
            make_recipe("fake:seed=1", "fake:seed=1"),
            make_training_context(tmp_path),
        )


def test_rows_that_a_model_cannot_answer_are_not_used_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    count = len(data.validation)
    engines = {
        FAKE_REFERENCES[0]: FakeEngine(seed=1),
        FAKE_REFERENCES[1]: FakeEngine(seed=2, too_long={"0"}),
    }
    monkeypatch.setattr("medtask.training.hybrid.load_model", engines.__getitem__)
    fitted = fit_hybrid([data], make_recipe(*FAKE_REFERENCES[:2]), make_training_context(tmp_path))
    assert fitted.facts["rows"] == count - 1
    assert (
        f"1 of {count} validation rows were not used: a model could not answer them" in fitted.notes
    )
    monkeypatch.setattr(
        "medtask.training.hybrid.load_model",
        lambda name: FakeEngine(nan={str(row) for row in range(count)}),
    )
    with pytest.raises(InputError, match=f"none of the {count} validation rows"):
        fit_hybrid([data], make_recipe(*FAKE_REFERENCES[:2]), make_training_context(tmp_path / "b"))


@pytest.mark.parametrize(
    ("score", "output"),
    [("first_token", "reports the most likely tokens only"), ("none", "reports no probabilities")],
)
def test_models_without_exact_probabilities_are_refused(
    score: Any, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> FakeEngine:
        engine = FakeEngine()
        engine.caps = Caps(score, choose=True)
        return engine

    monkeypatch.setattr("medtask.training.hybrid.load_model", load)
    with pytest.raises(EngineError, match=f"ollama:m {output}") as refused:
        fit_hybrid(
            [make_training_data(make_task(tmp_path / "task"))],
            make_recipe("ollama:m", "fake:"),
            make_training_context(tmp_path),
        )
    assert "exact probabilities" in refused.value.fix
    assert list((tmp_path / "draft").iterdir()) == []


def test_what_cannot_be_weighed_is_refused(tmp_path: Path) -> None:
    context = make_training_context(tmp_path)
    data = make_training_data(make_task(tmp_path / "task"))
    with pytest.raises(UsageError, match="two or more models"):
        fit_hybrid([data], make_recipe("fake:"), context)
    with pytest.raises(UsageError, match="2 tasks were given"):
        fit_hybrid([data, data], make_recipe(*FAKE_REFERENCES), context)
    with pytest.raises(InputError, match="fitted on validation rows, and there are none"):
        fit_hybrid(
            [TrainingData(data.task, data.train, ())], make_recipe(*FAKE_REFERENCES), context
        )
    with pytest.raises(
        UsageError, match="of kind answer, and a hybrid combines probabilities only"
    ):
        fit_hybrid(
            [TrainingData(make_task(tmp_path / "text", "answer"), (), ())],
            make_recipe(*FAKE_REFERENCES),
            context,
        )
    texts = make_task(tmp_path / "texts", "choice", options="options", readout="text")
    with pytest.raises(UsageError, match="compares likelihoods"):
        fit_hybrid(
            [make_training_data(texts, [{**make_rows()[0], "options": ["a", "b"]}])],
            make_recipe(*FAKE_REFERENCES),
            context,
        )
    with pytest.raises(InputError, match='was not trained on "elbow"'):
        fit_linear([data], Recipe(method="linear"), make_training_context(tmp_path / "words"))
        elbow = make_task(tmp_path / "elbow", labels=("knee", "elbow"))
        rows = [
            {"text": f"CT of the {name} {row}", "gold": name}
            for name in ("knee", "elbow")
            for row in range(5)
        ]
        fit_hybrid(
            [make_training_data(elbow, rows)],
            make_recipe("fake:", str(tmp_path / "words" / "draft")),
            context,
        )
    assert list((tmp_path / "draft").iterdir()) == []

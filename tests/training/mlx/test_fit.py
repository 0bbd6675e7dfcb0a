"""Whole trainings of tiny models with mlx-lm on the CPU: they learn, and run in both engines."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm trains the models")
pytest.importorskip("torch", reason="the hf engine reads them")

import medtask
from medtask.engines.model_metadata import write_model_metadata
from medtask.errors import EngineError, InputError, UsageError
from medtask.exporting.export import export
from medtask.runs.signals import SignalState
from medtask.training.language.fit import fit_language
from medtask.training.mlx.fit import fit_mlx
from medtask.training.recipe import Recipe
from medtask.training.training_context import TrainingContext
from medtask.training.training_data import TrainingData
from medtask.training.training_log import NullTrainingObserver, TrainingPoint
from support.small_trainings import (
    NEW_TEXTS,
    make_rows,
    make_task,
    make_training_context,
    make_training_data,
)
from support.tiny_models import save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


def make_recipe(base: Path, **more: Any) -> Recipe:
    plain: dict[str, Any] = {
        "method": "rslora",
        "bases": (f"mlx:{base}",),
        "epochs": 2,
        "batch": 8,
        "rank": 4,
        "alpha": 4.0,
        "rate": 1e-2,
    }
    return Recipe(**(plain | more))


def train(folder: Path, recipe: Recipe, kind: str = "label") -> TrainingContext:
    """Train in ``folder``; its draft folder is then a model."""
    context = make_training_context(folder)
    fitted = fit_mlx([make_data(folder, kind)], recipe, context)
    write_model_metadata(context.draft_folder, fitted.trained_model)
    return context


def make_data(folder: Path, kind: str = "label") -> TrainingData:
    task = make_task(folder / "task", kind)
    if kind != "answer":
        return make_training_data(task)
    return make_training_data(task, [{"text": f"part {at}", "gold": "it is"} for at in range(20)])


def list_validations(context: TrainingContext) -> list[TrainingPoint]:
    return [point for point in context.log.points if point.validation_loss is not None]


def list_losses(context: TrainingContext) -> list[float]:
    return [point.loss for point in context.log.points if point.loss is not None]


def predict(folder: Path, reference: str) -> list[medtask.Answer]:
    texts = [str(row["text"]) for row in make_rows()[::4]] + NEW_TEXTS
    task = medtask.load_task(folder / "task")
    model = medtask.load_model(reference, dtype="float32")
    return list(medtask.predict(task, model, [{"text": text} for text in texts]))


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingContext]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(folder, make_recipe(base, epochs=3))


@pytest.mark.slow
def test_a_training_learns_and_its_best_state_is_the_model(
    trained: tuple[Path, TrainingContext],
) -> None:
    folder, context = trained
    first, *others = list_validations(context)
    best = min(others, key=lambda point: point.validation_loss or math.inf)
    assert first.step == 0
    assert (best.validation_loss or math.inf) < (first.validation_loss or 0)
    losses = list_losses(context)
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    data = make_training_data(make_task(folder / "task"))
    model = medtask.load_model(str(context.draft_folder))
    assert model.info.name == "mlx"
    rows = [dict(one.record.fields) for one in data.validation]
    answers = medtask.predict(data.task, model, rows)
    pairs = zip(answers, data.validation, strict=True)
    right = [answer.value == example.record.gold for answer, example in pairs]
    assert sum(right) / len(right) == pytest.approx(best.score)


def test_the_adapter_answers_alike_in_both_engines(trained: tuple[Path, TrainingContext]) -> None:
    folder, context = trained
    in_mlx = predict(folder, str(context.draft_folder))
    in_hf = predict(folder, f"hf:{context.draft_folder}")
    assert len({answer.value for answer in in_mlx}) > 1
    for first, second in zip(in_mlx, in_hf, strict=True):
        assert first.value == second.value
        assert first.probabilities == pytest.approx(second.probabilities, abs=1e-4)


def test_the_adapter_is_merged_by_exports(
    trained: tuple[Path, TrainingContext], tmp_path: Path
) -> None:
    folder, context = trained
    done = export(context.draft_folder, to="merged", out=tmp_path / "merged", rows=4)
    assert done.parity is not None
    assert done.parity.agreement == 1
    for first, second in zip(
        predict(folder, str(context.draft_folder)),
        predict(folder, str(tmp_path / "merged")),
        strict=True,
    ):
        assert first.value == second.value


@pytest.mark.slow
def test_dora_trains_the_last_layers_and_is_merged(base: Path, tmp_path: Path) -> None:
    context = train(tmp_path, make_recipe(base, method="dora", layers=2, alpha=None))
    config = json.loads((context.draft_folder / "adapter_config.json").read_text())
    assert (config["fine_tune_type"], config["num_layers"]) == ("dora", 2)
    assert config["lora_parameters"]["scale"] == 2.0
    in_mlx = predict(tmp_path, str(context.draft_folder))
    in_hf = predict(tmp_path, f"hf:{context.draft_folder}")
    for first, second in zip(in_mlx, in_hf, strict=True):
        assert first.probabilities == pytest.approx(second.probabilities, abs=1e-4)


@pytest.mark.slow
def test_a_quantised_base_is_trained_and_its_adapter_is_merged(base: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "base-8bit"
    export(base, to="mlx", quant="8bit", out=quantized, check=False)
    context = train(tmp_path, make_recipe(quantized, method="qlora"))
    first, *others = list_validations(context)
    assert min(one.validation_loss or math.inf for one in others) < (first.validation_loss or 0)
    in_mlx = predict(tmp_path, str(context.draft_folder))
    export(context.draft_folder, to="merged", out=tmp_path / "merged", check=False)
    in_hf = predict(tmp_path, str(tmp_path / "merged"))
    for one, other in zip(in_mlx, in_hf, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.05)
    with pytest.raises(UsageError, match="is not quantised"):
        fit_mlx([], make_recipe(base, method="qlora"), make_training_context(tmp_path / "again"))


@pytest.mark.parametrize("kind", ["label", "labels", "answer"])
def test_the_first_losses_are_those_of_the_trainer_of_transformers(
    base: Path, tmp_path: Path, kind: str
) -> None:
    recipe = make_recipe(base, epochs=0.1)
    data = [make_data(tmp_path, kind)]
    found = make_training_context(tmp_path / "mlx")
    expected = make_training_context(tmp_path / "hf")
    fit_mlx(data, recipe, found)
    fit_language(data, replace(recipe, bases=(str(base),), dtype="float32"), expected)
    assert list_losses(found)[0] == pytest.approx(list_losses(expected)[0], rel=1e-4)
    losses = [list_validations(one)[0].validation_loss for one in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.scale
@pytest.mark.parametrize("kind", ["labels", "answer"])
def test_other_kinds_are_learnt(base: Path, tmp_path: Path, kind: str) -> None:
    context = train(tmp_path, make_recipe(base, epochs=1), kind)
    first, *others = list_validations(context)
    assert min(one.validation_loss or math.inf for one in others) < (first.validation_loss or 0)


@pytest.mark.slow
def test_losses_do_not_depend_on_how_a_step_is_split(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", make_recipe(base, epochs=1))
    again = train(tmp_path / "again", make_recipe(base, epochs=1, checkpointing=True))
    assert list_losses(again) == pytest.approx(list_losses(whole), rel=1e-3)
    monkeypatch.setattr("medtask.training.mlx.memory_plan._MAX_ROWS", 3)
    parts = train(tmp_path / "parts", make_recipe(base, epochs=1))
    assert list_losses(parts) == pytest.approx(list_losses(whole), rel=1e-3)


class StopAt(NullTrainingObserver):
    """Receives a signal at a step."""

    def __init__(self, step: int, signals: SignalState) -> None:
        self.step, self.signals = step, signals

    def on_point(self, point: TrainingPoint) -> None:
        if point.step == self.step:
            self.signals.number = 2


@pytest.mark.slow
def test_an_interrupted_training_resumes_with_the_same_losses(base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(base, dropout=0.1, epochs=1)
    whole = train(tmp_path / "whole", recipe)
    folder, signals = tmp_path / "part", SignalState()
    data = [make_training_data(make_task(folder / "task"))]
    stopped = make_training_context(folder, StopAt(3, signals), signals)
    assert fit_mlx(data, recipe, stopped).interrupted
    assert len(list_losses(stopped)) == 3
    resumed = make_training_context(folder)
    assert not fit_mlx(data, recipe, resumed).interrupted
    assert list_losses(resumed) == pytest.approx(list_losses(whole)[3:], rel=1e-4)


def test_a_training_that_diverges_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="diverged"):
        train(tmp_path, make_recipe(base, rate=1e30, warmup=0.0, epochs=4))


def test_an_adapter_of_another_base_is_refused(
    trained: tuple[Path, TrainingContext], tmp_path: Path
) -> None:
    adapter = trained[1].draft_folder
    config = json.loads((adapter / "adapter_config.json").read_text())
    other = tmp_path / "adapter"
    other.mkdir()
    (other / "adapters.safetensors").write_bytes((adapter / "adapters.safetensors").read_bytes())
    for changes, message in (
        ({"vocab_size": 421}, "vocab_size 421 instead of 420"),
        ({"hidden_size": 64}, "hidden_size 64 instead of 32"),
        ({"num_layers": 2}, "not an adapter parameter"),
        ({"lora_parameters": {"rank": 2, "scale": 1.0, "dropout": 0.0}}, "does not match"),
    ):
        (other / "adapter_config.json").write_text(json.dumps(config | changes))
        with pytest.raises(EngineError, match=message) as refusal:
            medtask.load_model(str(other))
        assert str(config["model"]) in refusal.value.fix
    for name in ("vocab_size", "hidden_size", "num_hidden_layers"):
        config.pop(name)
    (other / "adapter_config.json").write_text(json.dumps(config | {"fine_tune_type": "full"}))
    for reference in (str(other), f"hf:{other}"):
        with pytest.raises(InputError, match="only LoRA and DoRA"):
            medtask.load_model(reference)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "full"}, "trains adapters"),
        ({"device": "cuda"}, "chooses the device by itself"),
        ({"bases": ("mlx:a/b", "mlx:c/d")}, "one base"),
        ({"bases": ("mlx:model.gguf",)}, "GGUF"),
    ],
)
def test_what_mlx_lm_cannot_train_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fit_mlx([], make_recipe(base, **changes), make_training_context(tmp_path))

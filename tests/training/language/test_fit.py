"""Whole trainings of tiny models: they learn, their folders load, and what they say is what was
validated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import medtask
from medtask.engines.model_metadata import write_model_metadata
from medtask.errors import EngineError, InputError, UsageError
from medtask.training.language.batching import count_batches, order_batches
from medtask.training.language.fit import fit_language
from medtask.training.recipe import Recipe
from medtask.training.training_log import TrainingPoint
from support.small_trainings import make_task, make_training_context, make_training_data
from support.tiny_models import save_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


def make_recipe(base: Path, **more: Any) -> Recipe:
    plain: dict[str, Any] = {
        "method": "rslora",
        "bases": (str(base),),
        "epochs": 2,
        "batch": 8,
        "rank": 4,
        "alpha": 4.0,
        "rate": 1e-2,
        "dtype": "float32",  # exact comparisons must not depend on whether the CPU has bfloat16
    }
    return Recipe(**(plain | more))


def list_losses(points: tuple[TrainingPoint, ...]) -> list[float]:
    return [point.loss for point in points if point.loss is not None]


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "full"])
def test_every_method_learns_and_leaves_a_model_that_loads(
    tmp_path: Path, base: Path, method: Any
) -> None:
    task = make_task(tmp_path / "task")
    data, context = make_training_data(task), make_training_context(tmp_path)
    fitted = fit_language(
        [data],
        make_recipe(base, method=method, **({"rate": 3e-3} if method == "full" else {})),
        context,
    )
    checks = [point for point in context.log.points if point.validation_loss is not None]
    assert checks[0].step == 0  # the base, untrained
    assert min(point.validation_loss or 9 for point in checks[1:]) < (
        checks[0].validation_loss or 0
    )
    write_model_metadata(context.draft_folder, fitted.trained_model)
    assert fitted.trained_model.engine == "hf"
    best = min(checks, key=lambda point: point.validation_loss or 9)
    answers = list(
        medtask.predict(
            task,
            medtask.load_model(str(context.draft_folder), dtype="float32"),
            [dict(one.record.fields) for one in data.validation],
        )
    )
    right = [
        answer.value == example.record.gold
        for answer, example in zip(answers, data.validation, strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(best.score)


def test_only_the_last_layers_get_an_adapter(tmp_path: Path, base: Path) -> None:
    context = make_training_context(tmp_path)
    data = make_training_data(make_task(tmp_path / "task"))
    fit_language([data], make_recipe(base, layers=1, epochs=1), context)
    (file,) = context.draft_folder.glob("*.safetensors")
    with safe_open(file, framework="pt") as stored:
        layers = {name.partition("layers.")[2].partition(".")[0] for name in list(stored.keys())}
        assert (layers, len(stored.keys())) == ({"3"}, 14)
    losses = list_losses(context.log.points)
    assert losses[-1] < losses[0]


def test_rows_read_anew_give_the_same_losses_as_packed_ones(tmp_path: Path, base: Path) -> None:
    found = []
    for pack in (True, False):
        task = make_task(tmp_path / str(pack) / "task")
        context = make_training_context(tmp_path / str(pack))
        fit_language([make_training_data(task)], make_recipe(base, pack=pack, epochs=1), context)
        found.append(list_losses(context.log.points))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_activations_computed_again_give_the_same_losses(tmp_path: Path, base: Path) -> None:
    found = []
    for again in (True, False):
        context = make_training_context(tmp_path / str(again))
        fit_language(
            [make_training_data(make_task(tmp_path / str(again) / "task"))],
            make_recipe(base, checkpointing=again, epochs=1),
            context,
        )
        found.append(list_losses(context.log.points))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_two_tasks_are_learnt_by_one_model(tmp_path: Path, base: Path) -> None:
    first = make_task(tmp_path / "one")
    second = make_task(tmp_path / "two", "labels", ("knee", "wrist", "fall"))
    context = make_training_context(tmp_path)
    fitted = fit_language(
        [make_training_data(first), make_training_data(second)], make_recipe(base), context
    )
    # A calibration is for one task, and this is a model for two.
    assert fitted.trained_model.task_fingerprint == ""
    assert list_losses(context.log.points)[-1] < list_losses(context.log.points)[0]


def test_a_model_that_cannot_be_packed_is_trained_all_the_same(tmp_path: Path) -> None:
    base = save_model(tmp_path / "bloom", "bloom")
    context = make_training_context(tmp_path)
    fitted = fit_language(
        [make_training_data(make_task(tmp_path / "task"))], make_recipe(base, epochs=1), context
    )
    assert fitted.facts["packed"] is False
    assert list_losses(context.log.points)[-1] < list_losses(context.log.points)[0]


def test_written_answers_are_learnt(tmp_path: Path, base: Path) -> None:
    context = make_training_context(tmp_path)
    task = make_task(tmp_path / "task", "answer")
    fit_language(
        [
            make_training_data(
                task, [{"text": f"part {at}", "gold": "it is the knee"} for at in range(20)]
            )
        ],
        make_recipe(base),
        context,
    )
    checks = [
        point.validation_loss for point in context.log.points if point.validation_loss is not None
    ]
    assert checks[-1] < checks[0]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("model.gguf", "GGUF"),
        ("http://127.0.0.1:8000/v1#x", "http engine"),
        ("ollama:gemma", "http engine"),
        ("fake:", "fake engine"),
        ("minilm", "not a language model"),
    ],
)
def test_bases_that_cannot_be_trained_are_refused_before_anything_is_loaded(
    tmp_path: Path, named: str, message: str
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    name = str(tmp_path / named) if named.endswith(".gguf") else named
    with pytest.raises(UsageError, match=message):
        fit_language(
            [make_training_data(make_task(tmp_path / "task"))],
            Recipe(bases=(name,)),
            make_training_context(tmp_path),
        )


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "smollm2-135m"})
    )
    with pytest.raises(UsageError, match="not stacked"):
        fit_language(
            [make_training_data(make_task(tmp_path / "task"))],
            Recipe(bases=(str(tmp_path / "adapter"),)),
            make_training_context(tmp_path),
        )


def test_rows_that_are_too_long_are_reported_and_none_left_is_an_error(
    tmp_path: Path, base: Path
) -> None:
    task = make_task(tmp_path / "task")
    with pytest.raises(InputError, match="no training row fits into 20 tokens"):
        fit_language(
            [make_training_data(task)],
            make_recipe(base, row_tokens=20),
            make_training_context(tmp_path),
        )


def test_a_loss_that_runs_away_ends_the_training_with_a_word(tmp_path: Path, base: Path) -> None:
    with pytest.raises(EngineError, match="diverged") as refusal:
        fit_language(
            [make_training_data(make_task(tmp_path / "task"))],
            make_recipe(base, rate=1e25, warmup=0.0),
            make_training_context(tmp_path),
        )
    assert "--rate" in (refusal.value.fix or "")


def test_every_row_is_learnt_from_once_an_epoch_whatever_stopped_it() -> None:
    tasks, lengths = [0] * 50 + [1] * 21, [row % 17 for row in range(71)]
    steps = count_batches(tasks, 8)
    assert steps == 7 + 3
    first = order_batches(tasks, lengths, 8, 2 * steps, seed=3)
    assert first == order_batches(tasks, lengths, 8, 2 * steps, seed=3)
    assert first[:steps] == order_batches(tasks, lengths, 8, steps, seed=3)
    for epoch in (first[:steps], first[steps:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(71))
        assert all(len({tasks[row] for row in batch}) == 1 for batch in epoch)
    assert first[:steps] != first[steps:]


def test_rows_of_a_small_table_meet_other_rows_in_every_epoch() -> None:
    lengths = list(range(1, 129))
    steps = count_batches([0] * 128, 32)
    batches = order_batches([0] * 128, lengths, 32, 3 * steps, seed=0)
    assert len({frozenset(one) for one in batches}) == len(batches)

"""Trainings from table to model folder: what comes out, what is refused, and that nothing half done
is ever loaded.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.errors import (
    EngineError,
    InputError,
    MedtaskError,
    ModelTooLarge,
    RunMismatch,
    StorageError,
    UsageError,
)
from medtask.training.recipe import Recipe
from medtask.training.train import TaskData, preview_training, train_tasks
from medtask.training.training_data import RowSelection
from support.file_size_limit import limit_file_size
from support.small_trainings import make_rows, make_task
from support.tiny_models import save_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


def make_recipe(base: Path, **more: Any) -> Recipe:
    plain: dict[str, Any] = {
        "bases": (str(base),),
        "epochs": 2,
        "batch": 8,
        "rank": 4,
        "alpha": 4.0,
        "rate": 1e-2,
    }
    return Recipe(**(plain | more))


@pytest.fixture(scope="module")
def trained_model_home(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A finished model folder, with the task beside it."""
    home = tmp_path_factory.mktemp("made")
    result = train_tasks(
        [TaskData(make_task(home / "task"), make_rows())],
        make_recipe(base, epochs=6),
        out=home / "model",
        selection=RowSelection(0.4),
    )
    assert result.state == "finished"
    assert result.exit_code == 0
    return home


def test_the_folder_holds_a_model_its_card_and_its_history_for_its_owner_only(
    trained_model_home: Path,
) -> None:
    folder = trained_model_home / "model"
    names = {path.name for path in folder.iterdir() if path.name != ".lock"}
    assert names >= {
        "medtask.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    }
    assert names >= {"README.md", "loss.csv", "loss.svg"}
    assert not {".training", ".draft"} & names
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    facts = json.loads((folder / "training.json").read_text())
    assert facts["state"] == "finished"
    assert facts["measured"][0]["figures"]["accuracy"]["n"] == 24
    assert "TF-IDF" in facts["measured"][0]["rivals"]
    text = (folder / "README.md").read_text() + (folder / "training.json").read_text()
    assert not any(row["text"] in text for row in make_rows())


def test_the_model_runs_like_any_and_its_calibration_is_applied(
    trained_model_home: Path, tmp_path: Path
) -> None:
    task = medtask.load_task(trained_model_home / "task")
    model = medtask.load_model(str(trained_model_home / "model"))
    result = medtask.run(task, model, make_rows(), out=tmp_path / "run")
    assert (tmp_path / "run" / "answers.csv").exists()
    kept = json.loads((tmp_path / "run" / "manifest.json").read_text())["calibration"]
    full = (trained_model_home / "model" / "calibration.json").exists()
    assert (kept is not None) == full
    assert result.state == "finished"


def test_a_finished_training_is_recalled_and_another_one_refused(
    trained_model_home: Path, base: Path
) -> None:
    task = medtask.load_task(trained_model_home / "task")
    again = train_tasks(
        [TaskData(task, make_rows())],
        make_recipe(base, epochs=6),
        out=trained_model_home / "model",
        selection=RowSelection(0.4),
    )
    assert again.state == "finished"
    assert again.score is not None
    with pytest.raises(RunMismatch, match=r"recipe\.rank"):
        train_tasks(
            [TaskData(task, make_rows())],
            make_recipe(base, epochs=6, rank=8),
            out=trained_model_home / "model",
            selection=RowSelection(0.4),
        )
    more = [*make_rows(), {"text": "one more knee", "gold": "knee"}]
    with pytest.raises(RunMismatch, match=r"task1\.data"):
        train_tasks(
            [TaskData(task, more)],
            make_recipe(base, epochs=6),
            out=trained_model_home / "model",
            selection=RowSelection(0.4),
        )


def test_a_training_that_could_not_begin_leaves_its_folder_free(tmp_path: Path, base: Path) -> None:
    task = make_task(tmp_path / "task")
    with pytest.raises(UsageError, match="cannot be trained"):
        train_tasks(
            [TaskData(task, make_rows())], Recipe(bases=("ollama:gemma",)), out=tmp_path / "out"
        )
    assert (
        train_tasks(
            [TaskData(task, make_rows())], make_recipe(base, epochs=0.2), out=tmp_path / "out"
        ).state
        == "finished"
    )


def test_a_training_without_gain_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtask.training.train.has_no_gain", lambda points: True)
    result = train_tasks(
        [TaskData(make_task(tmp_path / "task"), make_rows())],
        Recipe(method="linear"),
        out=tmp_path / "out",
    )
    assert "nothing was gained" in result.notes[-1]
    assert "nothing was gained" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_in_use_for_something_else_is_left_alone(tmp_path: Path, base: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("mine")
    with pytest.raises(UsageError, match="contains something else"):
        train_tasks(
            [TaskData(make_task(tmp_path / "task"), make_rows())],
            make_recipe(base),
            out=tmp_path / "out",
        )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.doc"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": row["text"], "gold": ""} for row in make_rows()], "gold"),
        ([row for row in make_rows() if row["gold"] == "knee"], "nothing to learn to distinguish"),
        (make_rows()[:3], "rows"),
    ],
)
def test_tables_that_teach_nothing_are_refused_before_a_model_is_loaded(
    tmp_path: Path, rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(MedtaskError, match=message) as refusal:
        train_tasks(
            [TaskData(make_task(tmp_path / "task"), rows)],
            Recipe(bases=("no/such-model",)),
            out=tmp_path / "out",
        )
    assert refusal.value.fix


def test_a_half_written_or_changed_model_is_never_loaded(
    trained_model_home: Path, tmp_path: Path
) -> None:
    import shutil

    for index, spoil in enumerate(("remove", "change", "no contract")):
        folder = tmp_path / str(index)
        shutil.copytree(trained_model_home / "model", folder)
        if spoil == "remove":
            (folder / "adapter_model.safetensors").unlink()
        elif spoil == "change":
            content = bytearray((folder / "adapter_model.safetensors").read_bytes())
            content[-1] ^= 1
            (folder / "adapter_model.safetensors").write_bytes(content)
        else:
            (folder / "medtask.json").unlink()
        with pytest.raises(InputError):
            medtask.load_model(str(folder))
    (trained_model_home / "model" / "README.md").write_text("a card of my own")
    medtask.load_model(str(trained_model_home / "model"))


def test_an_adapter_is_put_on_no_other_base(trained_model_home: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not fit this model") as refusal:
        medtask.load_model(
            str(save_model(tmp_path / "bloom", "bloom")), adapter=str(trained_model_home / "model")
        )
    assert "llama" in (refusal.value.fix or "")
    # A model of the same shape would accept it: the user is warned.
    engine = medtask.load_model(
        str(save_model(tmp_path / "qwen", "qwen2")), adapter=str(trained_model_home / "model")
    )
    assert any("was trained on" in note for note in engine.info.notes)


def test_a_disk_that_fills_up_at_a_checkpoint_is_reported_and_the_training_goes_on_later(
    tmp_path: Path, base: Path
) -> None:
    task = make_task(tmp_path / "task")
    with limit_file_size(20_000), pytest.raises(StorageError) as refusal:
        train_tasks([TaskData(task, make_rows())], make_recipe(base), out=tmp_path / "out")
    assert refusal.value.fix
    with pytest.raises(InputError, match="was interrupted"):
        medtask.load_model(str(tmp_path / "out"))
    assert (
        train_tasks([TaskData(task, make_rows())], make_recipe(base), out=tmp_path / "out").state
        == "finished"
    )


def test_several_tasks_are_measured_each(tmp_path: Path, base: Path) -> None:
    first = make_task(tmp_path / "one")
    second = make_task(tmp_path / "two", "labels", ("knee", "wrist", "fall"))
    task_data = [TaskData(first, make_rows()), TaskData(second, make_rows(kind="labels"))]
    result = train_tasks(task_data, make_recipe(base, epochs=1), out=tmp_path / "out")
    assert [one.headline_metric for one in result.task_results] == ["accuracy", "micro_f1"]


def test_what_does_not_fit_is_refused_with_what_would(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ModelTooLarge) as refusal:
        train_tasks(
            [TaskData(make_task(tmp_path / "task"), make_rows())],
            make_recipe(base, memory=600_100_000, dtype="float32"),
            out=tmp_path / "out",
        )
    assert "smaller" in (refusal.value.fix or "")
    lines = preview_training(
        [TaskData(make_task(tmp_path / "task"), make_rows())],
        make_recipe(base, row_tokens=200),
        out=tmp_path / "out",
    )
    assert any(line.startswith("memory") for line in lines)
    assert any("accelerate launch" in line for line in lines)
    with pytest.raises(ModelTooLarge):
        preview_training(
            [TaskData(make_task(tmp_path / "task"), make_rows())],
            make_recipe(base, memory=100_000_000),
            out=tmp_path / "out",
        )

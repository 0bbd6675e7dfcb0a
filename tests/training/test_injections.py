"""Copies of training rows with planted instructions: their text, their gold, and who reads them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from medtask.errors import UsageError
from medtask.prediction.suspicion import describe_suspicion
from medtask.records import Prompt
from medtask.training.injections import COMMANDS, FORGED_STRUCTURES, add_injected_copies
from medtask.training.recipe import DEFAULT_RECIPE, Recipe
from medtask.training.train import TaskData, preview_training, train_tasks
from medtask.training.training_data import TrainingData
from support.small_trainings import PARTS, make_rows, make_task, make_training_data
from support.tiny_models import save_model

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "injection.py"
PLANTED = (*COMMANDS, *FORGED_STRUCTURES)


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    return make_training_data(make_task(tmp_path / "task"))


def test_a_model_is_measured_by_other_instructions_than_it_was_trained_on() -> None:
    trained, measured = (
        {"".join(one.split()).casefold() for one in payloads}
        for payloads in (PLANTED, runpy.run_path(str(BENCHMARK))["PAYLOADS"])
    )
    assert len(trained) == len(PLANTED)
    assert len(measured) == 20
    assert not trained & measured


@pytest.mark.parametrize("payload", runpy.run_path(str(BENCHMARK))["PAYLOADS"])
def test_every_payload_of_the_benchmark_is_marked_for_review(payload: str) -> None:
    text = payload.format(target="MRI knee", start="<kq>", end="</kq>")
    assert describe_suspicion(Prompt("1", (), (), f"Pain after a fall{text}"))


@pytest.mark.parametrize("planted", PLANTED)
def test_every_instruction_names_an_answer(planted: str) -> None:
    assert "MRI {knee}" in planted.format(target="MRI {knee}")


def test_only_the_text_between_the_tags_differs_and_gold_does_not(data: TrainingData) -> None:
    originals = {example.row: example for example in data.train}
    injected = add_injected_copies(data, 0.5, 0).injected
    assert len(injected) == round(len(data.train) / 2)
    for copy in injected:
        original = originals[copy.row]
        assert copy.record == original.record
        assert copy.prompt.branches == original.prompt.branches
        assert len(copy.prompt.text) > len(original.prompt.text)
        before, after = (
            one.prompt.messages[-1].content.split(one.prompt.text) for one in (original, copy)
        )
        assert before == after
        assert before[0].rstrip().endswith(">")  # the tag that begins the text


def test_the_answer_that_is_asked_for_says_nothing_about_gold(tmp_path: Path) -> None:
    rows = make_rows() * 20
    for number, row in enumerate(rows):
        row["text"] = f"{row['text']} {number}"
    data = make_training_data(make_task(tmp_path / "task"), rows)
    injected = add_injected_copies(data, 1.0, 0).injected
    named = [
        {part for part in PARTS if part in copy.prompt.text.replace(str(gold), "", 1)}
        for copy in injected
        if (gold := copy.record.gold)
    ]
    own = sum(copy.record.gold in parts for copy, parts in zip(injected, named, strict=True))
    assert own / len(injected) == pytest.approx(1 / len(PARTS), abs=0.08)


def test_the_seed_decides_which_rows_and_instructions(data: TrainingData) -> None:
    first, again, other = (add_injected_copies(data, 0.5, seed).injected for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_kind_whose_text_is_the_question_has_no_copies(tmp_path: Path) -> None:
    rows = [{"text": f"What is {word}?", "gold": word} for word in ("fever", "cough", "pain") * 4]
    data = make_training_data(make_task(tmp_path / "task", "answer"), rows)
    assert not add_injected_copies(data, 1.0, 0).injected


def test_fields_and_choices_are_asked_for_answers_of_other_rows(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"part": {"enum": list(PARTS)}}}
    rows = [
        {"text": f"MRI {part} {row}", "gold": {"part": part}} for row in range(4) for part in PARTS
    ]
    data = make_training_data(make_task(tmp_path / "fields", "fields", schema=schema), rows)
    injected = add_injected_copies(data, 1.0, 0).injected
    assert injected
    assert all('{"part":' in copy.prompt.text for copy in injected)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="injections"):
        Recipe(injections=share).check()


def test_trainings_that_began_without_the_setting_have_the_same_identity() -> None:
    assert "injections" not in DEFAULT_RECIPE.to_json()
    assert Recipe(injections=0.5).to_json()["injections"] == 0.5


@pytest.mark.slow
def test_a_language_model_reads_the_copies_too(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    task_data = [TaskData(make_task(tmp_path / "task"), make_rows())]
    settings: dict[str, Any] = {"bases": (str(base),), "epochs": 1, "batch": 8, "rank": 2}
    plain, injected = (
        Recipe(**settings, injections=share, dtype="float32") for share in (0.0, 0.5)
    )
    lines = preview_training(task_data, injected, out=tmp_path / "out")
    assert any("with a planted instruction" in line for line in lines)
    steps = []
    for name, recipe in (("plain", plain), ("injected", injected)):
        train_tasks(task_data, recipe, out=tmp_path / name)
        steps.append(int((tmp_path / name / "loss.csv").read_text().splitlines()[-1].split(",")[1]))
    rows = len(make_rows()) * 0.9
    assert steps == [pytest.approx(rows / 8, abs=1), pytest.approx(1.5 * rows / 8, abs=1)]
    card = (tmp_path / "injected" / "README.md").read_text("utf-8")
    assert "training, with a planted instruction" in card
    assert "planted" not in (tmp_path / "plain" / "README.md").read_text("utf-8")

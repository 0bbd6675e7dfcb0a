"""The adapter that ships is small, whole, called what it is, and better than the model without it
on rows that it has not seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import medtask
from medtask.engines.model_metadata import read_model_metadata
from medtask.evaluation.statistics.intervals import Metric
from support.example_files import EXAMPLES, list_example_texts

ADAPTER = EXAMPLES / "demo_adapter"
TASKS = ("radiology_protocol", "surgery_purpose")
MAX_BYTES = 6_000_000
ROWS = 96


def test_it_is_small_and_whole() -> None:
    assert sum(path.stat().st_size for path in ADAPTER.rglob("*") if path.is_file()) <= MAX_BYTES
    trained = read_model_metadata(ADAPTER)
    assert (trained.engine, trained.base, trained.phi) == ("hf", "smollm2-135m", "no")


def test_it_is_called_a_demonstration_and_names_the_command_that_makes_it() -> None:
    card = (ADAPTER / "README.md").read_text("utf-8")
    assert "**This model is a demonstration and not for real work.**" in card
    command = json.loads((ADAPTER / "training.json").read_text("utf-8"))["command"]
    makefile = " ".join(
        (EXAMPLES.parent / "Makefile").read_text("utf-8").replace("\\\n", " ").split()
    )
    assert (
        command.replace("--out examples/demo_adapter", "--out $(ADAPTER)").removeprefix("medtask ")
        in makefile
    )


@pytest.mark.parametrize("name", TASKS)
def test_it_has_learnt_from_no_row_that_ships(name: str, make_examples: ModuleType) -> None:
    learnt = {
        make_examples.normalize_text(row["text"])
        for row in make_examples.make_example_rows(name, "train", 900)
    }
    assert not learnt & {make_examples.normalize_text(text) for text in list_example_texts(name)}


def measure_accuracies(name: str, folder: Path) -> list[Metric]:
    """Of the model without the adapter and of the one with it, on the first rows of an example."""
    task = medtask.load_task(EXAMPLES / name)
    assert task.data is not None
    found = []
    for reference in ("smollm2-135m", str(ADAPTER)):
        model = medtask.load_model(reference)
        out = folder / Path(reference).name
        result = medtask.run(task, model, task.data, out=out, limit=ROWS, baselines=False)
        assert result.summary is not None
        assert result.summary.gold is not None
        assert result.summary.gold.evaluation is not None
        figure = result.summary.gold.evaluation.metrics["accuracy"]
        assert figure is not None
        found.append(figure)
    return found


@pytest.mark.scale
@pytest.mark.parametrize("name", TASKS)
def test_it_is_better_than_the_model_without_it_on_the_rows_that_ship(
    name: str, tmp_path: Path
) -> None:
    untrained, trained = measure_accuracies(name, tmp_path)
    assert trained.low is not None
    assert untrained.high is not None
    assert trained.low > untrained.high + 0.1

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from medtask.engines.model_metadata import find_trained_engine
from medtask.errors import InputError
from support.command_line import RunCommand
from support.small_trainings import use_default_settings
from support.tiny_models import save_model

EXAMPLES = Path(__file__).parents[2] / "examples"
SURGERY = EXAMPLES / "surgery_purpose"


@pytest.fixture
def few_operations(tmp_path: Path) -> Path:
    """The first 100 rows of an example, with its task."""
    folder = tmp_path / "surgery"
    folder.mkdir()
    shutil.copy(SURGERY / "task.yaml", folder)
    with (
        (SURGERY / "procedures.csv").open(encoding="utf-8", newline="") as source,
        (folder / "procedures.csv").open("w", encoding="utf-8", newline="") as target,
    ):
        csv.writer(target).writerows(islice(csv.reader(source), 101))
    return folder


def test_a_linear_model_is_trained_reported_and_used(
    medtask: RunCommand, few_operations: Path, tmp_path: Path
) -> None:
    done = medtask("train", few_operations, "--method", "linear", "--out", tmp_path / "model", "-q")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    # A better baseline is the first line.
    metric = next(line for line in lines[:2] if line.startswith("accuracy on validation rows 0."))
    assert ", n = 9" in metric
    assert lines[-1] == f"medtask run TASK TABLE --model {tmp_path / 'model'}"
    ran = medtask(
        *("run", few_operations, "--model", tmp_path / "model"),
        *("--out", tmp_path / "run", "-q", "--json"),
    )
    assert ran.code == 0
    assert json.loads(ran.out)["metrics"] is None  # it has seen all of these rows
    assert (
        len(
            list(
                csv.DictReader(
                    (tmp_path / "run" / "answers.csv")
                    .read_text("utf-8-sig")
                    .splitlines(keepends=True)
                )
            )
        )
        == 100
    )


@pytest.mark.slow
def test_out_of_fold_answers_are_a_run_that_evaluate_reads(
    medtask: RunCommand, few_operations: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    with use_default_settings():
        done = medtask(
            "train", few_operations, "--method", "linear", "--folds", 2, "--out", out, "-q"
        )
    assert (done.code, done.err) == (0, "")
    assert "each answered by a model of 2 folds that was not trained on it" in done.out
    evaluated = json.loads(medtask("evaluate", f"{out}-folds", "--json", "--no-baselines").out)
    accuracy = json.loads((out / "training.json").read_text())["out_of_fold"]["metrics"]["accuracy"]
    assert evaluated["metrics"]["accuracy"]["value"] == accuracy["value"]
    assert evaluated["n"] == 100


def test_the_same_command_again_trains_nothing_and_reports_it(
    medtask: RunCommand, few_operations: Path, tmp_path: Path
) -> None:
    command = ("train", few_operations, "--method", "linear", "--out", tmp_path / "model", "--json")
    with use_default_settings():
        first = json.loads(medtask(*command, "-q").out)
    before = (tmp_path / "model" / "medtask.json").stat().st_mtime_ns
    again = medtask(*command)
    assert "nothing is left to do" in again.err
    assert json.loads(again.out) == first
    assert (tmp_path / "model" / "medtask.json").stat().st_mtime_ns == before


def test_a_dry_run_reports_steps_memory_and_the_command_for_several_gpus(
    medtask: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tmp_path / "base", "llama")
    done = medtask(
        "train",
        SURGERY,
        "--base",
        base,
        "--row-tokens",
        512,
        "--out",
        tmp_path / "model",
        "--dry-run",
    )
    assert done.code == 0
    result = done.out.splitlines()
    assert any("training rows" in line for line in result)
    assert any(line.startswith("memory ") for line in result)
    assert any(
        "accelerate launch --num_processes N -m medtask train" in line and "--dry-run" not in line
        for line in result
    )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("words", "code", "result"),
    [
        (("--base", "http://127.0.0.1:1/v1#x"), 2, "cannot be trained"),
        (("--base", "nobody.gguf"), 2, "GGUF"),
        (("--method", "qlora", "--base", "BASE"), 2, "CUDA"),
        (("--gold", "nowhere"), 4, "nowhere"),
        (("--epochs", "0"), 2, "epochs"),
        (("--rate", "-1"), 2, "--rate"),
        (("--dropout", "1"), 2, "dropout"),
        (("--share", "0.9"), 2, "share"),
        (("--method", "hybrid", "--base", "minilm"), 2, "hybrid"),
        (("--also", "TASKLESS"), 4, "TASKLESS"),
    ],
)
def test_mistakes_are_reported_with_what_to_do_and_leave_nothing(
    medtask: RunCommand, tmp_path: Path, words: tuple[str, ...], code: int, result: str
) -> None:
    given = [
        str(save_model(tmp_path / "base", "llama")) if word == "BASE" else word for word in words
    ]
    done = medtask("train", SURGERY, *given, "--out", tmp_path / "model", "-q")
    assert done.code == code, done.err
    assert result in done.err
    assert "fix:" in done.err
    assert not (tmp_path / "model" / "medtask.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.scale)]
)
def test_a_fit_that_takes_minutes_is_stopped_within_seconds_and_starts_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    chance = random.Random(3)
    rows = [
        [" ".join(str(chance.randrange(5_000)) for _ in range(150)), f"label {row % 24}"]
        for row in range(2_000)
    ]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "gold"], *rows])
    content = {
        "name": "many",
        "instruction": "Decide.",
        "input": "{{ text }}",
        "gold": "gold",
        "answer": {"kind": "label", "labels": [f"label {index}" for index in range(24)]},
    }
    (tmp_path / "task.json").write_text(json.dumps(content))
    out = tmp_path / "model"
    command = ["train", str(tmp_path / "task.json"), str(tmp_path / "rows.csv")]
    with subprocess.Popen(
        [sys.executable, "-m", "medtask", *command, "--method", "linear", "--out", str(out)],
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not (out / "loss.csv").exists():
            time.sleep(0.1)
        time.sleep(0.5)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=60) == (130 if number == signal.SIGINT else 143)
        assert time.monotonic() - began < 8  # the limit is 4 s; the machine may be busy
    with pytest.raises(InputError, match="its training was interrupted"):
        find_trained_engine(out)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main

from medtask.cli.main import app
from medtask.engines.fake import FakeEngine
from medtask.engines.load_options import LoadOptions
from support.command_line import RunCommand

SHARED_OPTIONS = {
    "--adapter",
    "--dtype",
    "--device",
    "--quantize",
    "--memory",
    "--allow-remote",
    "--context-tokens",
    "--tokenizer",
    "--allow-unverified-context",
}
GIVEN = (
    *("--dtype", "float32", "--device", "cpu", "--memory", "4GB", "--context-tokens", "2048"),
    *("--adapter", "adapters/a", "--quantize", "4bit", "--tokenizer", "org/name"),
    *("--allow-remote", "--allow-unverified-context"),
)
EXPECTED = LoadOptions(
    dtype="float32",
    device="cpu",
    memory=4 * 10**9,
    context_tokens=2048,
    adapter="adapters/a",
    quantize="4bit",
    tokenizer="org/name",
    allow_remote=True,
    allow_unverified_context=True,
)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, LoadOptions]]:
    """What the loader of the fake engine was called with, in order."""
    calls: list[tuple[str, LoadOptions]] = []

    def load(reference: str, options: LoadOptions) -> FakeEngine:
        calls.append((reference, options))
        return FakeEngine()

    monkeypatch.setattr("medtask.engines.fake.load_fake", load)
    return calls


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(
        "name: part\ninstruction: Name the body part.\ninput: '{{ text }}'\n"
        "answer: {kind: label, labels: [knee, wrist]}\n"
    )
    (tmp_path / "table.csv").write_text("text\nTorn meniscus\nFall on the hand\n")
    return tmp_path / "task.yaml"


@pytest.mark.parametrize("verb", ["run", "check", "ask", "judge", "doctor", "tune"])
def test_every_verb_that_loads_a_model_has_the_shared_options(verb: str) -> None:
    parameters = typer.main.get_group(app).commands[verb].params  # type: ignore[attr-defined]
    assert {name for option in parameters for name in option.opts} >= SHARED_OPTIONS


@pytest.mark.parametrize("given", [GIVEN, ()])
def test_check_describes_exactly_what_run_loads(
    medtask: RunCommand, task: Path, loads: list[tuple[str, LoadOptions]], given: tuple[str, ...]
) -> None:
    for verb in ("run", "check"):
        done = medtask(verb, "task.yaml", "table.csv", "--model", "fake:seed=1", *given)
        assert done.code == 0, done.err
    assert loads == [("fake:seed=1", EXPECTED if given else LoadOptions())] * 2


def test_ask_and_doctor_load_with_the_same_options(
    medtask: RunCommand, task: Path, loads: list[tuple[str, LoadOptions]]
) -> None:
    medtask("ask", "What is glaucoma?", "--model", "fake:", *GIVEN)
    medtask("doctor", "--model", "fake:", *GIVEN)
    medtask("doctor", "task.yaml", "--model", "fake:", *GIVEN)
    assert loads == [("fake:", EXPECTED)] * 3


@pytest.mark.parametrize("verb", ["run", "check"])
def test_an_option_that_the_engine_does_not_support_is_refused_by_both(
    medtask: RunCommand, task: Path, verb: str
) -> None:
    done = medtask(verb, "task.yaml", "table.csv", "--model", "minilm", "--context-tokens", "512")
    assert done.code == 2
    assert "the encoder engine does not support --context-tokens" in done.err


def test_check_and_run_plan_a_real_model_alike(
    medtask: RunCommand, task: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the hf engine is not installed")
    from support.tiny_models import save_model

    reference = str(save_model(tmp_path / "model", "llama"))
    options = ("--model", reference, "--dtype", "bfloat16", "--device", "cpu", "--memory", "4GB")
    result: dict[str, Any] = json.loads(
        medtask("run", "task.yaml", "table.csv", "--json", *options).out
    )
    assert result["model"] == f"{reference}, bfloat16, cpu"
    assert result["model"] in medtask("check", "task.yaml", "table.csv", *options).out
    refused = ("--memory", "1MB")
    for verb in ("run", "check"):
        done = medtask(verb, "task.yaml", "table.csv", *options[:-2], *refused)
        assert done.code == 5
        assert "1.0 MB may be used here" in done.err

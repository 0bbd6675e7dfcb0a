"""`medtask export` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command_line import RunCommand
from support.tiny_adapters import LORA_SETTINGS, save_adapter
from support.tiny_models import save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    base = save_model(tmp_path / "base", "llama")
    return save_adapter(tmp_path / "adapter", base, **LORA_SETTINGS["rslora"])


def test_a_merged_model_is_compared_published_and_verified(
    adapter: Path, medtask: RunCommand
) -> None:
    done = medtask("export", adapter, "--to", "merged", "--out", "merged", "--rows", "4")
    assert done.code == 0, done.err
    assert "4 prompts: 1.000 of the answers agree" in done.out
    manifest = json.loads(Path("merged/export.json").read_text())
    assert manifest["parity"]["passed"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= manifest["files"].keys()
    assert str(adapter.parent / "base") in Path("merged/README.md").read_text()
    assert medtask("export", "--verify", "merged").code == 0
    assert medtask("export", "--check", adapter, "merged", "--rows", "3").code == 0
    with Path("merged/config.json").open("a") as file:
        file.write(" ")
    changed = medtask("export", "--verify", "merged")
    assert (changed.code, "config.json is changed" in changed.err) == (4, True)


def test_another_model_is_not_the_same(adapter: Path, medtask: RunCommand) -> None:
    done = medtask("export", "--check", adapter, "base", "--rows", "8")
    assert done.code == 5
    assert "base is not the same model" in done.err


def test_an_existing_path_is_not_replaced(adapter: Path, medtask: RunCommand) -> None:
    Path("merged").mkdir()
    done = medtask("export", adapter, "--to", "merged", "--out", "merged")
    assert (done.code, "exists already" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "mergd", "--out", "x"], 'did you mean "merged"?'),
        (["--to", "merged", "--out", "x", "--quant", "q4_k_m"], "leave --quant out"),
        (["--to", "merged"], "a path"),
    ],
)
def test_options_that_are_not_valid_are_refused(
    adapter: Path, medtask: RunCommand, options: list[str], message: str
) -> None:
    done = medtask("export", adapter, *options)
    assert (done.code, message in done.err) == (2, True)
    assert sorted(path.name for path in Path().iterdir()) == ["adapter", "base"]


def test_a_server_has_nothing_to_export(medtask: RunCommand) -> None:
    done = medtask("export", "ollama:gemma3", "--to", "merged", "--out", "x")
    assert (done.code, "not on this machine" in done.err) == (2, True)

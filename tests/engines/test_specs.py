from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medtask.engines import specs
from medtask.engines.specs import BUILT_IN_ENGINES, find_engine, find_engine_by_prefix
from medtask.errors import EngineError
from support.command_line import RunCommand

PLUGIN_MODULE = """
from dataclasses import replace

from medtask.engines.base import EngineInfo
from medtask.engines.fake import FakeEngine
from medtask.engines.specs import EngineSpec

SPEC = EngineSpec(
    name="echo",
    loader="echo_engine:load_echo",
    prefixes=("echo:", "repeat:"),
    option_fields=frozenset({"device"}),
    description="echo:LABEL, always the same label",
)


def load_echo(reference, options):
    label = reference.partition(":")[2]
    engine = FakeEngine({label: 0.9})
    identity = {"reference": reference}
    engine.info = EngineInfo("echo", f"echo of {label}", identity, device=options.device)
    return engine
"""
TASK = """
name: part
instruction: Name the body part.
input: "{{ text }}"
answer: {kind: label, labels: [knee, wrist]}
"""


def install_plugin(folder: Path, module: str = PLUGIN_MODULE, target: str = "SPEC") -> None:
    """Write a package as pip installs it: a module, and metadata with an entry point."""
    (folder / "echo_engine.py").write_text(module)
    metadata = folder / "echo_engine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-engine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[medtask.engines]\necho = echo_engine:{target}\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a task and a table; packages in ``site`` are found."""
    (tmp_path / "site").mkdir()
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "table.csv").write_text("text\nTorn meniscus\nFall on the hand\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    specs._read_entry_points.cache_clear()
    yield tmp_path
    specs._read_entry_points.cache_clear()
    sys.modules.pop("echo_engine", None)


@pytest.mark.parametrize("prefix", ["echo:", "repeat:"])
def test_a_task_runs_on_the_engine_of_another_package(
    folder: Path, prefix: str, medtask: RunCommand
) -> None:
    install_plugin(folder / "site")
    options = ("--model", f"{prefix}wrist", "--device", "cpu", "--out", "out", "--json")
    done = medtask("run", "task.yaml", "table.csv", *options)
    assert done.code == 0, done.err
    assert json.loads(done.out)["model"] == "echo of wrist"
    assert "wrist" in (folder / "out" / "answers.csv").read_text().splitlines()[1]
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["model"]["details"]["device"] == "cpu"


def test_a_process_lists_the_engine_of_another_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(folder / "site")
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"), prepend=":")
    command = [sys.executable, "-m", "medtask", "models", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    listed = json.loads(done.stdout)["engines"]
    assert listed[-1]["name"] == "echo"
    assert listed[-1]["answers"] == "echo:LABEL, always the same label"


def test_an_option_that_the_other_package_does_not_support_is_refused(
    folder: Path, medtask: RunCommand
) -> None:
    install_plugin(folder / "site")
    options = ("--model", "echo:wrist", "--dtype", "float32")
    done = medtask("run", "task.yaml", "table.csv", *options)
    assert done.code == 2
    assert "the echo engine does not support --dtype" in done.err


@pytest.mark.parametrize(
    ("module", "target", "reason"),
    [
        ("import no_such_module", "SPEC", "cannot be imported (ModuleNotFoundError)"),
        ("SPEC = 3", "SPEC", "is not a valid engine"),
        (PLUGIN_MODULE, "load_echo", "is not a valid engine"),
        (PLUGIN_MODULE.replace('name="echo"', 'name="hf"'), "SPEC", "is not a valid engine"),
    ],
)
def test_a_package_with_a_broken_engine_is_named(
    folder: Path, module: str, target: str, reason: str, medtask: RunCommand
) -> None:
    install_plugin(folder / "site", module, target)
    arguments = ("run", "task.yaml", "table.csv", "--model")
    done = medtask(*arguments, "echo:wrist")
    assert done.code == 5
    assert reason in done.err
    assert "update or uninstall echo-engine" in done.err
    assert medtask(*arguments, "fake:").code == 0


def test_prefixes_lead_to_one_engine_each() -> None:
    prefixes = [prefix for spec in BUILT_IN_ENGINES.values() for prefix in spec.prefixes]
    assert len(set(prefixes)) == len(prefixes)
    for spec in BUILT_IN_ENGINES.values():
        for prefix in spec.prefixes:
            assert find_engine_by_prefix(f"{prefix}model") == spec
    assert find_engine_by_prefix("org/name") is None
    assert find_engine_by_prefix("unknown:model") is None


def test_an_engine_that_no_package_provides_is_not_found() -> None:
    assert find_engine("hf") is BUILT_IN_ENGINES["hf"]
    with pytest.raises(EngineError, match="echo is not installed"):
        find_engine("echo")

"""Settings of every test process, such as how threads wait and which number format models load in;
and the command line.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

# The threads of torch wait by spinning by default, which takes a core from other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes: one core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from medtask.cli.main import main
from support.command_line import CommandResult, RunCommand

# Modules of tests and what they import are no garbage. Searches for it take two fifths of the time
# until all tests are known.
gc.disable()

# On a busy machine, drawing examples and testing them is slow.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# A search for garbage among all objects of torch, transformers and some thousand tests takes half
# a second, and every model that is closed makes one.
MANY_OBJECTS = 50_000

WAITING = ("tests/scaling/", "tests/server/jobs/")


@pytest.fixture(autouse=True, scope="session")
def no_native_bf16() -> Iterator[None]:
    """Models load in float32 unless a test asks for another format, whatever this CPU can do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medtask.hardware._has_native_bf16", lambda: False)
        yield


@pytest.fixture(autouse=True, scope="session")
def own_probe_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Results of probes are not kept beyond the tests: their models are not used again."""
    folder = tmp_path_factory.mktemp("cache") / "probes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medtask.engines.files.probe_results.find_probe_folder", lambda: folder)
        yield


@pytest.fixture(autouse=True, scope="session")
def files_stay_in_memory() -> Iterator[None]:
    """This process waits for no disk: a run alone would wait twenty times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True, scope="session")
def equal_texts_are_encoded_once() -> Iterator[None]:
    """MiniLM encodes a list of texts once: many tests compare a run with MiniLM on equal rows."""
    from medtask import similarity

    encode, kept = similarity.encode_texts, dict[tuple[str, ...], Any]()

    def encode_once(texts: Sequence[str]) -> Any:
        similarity._load_minilm()  # an error where a test has removed MiniLM
        key = tuple(texts)
        if key not in kept:
            kept[key] = encode(texts)
        return kept[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "encode_texts", encode_once)
        yield


@pytest.fixture(autouse=True, scope="module")
def imports_are_no_garbage() -> None:
    """Searches for garbage leave out what was imported before a module's first test."""
    if len(gc.get_objects()) > MANY_OBJECTS:
        gc.collect()
        gc.freeze()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A run without slow tests is also one without tests of scale.

    Slow tests on SQLite are repeated on PostgreSQL with the tests of scale; fast ones always run on
    both. Tests that wait for other programs come first, so that no process works alone at the end.
    """
    for item in items:
        if "postgresql" in item.name and item.get_closest_marker("slow"):
            item.add_marker("scale")
        if item.get_closest_marker("scale"):
            item.add_marker("slow")
    items.sort(key=lambda item: not item.nodeid.startswith(WAITING))


@pytest.fixture
def medtask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Run the command line in this process, as the installed script does."""
    monkeypatch.setenv("COLUMNS", "200")

    def run_command(*words: object, stdin: bytes = b"") -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["medtask", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return CommandResult(int(left.value.code or 0), shown.out, shown.err)

    return run_command

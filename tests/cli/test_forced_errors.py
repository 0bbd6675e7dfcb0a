"""S19: whatever fails, and with whatever message, no text of a row is in output, logs or manifests.

Functions of the package fail one after another, each with an error whose message is a row's text,
as libraries do that quote what they could not read.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType

import pytest

import medtask as package
from cli.conftest import SURGERY_TASK
from support.command_line import RunCommand

CANARY = "Jane Doe born 1961"
KEY = "sk-canary-0123456789"
ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError(CANARY),
    lambda: KeyError(CANARY),
    lambda: json.JSONDecodeError("cannot be read", CANARY, 3),
    lambda: UnicodeEncodeError("ascii", CANARY, 0, 3, CANARY),
    lambda: TypeError(CANARY),
    lambda: RuntimeError(f"bad input: {CANARY!r}"),
)
FAULTS_PER_COMMAND = 4
COMMANDS = {
    "check": ["check", "surgery", "--model", "fake:"],
    "run": ["run", "surgery", "--model", "fake:", "--out", "out{}", "--to", "csv,xlsx,jsonl"],
    "evaluate": ["evaluate", "done", "--max-error", "0.5"],
    "audit": ["audit", "done", "--out", "audit{}"],
    "compare": ["compare", "done", "again", "--out", "comparison{}.html"],
    "train": ["train", "surgery", "--method", "linear", "--out", "model{}"],
    "data": ["data", "prepare", "surgery", "--out", "rows{}"],
    "bench": ["bench", "surgery", "--model", "fake:", "--out", "bench{}"],
    "doctor": ["doctor", "surgery"],
}
# Files that must not hold texts, wherever they are.
SILENT_FILES = ("manifest.json", "training.json", "medtask.json", "README.md", "*.log", "loss.csv")
# Modules whose failure would leave this process without what it needs for the next case.
SPARED_MODULES = ("cli/", "runs/signals.py", "privacy.py", "errors.py", "isolation.py")
PACKAGE = Path(package.__file__).parent


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose texts are canaries, its task, and two finished runs."""
    folder = tmp_path_factory.mktemp("finished")
    names = ("curative", "palliative", "staging")
    rows = [f"A{row},{CANARY} {row} {names[row % 3]},{names[row % 3]}" for row in range(30)]
    (folder / "procedures.csv").write_text("\n".join(["case_id,procedure,purpose", *rows]) + "\n")
    (folder / "surgery").mkdir()
    (folder / "surgery/task.yaml").write_text(SURGERY_TASK)
    task = package.load_task(folder / "surgery")
    for name in ("done", "again"):
        package.run(task, package.load_model("fake:"), task.data, out=folder / name)
    return folder


class FaultInjector:
    """Counts the functions of the package that are called, and lets one of them fail."""

    def __init__(self, error: BaseException | None = None, target: CodeType | None = None) -> None:
        self.called: dict[CodeType, None] = {}
        self.error, self.target = error, target

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if code is self.target and self.error is not None:
            error, self.error = self.error, None
            raise error
        self.called.setdefault(code)

    def list_functions(self) -> list[CodeType]:
        """The functions that can fail, in the order of their first calls."""
        return [
            code
            for code in self.called
            if (path := Path(code.co_filename)).is_relative_to(PACKAGE)
            and not code.co_name.startswith("<")
            and not path.relative_to(PACKAGE).as_posix().startswith(SPARED_MODULES)
        ]


def choose_functions(functions: Sequence[CodeType]) -> Iterator[CodeType]:
    """Functions from all parts of the command."""
    step = len(functions) / FAULTS_PER_COMMAND
    return (functions[int((number + 0.5) * step)] for number in range(FAULTS_PER_COMMAND))


def run_with(injector: FaultInjector, medtask: RunCommand, words: Iterable[str]) -> str:
    """What the command writes to standard output and standard error."""
    sys.settrace(injector)
    try:
        outcome = medtask(*words)
    finally:
        sys.settrace(None)
    return outcome.out + outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_failure_of_a_command_shows_the_text_of_a_row_or_a_key(
    name: str,
    finished_runs: Path,
    tmp_path: Path,
    medtask: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(finished_runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", KEY)
    caplog.set_level(logging.DEBUG)
    whole = FaultInjector()
    words = COMMANDS[name]
    shown = [run_with(whole, medtask, (word.format("") for word in words))]
    functions = whole.list_functions()
    assert len(functions) > 40
    failed = 0
    for number, function in enumerate(choose_functions(functions)):
        injector = FaultInjector(ERRORS[number % len(ERRORS)](), function)
        shown.append(run_with(injector, medtask, (word.format(number) for word in words)))
        failed += injector.error is None
    assert failed >= FAULTS_PER_COMMAND - 1
    shown.append(caplog.text)
    files = [path for pattern in SILENT_FILES for path in tmp_path.rglob(pattern)]
    assert files
    shown += [path.read_text("utf-8") for path in files]
    assert not [text for text in shown if CANARY in text or KEY in text]

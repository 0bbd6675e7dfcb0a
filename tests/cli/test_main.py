"""What a shell sees: exit codes, errors with their remedy, and no traceback."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medtask import errors
from medtask.cli import main as shell
from support.command_line import RunCommand
from support.ordinary_user import act_as_ordinary_user, make_readable_folder


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb with a bug, whose error quotes a record."""

    def raise_error() -> None:
        raise ValueError("Jane Doe, born 1961")

    monkeypatch.setattr("medtask.hardware.inspect_machine", raise_error)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
def test_a_signal_before_the_command_line_is_loaded_ends_without_a_traceback(
    name: str, code: int
) -> None:
    # The module is replaced by one that sends the signal while it is loaded.
    script = (
        "import os, signal, sys, importlib.abc\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == 'medtask.cli.main': os.kill(os.getpid(), signal.{name})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from medtask.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


def test_the_version_is_printed(medtask: RunCommand) -> None:
    outcome = medtask("--version")
    assert (outcome.code, outcome.out) == (0, "medtask 0.1.0\n")


def test_every_verb_is_in_the_help(medtask: RunCommand) -> None:
    outcome = medtask("--help")
    assert outcome.code == 0
    for verb in shell.COMMANDS:
        assert f"  {verb.__name__}  " in outcome.out
        assert (verb.__doc__ or "").strip().partition("\n")[0] in outcome.out


@pytest.mark.parametrize(
    "words", [["bogus"], ["check"], ["check", "t", "--row", "none"], ["models", "--bogus"]]
)
def test_a_usage_error_exits_with_2(medtask: RunCommand, words: list[str]) -> None:
    outcome = medtask(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage: medtask" in outcome.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.TableError, 4),
        (errors.ModelNotFound, 5),
        (errors.ModelTooLarge, 5),
        (errors.RunLocked, 6),
        (errors.StorageError, 7),
        (errors.RunMismatch, 8),
    ],
)
def test_a_deliberate_error_shows_its_remedy_and_sets_the_exit_code(
    medtask: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
    error: type[errors.MedtaskError],
    code: int,
) -> None:
    def fail() -> None:
        raise error("what [bold]happened[/bold]\x1b[2J", fix="what to do")

    monkeypatch.setattr("medtask.hardware.inspect_machine", fail)
    outcome = medtask("models")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err == "error: what [bold]happened[/bold]\\x1b[2J\n  fix: what to do\n"


def test_a_bug_is_reported_by_type_and_place_but_not_by_its_message(
    medtask: RunCommand, failing_command: None
) -> None:
    outcome = medtask("models")
    assert outcome.code == 1
    assert "this is a bug in medtask: ValueError at cli/commands/models.py:" in outcome.err
    assert "Jane" not in outcome.err


def test_a_bug_shows_its_traceback_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, failing_command: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDTASK_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["medtask", "models"])
    with pytest.raises(SystemExit, match="1"):
        shell.main()
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(medtask: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medtask.hardware.inspect_machine", interrupt)
    assert medtask("models").code == 130


def test_a_reader_that_has_gone_is_no_error(project_folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "medtask",
        "check",
        "surgery",
        "--row",
        "1",
        "--model",
        "fake:",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    # On a busy machine, what the command does is printed before.
    assert complaint in (b"", b"Checking the task and its table\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("setting", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_terminals_that_want_them(
    project_folder: Path, setting: dict[str, str], coloured: bool
) -> None:
    terminal, terminal_end = os.openpty()
    environment = {
        name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}
    }
    command = [sys.executable, "-m", "medtask", "check", "nowhere"]
    subprocess.run(
        command,
        stderr=terminal_end,
        env={**environment, "TERM": "xterm-256color", **setting},
        check=False,
    )
    os.close(terminal_end)
    shown = os.read(terminal, 10_000)
    os.close(terminal)
    assert b"error: " in shown.replace(b"\x1b[0m", b"").replace(b"\x1b[1;31m", b"")
    assert (b"\x1b[1;31m" in shown) == coloured


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_ends_a_command_without_a_session_with_its_exit_code(number: int) -> None:
    script = f"""
import os, signal
from medtask import hardware
from medtask.cli import main
hardware.inspect_machine = lambda: os.kill(os.getpid(), {int(number)})
import sys; sys.argv = ["medtask", "models"]
main.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == (130 if number == signal.SIGINT else 143)
    assert "bug" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "run surgery {long}",
        "run {long} procedures.csv",
        "run surgery procedures.csv --model {long}",
        "run surgery procedures.csv --model {long}.gguf",
        "run surgery procedures.csv --model fake: --out {long}",
        "evaluate {long}",
        "check {long}",
        "train surgery procedures.csv --base fake: --out {long}",
        "export {long} --to gguf --out model.gguf",
    ],
)
def test_a_name_that_is_too_long_is_bad_input(
    medtask: RunCommand, project_folder: Path, words: str
) -> None:
    result = medtask(*words.format(long="x" * 300).split())
    assert result.code in (2, 4, 5, 7)
    assert "bug" not in result.err
    assert "fix: " in result.err


def test_a_folder_that_may_not_be_searched_is_named(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_readable_folder() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        monkeypatch.chdir(folder)
        commands = (
            ("run", closed / "task.yaml", "rows.csv"),
            ("evaluate", closed / "run"),
            ("check", closed / "task.yaml"),
        )
        for words in commands:  # imports what the other user may not be able to read
            assert medtask(*words).code in (2, 4)
        with act_as_ordinary_user():
            if os.access(closed, os.X_OK, effective_ids=True):
                pytest.skip("needs a folder of another user")
            for words in commands:
                result = medtask(*words)
                assert result.code == 7
                assert "Permission denied" in result.err
                assert "fix: change its permissions" in result.err


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [
        ("check surgery --model fake: --no-measure", ">&-", 0),
        ("check surgery --model fake: --no-measure", ">&- 2>&-", 0),
        ("check surgery -", "<&-", 4),
        ("ask", "<&-", 2),
    ],
)
def test_a_closed_stream_is_an_empty_one(
    project_folder: Path, words: str, closed: str, code: int
) -> None:
    command = f"{shlex.quote(sys.executable)} -m medtask {words} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "bug" not in done.stderr

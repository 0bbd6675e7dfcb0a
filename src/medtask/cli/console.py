"""Output to the terminal; control characters in file contents are escaped."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from medtask.display import escape_control_characters
from medtask.errors import MedtaskError, TaskFaults

_LABEL_WIDTH = 12
_output_times = {"last": time.monotonic()}


class _PipeSafeConsole(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Raise for a closed pipe (`| head`); rich would exit with 1, the exit code of a bug."""
        raise BrokenPipeError


def mark_output() -> None:
    """Record that something was printed."""
    _output_times["last"] = time.monotonic()


def last_output() -> float:
    """The monotonic time of the last output."""
    return _output_times["last"]


def make_console(*, stderr: bool = False) -> Console:
    """A console on the current stream; colours only on a terminal, and not with NO_COLOR."""
    return _PipeSafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_line(*parts: str | tuple[str, str], stderr: bool = False) -> None:
    """Print one line from plain parts and (text, style) parts, with control characters escaped."""
    safe = [
        escape_control_characters(part)
        if isinstance(part, str)
        else (escape_control_characters(part[0]), part[1])
        for part in parts
    ]
    make_console(stderr=stderr).print(Text.assemble(*safe), soft_wrap=True)
    mark_output()


def print_chunk(text: str, style: str = "", *, stderr: bool = False) -> None:
    """Print a piece of a text that is still being generated, without a line end."""
    make_console(stderr=stderr).print(
        Text(escape_control_characters(text, keep="\n\t"), style=style), end="", soft_wrap=True
    )


def print_fact(label: str, text: str, style: str = "dim") -> None:
    """Print a fact under its label, in two columns."""
    print_line(
        (f"  {label:<{_LABEL_WIDTH}}", style), text.replace("\n", "\n" + " " * (_LABEL_WIDTH + 2))
    )


def print_warning(text: str) -> None:
    print_fact("warning", text, "yellow")


def print_note(text: str, label: str = "note") -> None:
    """Print a note, or a warning, on standard error."""
    print_line((f"{label}: ", "yellow"), text, stderr=True)


def make_step_printer(*, quiet: bool) -> Callable[[str], None]:
    """A function that prints each step of a command on standard error; nothing with ``quiet``."""
    return (lambda step: None) if quiet else partial(print_line, stderr=True)


def print_verbatim(text: str) -> None:
    """Print text with its line breaks and tabs; rich would replace tabs by spaces."""
    sys.stdout.write(escape_control_characters(text, keep="\n\t") + "\n")


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document in ASCII, so that control characters are escaped."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_error(error: MedtaskError) -> None:
    """Print the message of an error, and its remedy on the next line."""
    head = [] if isinstance(error, TaskFaults) else [("error: ", "bold red")]
    print_line(*head, str(error), stderr=True)
    print_line(("  fix: ", "bold"), error.fix, stderr=True)


def print_bug_report(error: BaseException) -> None:
    """Report an unexpected error by type and location; its message may quote a record."""
    import traceback

    if os.environ.get("MEDTASK_DEBUG") == "1":
        print_line("".join(traceback.format_exception(error)), stderr=True)
    package_folder = Path(__file__).parents[1]
    frames = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    locations = [
        f"{path.relative_to(package_folder).as_posix()}:{line}"
        for path, line in frames
        if path.is_relative_to(package_folder)
    ]
    print_line(
        ("error: ", "bold red"),
        f"this is a bug in medtask: {type(error).__name__} at {locations[-1]}",
        stderr=True,
    )
    print_line(
        ("  fix: ", "bold"),
        "report this line; MEDTASK_DEBUG=1 shows the whole traceback (it may quote records)",
        stderr=True,
    )

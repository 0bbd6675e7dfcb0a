"""What people see: lines, facts, errors and progress, with nothing from a file able to steer the
terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from medtask.display import escape_control_characters
from medtask.errors import MedtaskError, TaskFaults

_LABEL_WIDTH = 12


class _PipeSafeConsole(Console):
    def on_broken_pipe(self) -> NoReturn:
        """A reader that has gone (`| head`) is no error of ours; rich would exit with 1, which
        means a bug here.
        """
        raise BrokenPipeError


def make_console(*, stderr: bool = False) -> Console:
    """A console on the stream as it is at this moment; colours only on a terminal, and never with
    NO_COLOR.
    """
    return _PipeSafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_line(*parts: str | tuple[str, str], stderr: bool = False) -> None:
    """Print one line from plain parts and (text, style) parts; whatever they hold, it is shown and
    not obeyed.
    """
    safe = [
        escape_control_characters(part)
        if isinstance(part, str)
        else (escape_control_characters(part[0]), part[1])
        for part in parts
    ]
    make_console(stderr=stderr).print(Text.assemble(*safe), soft_wrap=True)


def print_chunk(text: str, style: str = "", *, stderr: bool = False) -> None:
    """Print a piece of a text that is still being written; the next piece goes on where it ends."""
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


def print_verbatim(text: str) -> None:
    """Print text with its own line breaks and tabs; rich would turn tabs into spaces."""
    sys.stdout.write(escape_control_characters(text, keep="\n\t") + "\n")


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document. It is pure ASCII: JSON's own escapes keep raw control characters
    from a terminal.
    """
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_error(error: MedtaskError) -> None:
    """What happened, and below it what to do; a list of faults speaks for itself."""
    head = [] if isinstance(error, TaskFaults) else [("error: ", "bold red")]
    print_line(*head, str(error), stderr=True)
    print_line(("  fix: ", "bold"), error.fix, stderr=True)


def print_bug_report(error: BaseException) -> None:
    """Report an error that nobody foresaw by its type and place only: its message may quote a
    record.
    """
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

"""The command-line application: the commands, and the handling of errors."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from medtask.cli import console as show
from medtask.cli.commands.ask import ask
from medtask.cli.commands.audit import audit
from medtask.cli.commands.bench import bench
from medtask.cli.commands.bundle import bundle
from medtask.cli.commands.check import check
from medtask.cli.commands.compare import compare
from medtask.cli.commands.data import data
from medtask.cli.commands.doctor import doctor
from medtask.cli.commands.evaluate import evaluate
from medtask.cli.commands.export import export
from medtask.cli.commands.gold import gold
from medtask.cli.commands.init import init
from medtask.cli.commands.judge import judge
from medtask.cli.commands.merge import merge
from medtask.cli.commands.models import models
from medtask.cli.commands.purge import purge
from medtask.cli.commands.run import run
from medtask.cli.commands.serve import serve
from medtask.cli.commands.shard import shard
from medtask.cli.commands.status import status
from medtask.cli.commands.submit import submit
from medtask.cli.commands.train import train
from medtask.cli.commands.tune import tune
from medtask.cli.commands.worker import worker
from medtask.cli.waiting import print_waiting_lines
from medtask.errors import EncodingGuessWarning, MedtaskError
from medtask.os_errors import convert_os_error
from medtask.runs.signals import catch_signals, limit_shutdown

COMMANDS = (
    init,
    check,
    run,
    evaluate,
    audit,
    gold,
    compare,
    ask,
    judge,
    bench,
    train,
    tune,
    export,
    bundle,
    submit,
    status,
    merge,
    shard,
    serve,
    worker,
    purge,
    models,
    doctor,
)

# What the commands begin with. A command that waits for its user, or for others, is not listed.
_FIRST_ACTIVITIES = {
    "init": "Reading the table",
    "check": "Checking the task and its table",
    "run": "Starting",
    "evaluate": "Reading the answers",
    "audit": "Reading the answers",
    "gold": "Reading the answers and their corrections",
    "compare": "Comparing the systems",
    "judge": "Starting",
    "bench": "Starting",
    "train": "Starting",
    "tune": "Starting",
    "export": "Starting",
    "merge": "Reading the shards",
    "data": "Reading the table",
    "models": "Looking for models",
    "doctor": "Checking",
}

_EXIT_CODES = """\
Exit codes: 0 ok, 1 bug, 2 usage, 3 finished above --max-error-rate,
4 bad input or task, 5 model unavailable, 6 run locked, 7 disk,
8 run belongs to another task, model or table, 130 interrupted (can be resumed)."""

app = typer.Typer(
    name="medtask",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command(_command.__name__)(_command)
app.add_typer(data, name="data")


def _print_version(requested: bool) -> None:
    if requested:
        import medtask

        show.print_line(f"medtask {medtask.__version__}")
        raise typer.Exit


@app.callback()
def _main_callback(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Label medical text with open language models on your own hardware.

    Write the question into a task file once, point it at a table and a model: every row gets an
    answer that is inside the allowed set, with its probability. Begin with: medtask init my-task
    --from table.csv
    """


def main() -> None:
    """Run the command line and exit with its code; user errors do not print a traceback."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(
            stream, "reconfigure"
        ):  # unencodable characters are escaped instead of ending the run
            stream.reconfigure(errors="backslashreplace")
    with limit_shutdown() as received, catch_signals() as signals:
        code = _run_command(lambda: signals.exit_code or received.exit_code)
        _flush_output()
        if signals.exit_code or received.exit_code:
            os._exit(code)  # the interpreter's own shutdown can take seconds
    sys.exit(code)


def _open_closed_streams() -> None:
    """Replace streams that the caller has closed, as some schedulers do, by empty ones."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _run_command(get_signal_code: Callable[[], int]) -> int:
    """Run the command; returns the exit code.

    ``get_signal_code`` returns the exit code of the signal that was received, 0 without one.
    """
    try:
        with _print_guess_warnings(), _name_first_activity(sys.argv[1:]):
            app(prog_name="medtask")
    except MedtaskError as error:
        show.print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return get_signal_code() or 130
    except BrokenPipeError:
        return 141  # 128 + SIGPIPE, as for any command with a closed pipe
    except OSError as error:
        if code := get_signal_code():
            return code
        converted = convert_os_error(error)
        if converted is None:
            show.print_bug_report(error)
            return 1
        show.print_error(converted)
        return converted.exit_code
    except SystemExit as error:
        if error.code == 130:  # typer exits with 130 after any interruption
            return get_signal_code() or 130
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except Exception as error:
        if code := get_signal_code():
            return code  # an interrupted import of a library raises other errors
        show.print_bug_report(error)
        return 1
    return 0


def _name_first_activity(arguments: Sequence[str]) -> AbstractContextManager[None]:
    """Lines while the command is silent, unless it is --quiet."""
    activity = _FIRST_ACTIVITIES.get(next(iter(arguments), ""))
    if activity is None or not {"-q", "--quiet"}.isdisjoint(arguments):
        return nullcontext()
    return print_waiting_lines(activity)


@contextmanager
def _print_guess_warnings() -> Iterator[None]:
    """Print each warning about a guessed encoding once, as a line; other warnings as usual."""
    printed: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=EncodingGuessWarning)
        print_other = warnings.showwarning

        def print_guess(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if not issubclass(category, EncodingGuessWarning):
                print_other(message, category, *rest)
            elif str(message) not in printed:
                printed.add(str(message))
                show.print_note(str(message), "warning")

        warnings.showwarning = print_guess  # type: ignore[assignment]
        yield


def _flush_output() -> None:
    """Flush standard output; does nothing if its pipe is closed."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes again at exit and would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

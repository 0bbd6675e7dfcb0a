"""The page of all commands and options, generated from the application itself."""

from __future__ import annotations

from collections.abc import Iterator

import click
import typer

from documentation.markdown import write_code, write_table
from medtask.cli.main import app

_INTRODUCTION = """\
# Command line

`medtask COMMAND --help` shows the same text. Progress goes to standard error. `--json` prints one
JSON document on standard output. `NO_COLOR=1` switches colours off. Where the script is not on
the path, write `python -m medtask`.

"""


def write_command_line_page() -> str:
    """The page."""
    command = typer.main.get_command(app)
    assert hasattr(command, "commands")
    parts = [_INTRODUCTION]
    for name, path, leaf in _list_commands(command.commands, "medtask"):
        context = click.Context(leaf, info_name=path)
        parts.append(f"## {path}\n\n{_clean_help(leaf.help or '')}\n\n")
        usage = " ".join(leaf.collect_usage_pieces(context))
        parts.append(f"```text\n{path} {usage}\n```\n\n")
        parts.append(_write_parameters(leaf, context))
        parts.append("\n")
        assert name
    return "".join(parts)


def _list_commands(
    commands: dict[str, click.Command], prefix: str
) -> Iterator[tuple[str, str, click.Command]]:
    for name, command in commands.items():
        path = f"{prefix} {name}"
        below = getattr(command, "commands", None)
        if below is None:
            yield name, path, command
        else:
            yield from _list_commands(below, path)


def _clean_help(text: str) -> str:
    return text.replace("\b\n", "").replace("<", "&lt;").strip()


def _write_parameters(command: click.Command, context: click.Context) -> str:
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        name, text = record or (parameter.make_metavar(context), "")
        # typer writes default, range and "required" into the help text in brackets.
        rows.append((write_code(name), " ".join(text.split()).replace("<", "&lt;")))
    return write_table(("argument or option", "meaning"), rows) if rows else ""

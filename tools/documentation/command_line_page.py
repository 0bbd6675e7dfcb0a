"""The page of all commands and options, generated from the application itself."""

from __future__ import annotations

import re
from collections import Counter
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

## Options of several commands

"""
_COLUMNS = ("argument or option", "meaning")
SHARED_BY = 5  # commands


def write_command_line_page() -> str:
    """The page."""
    command = typer.main.get_command(app)
    assert hasattr(command, "commands")
    tables = {}
    for path, leaf in _list_commands(command.commands, "medtask"):
        context = click.Context(leaf, info_name=path)
        heading = f"## {path}\n\n{_clean_help(leaf.help or '')}\n\n"
        usage = " ".join(leaf.collect_usage_pieces(context))
        heading += f"```text\n{path} {usage}\n```\n\n"
        tables[heading] = list(_list_parameters(leaf, context))
    counts = Counter(row for rows in tables.values() for row in rows)
    shared = [row for row, count in counts.items() if count >= SHARED_BY and "--" in row[0]]
    parts = [_INTRODUCTION, write_table(_COLUMNS, shared), "\n"]
    for heading, rows in tables.items():
        parts += [heading, _write_parameters(rows, shared), "\n"]
    return "".join(parts)


def _list_commands(
    commands: dict[str, click.Command], prefix: str
) -> Iterator[tuple[str, click.Command]]:
    for name, command in commands.items():
        path = f"{prefix} {name}"
        below = getattr(command, "commands", None)
        if below is None:
            yield path, command
        else:
            yield from _list_commands(below, path)


def _clean_help(text: str) -> str:
    return text.replace("\b\n", "").replace("<", "&lt;").strip()


def _list_parameters(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Name and meaning of each argument and option."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        name, text = record or (parameter.make_metavar(context), "")
        # typer writes default, range and "required" into the help text in brackets.
        yield write_code(name), " ".join(text.split()).replace("<", "&lt;")


def _write_parameters(rows: list[tuple[str, str]], shared: list[tuple[str, str]]) -> str:
    """The table of the rows of one command; those that many commands have are only named."""
    own = [row for row in rows if row not in shared]
    named = [
        write_code(word)
        for name, text in rows
        if (name, text) in shared
        for word in re.findall(r"--[\w-]+", name)
    ]
    table = write_table(_COLUMNS, own) if own else ""
    if not named:
        return table
    link = "[options of several commands](#options-of-several-commands)"
    return f"{table}\nAlso the {link} {', '.join(named)}.\n"

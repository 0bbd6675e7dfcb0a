"""Every command line of the documentation is one that the command line accepts."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer
from documentation.code_blocks import list_command_lines, split_command

from medtask.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
LINES = [
    pytest.param(line, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, line in list_command_lines(page)
]
SPANS = [
    pytest.param(span, id=f"{page.relative_to(ROOT)}-{index}")
    for page in PAGES
    if page.name != "CHANGELOG.md"
    for index, span in enumerate(
        re.findall(r"`(medtask [a-z]+ [^`\n]*--[^`\n]*)`", page.read_text())
    )
]
ROOT_COMMAND = typer.main.get_command(app)


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and the words after it."""
    command, rest = ROOT_COMMAND, words[1:]
    while hasattr(command, "commands"):
        assert rest, "a command is missing"
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_accepted_by_the_parser(line: str) -> None:
    words = split_command(line)
    if words[1:] in (["--version"], ["--help"]) or words[1].startswith("COMMAND"):
        return
    command, rest = find_command(words)
    if "--help" in rest:
        return
    command.make_context("medtask", rest)


@pytest.mark.parametrize("span", SPANS)
def test_the_options_of_a_command_in_a_sentence_exist(span: str) -> None:
    command, rest = find_command(split_command(span))
    known = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    named = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert named <= known | {"--help"}

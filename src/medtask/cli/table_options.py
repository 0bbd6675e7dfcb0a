"""Command-line options for reading a table, shared by all commands that read one."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from medtask.cli.option_groups import add_options
from medtask.tables.read_options import ReadOptions


def _declare_options(
    *,
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Encoding of a text file, such as cp1250; default: detected."
        ),
    ] = None,
    sheet: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Sheet of a workbook; default: the first one with content."
        ),
    ] = None,
    header_row: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Row of the column names; default: the first with content."
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="Word for a missing value (repeatable), in place of NA, NaN, None, null, - and "
            "others; '' for none.",
        ),
    ] = None,
) -> ReadOptions:
    return ReadOptions(
        encoding=encoding,
        sheet=sheet,
        header_row=header_row,
        missing=tuple(missing) if missing else None,
    )


add_read_options = add_options("read_options", _declare_options)


def format_read_options(read_options: ReadOptions) -> str:
    """The options of reading as they are written on the command line."""
    given = read_options.to_values().items()
    return "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(word))}"
        for name, value in given
        for word in (value if isinstance(value, tuple) else [value])
    )

"""Command-line options of a run that answers a table, here or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtask.cli.inputs import GoldColumn, split_formats
from medtask.cli.option_groups import add_options
from medtask.runs.run_values import RunValues


def _declare_options(
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder; default: a new folder in TASK/runs."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Use only the first N rows.")
    ] = None,
    gold: GoldColumn = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMATS",
            help="Answer tables to write beside CSV and Parquet, separated by commas: xlsx, jsonl; "
            "default: xlsx if the table is a workbook.",
        ),
    ] = None,
    wide: Annotated[
        bool,
        typer.Option("--wide", help="Give fields columns of their own in CSV, as in XLSX."),
    ] = False,
    uncalibrated: Annotated[
        bool,
        typer.Option("--uncalibrated", help="Do not apply a stored calibration."),
    ] = False,
    max_error_rate: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Exit with code 3 if the share of rows without an answer is higher."
        ),
    ] = 0.05,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Start a new run instead of resuming.")
    ] = False,
) -> RunValues:
    return {
        "out": out,
        "limit": limit,
        "gold": gold,
        "formats": None if to is None else split_formats(to),
        "wide": wide,
        "calibrated": not uncalibrated,
        "max_error_rate": max_error_rate,
        "new_run": new_run,
    }


add_run_options = add_options("run_options", _declare_options)

"""`medtask compare`: several systems on the same rows, with paired tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, GoldSource, GroupName, KindName
from medtask.cli.table_options import add_read_options
from medtask.tables.read_options import ReadOptions


@add_read_options
def compare(
    systems: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B ...", help="Run folders, or tables with the columns id and answer."
        ),
    ],
    gold: GoldSource = None,
    kind: KindName = None,
    group: GroupName = None,
    *,
    read_options: ReadOptions,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines", help="Include simple baselines on the same rows."
        ),
    ] = True,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="AMOUNT",
            help="Price of the machine per hour, for the cost of 1,000 rows.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for comparison.html and comparison.json; a name that ends in .html is the "
            "page itself.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare systems on the same rows.

    Every pair of systems is tested on the same rows; p values are corrected by Holm's method.
    """
    from medtask.cli.progress import ProgressDisplay
    from medtask.evaluation.comparison.leaderboard_text import (
        describe_leaderboard,
        format_leaderboard,
    )
    from medtask.runs.comparison import compare as compare_systems

    comparison = compare_systems(
        systems,
        gold=gold,
        kind=kind,
        group=group,
        baselines=baselines,
        price_per_hour=price_per_hour,
        out=out,
        progress=ProgressDisplay().on_baseline,
        **read_options.to_values(),
    )
    if as_json:
        show.print_json(comparison.to_json())
        return
    show.print_line(describe_leaderboard(comparison.leaderboard, comparison.n))
    for line in ("", *format_leaderboard(comparison.leaderboard)):
        show.print_line(line)
    for note in comparison.notes:
        show.print_fact("note", note)
    if (page := comparison.report) is not None:
        show.print_line((str(page), "bold"), f"   {page.with_suffix('.json').name}")

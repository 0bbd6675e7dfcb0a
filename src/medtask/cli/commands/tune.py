"""`medtask tune`: search for better words for a task, or better settings of a training."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    GoldColumn,
    ModelName,
    Offline,
    OnDuplicate,
    Quiet,
    TaskPath,
    disable_downloads,
    open_table,
)
from medtask.cli.model_options import add_load_options
from medtask.cli.table_options import add_read_options
from medtask.cli.training_options import SearchMethod
from medtask.display import format_count
from medtask.engines.load_options import LoadOptions
from medtask.tables.read_options import ReadOptions


@add_read_options
@add_load_options
def tune(
    task: TaskPath,
    data: DataSource = None,
    budget: Annotated[
        str,
        typer.Option(metavar="TIME", help="Time limit of the search, for example 90s, 20m or 2h."),
    ] = "20m",
    what: Annotated[
        Literal["prompt", "examples", "mipro", "training"] | None,
        typer.Option(
            help="What to optimize; default: prompt and examples, or training with --method."
        ),
    ] = None,
    model: ModelName = None,
    proposer: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model that writes instructions; default: MODEL."),
    ] = None,
    method: SearchMethod = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model that training starts from.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="The new task file, beside the old one; or the folder of the search.",
        ),
    ] = None,
    gold: GoldColumn = None,
    test_share: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="The share of rows that no search sees, to measure the gain: up to 0.5.",
        ),
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="The seed of all random choices.")] = 0,
    keep_anyway: Annotated[
        bool,
        typer.Option("--keep-anyway", help="Write the new file even without a significant gain."),
    ] = False,
    acknowledge_phi: Annotated[
        bool,
        typer.Option(
            "--acknowledge-phi", help="With phi: true, allow texts of rows in the new file."
        ),
    ] = False,
    *,
    read_options: ReadOptions,
    on_duplicate: OnDuplicate = None,
    load_options: LoadOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find better words for a task, or better settings of a training.

    Rows with gold are split in three: candidates are built from the first part and chosen by the
    second; the third, which the search does not use, measures the gain at the end. Ctrl-C ends the
    search, and the gain of the best candidate so far is not measured.
    """
    import medtask
    from medtask.cli.progress import SearchProgressDisplay
    from medtask.tasks.load import load_task

    disable_downloads(offline)
    loaded_task = load_task(task)
    display = SearchProgressDisplay(quiet=quiet)
    options = replace(read_options, on_duplicate=on_duplicate)
    with open_table(loaded_task, data, options) as table, redirect_stdout(sys.stderr):
        result = medtask.tune(
            loaded_task,
            table,
            budget=budget,
            what=what,
            model=model,
            proposer=proposer,
            method=method,
            base=base,
            out=out,
            gold=gold,
            test_share=test_share,
            seed=seed,
            keep_anyway=keep_anyway,
            allow_phi=acknowledge_phi,
            load_options=load_options,
            overwrite=force,
            observer=display,
        )
    document = result.to_json()
    show.print_json(document) if as_json else _print_result(document)
    raise typer.Exit(result.exit_code)


def _print_result(document: dict[str, Any]) -> None:
    show.print_line((document["verdict"], "bold"))
    tried = format_count(document["trials"], "candidate")
    rows = format_count(document["rows"]["validation"], "validation row")
    show.print_fact("search", f"{tried} on {rows}; {document['ended']}")
    if document["what"] == "training":
        before, after = (document["validation_loss"][side] for side in ("before", "after"))
        show.print_fact(
            "loss",
            f"{before:.4f} -> {after:.4f} on the validation rows, by which the recipe was chosen",
        )
        if document["changed"]:
            show.print_fact(
                "recipe",
                ", ".join(f"{name} {value:.3g}" for name, value in document["changed"].items()),
            )
    elif document["changed"]:
        show.print_fact(
            "changed",
            ", ".join(
                f"{document['examples']} examples" if name == "examples" else name
                for name in document["changed"]
            ),
        )
    for note in document["notes"]:
        show.print_fact("note", note)
    if document["written"] is None:
        if document["changed"]:
            show.print_line("No file was written; --keep-anyway writes the best candidate.")
        return
    show.print_line((document["written"], "bold"))
    if document["what"] == "words":
        show.print_warning(
            "this file contains texts of rows, or what a model wrote after reading them: read it "
            "before you share it"
        )

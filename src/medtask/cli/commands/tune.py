"""`medtask tune`: other words for a task, or other settings of a training, and whether they are
better than chance would have it.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    GoldColumn,
    ModelName,
    Offline,
    Quiet,
    SheetName,
    TaskPath,
    check_table,
    choose_model,
    disable_downloads,
    open_table,
)
from medtask.cli.model_options import (
    add_load_options,
    load_engine,
)
from medtask.cli.training_options import SearchMethod
from medtask.display import format_count
from medtask.engines.load_options import LoadOptions
from medtask.errors import InputError, UsageError

if TYPE_CHECKING:
    from medtask.cli.progress import SearchProgressDisplay
    from medtask.engines.base import Engine
    from medtask.tasks.task import Task
    from medtask.training.recipe import Method
    from medtask.training.search.hyperparameter_search import HyperparameterSearchResult
    from medtask.training.search.prompt_tuning import PromptTuningResult, SearchTarget
    from medtask.training.search.search_budget import SearchBudget
    from medtask.training.search.search_data import SearchData


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
        typer.Option(
            metavar="MODEL", help="Model that writes instructions; default: the model itself."
        ),
    ] = None,
    method: SearchMethod = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Base model of the training.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="New task file in the task's folder, or the folder of a training search.",
        ),
    ] = None,
    gold: GoldColumn = None,
    sheet: SheetName = None,
    test_share: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Share of rows kept out of the search, for the final measurement."
        ),
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    keep_anyway: Annotated[
        bool, typer.Option("--keep-anyway", help="Write the new file even if no gain is shown.")
    ] = False,
    acknowledge_phi: Annotated[
        bool,
        typer.Option(
            "--acknowledge-phi", help="With phi: true, allow texts of rows in the new file."
        ),
    ] = False,
    *,
    load_options: LoadOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Optimize the prompt of a task, or the settings of a training.

    The rows with gold are split into three parts: candidates are made from the first and selected
    on the second; the gain is measured on the third, which the search does not use. Ctrl-C ends
    the search and measures the best candidate so far.
    """
    from medtask.cli.progress import SearchProgressDisplay
    from medtask.tasks.load import load_task
    from medtask.training.search.search_budget import SearchBudget, parse_duration

    clock = SearchBudget(parse_duration(budget))
    disable_downloads(offline)
    loaded_task = load_task(task)
    loaded_task = replace(loaded_task, gold_column=gold or loaded_task.gold_column)
    tunes_training = what == "training" or (what is None and method is not None)
    if method is not None and not tunes_training:
        raise UsageError(
            "--method applies to a training search, not to a prompt search",
            fix="leave out --method or --what",
        )
    display = SearchProgressDisplay(quiet=quiet)
    with open_table(loaded_task, data, sheet) as table, redirect_stdout(sys.stderr):
        if loaded_task.gold_column is None:
            fix = "name it with --gold COLUMN, or write `gold: COLUMN` into the task file"
            raise InputError("a search needs gold answers, and no gold column is named", fix=fix)
        check_table(loaded_task, table)
        parts = _split_rows(loaded_task, table, tunes_training, test_share, seed, display)
        if tunes_training:
            tuned_training = _tune_hyperparameters(
                parts, method or "rslora", base or model, clock, display, out, seed, load_options
            )
            document = _describe_tuned_training(tuned_training)
        else:
            target = _choose_task_file(loaded_task, out, force)
            options = {"seed": seed, "keep_anyway": keep_anyway, "allow_phi": acknowledge_phi}
            names = (choose_model(loaded_task, model), proposer)
            tuned = _tune_prompt(parts, names, what, clock, display, load_options, options)
            document = _write_tuned_prompt(tuned, target)
    show.print_json(document) if as_json else _print_result(document)
    raise typer.Exit(130 if document["interrupted"] else 0)


def _split_rows(
    task: Task,
    table: Any,
    training: bool,
    test_share: float,
    seed: int,
    display: SearchProgressDisplay,
) -> SearchData:
    from medtask.training.search.search_data import build_search_data

    parts = build_search_data(
        task, table, test_share=test_share, validation_share=0.2 if training else 0.5, seed=seed
    )
    for note in parts.notes:
        display.on_note(note)
    return parts


def _choose_task_file(task: Task, out: Path | None, force: bool) -> Path:
    """Where the new task goes: beside the old one, because paths in it count from there."""
    assert task.source is not None
    target = out or task.source.with_name(f"{task.source.stem}.tuned.yaml")
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(
            f"{target} is not a valid name for a task file",
            fix="give --out a name that ends in .yaml",
        )
    if target.resolve().parent != task.source.resolve().parent:
        fix = (
            f"choose a name in {task.source.parent}: paths in a task file are relative to its "
            "folder"
        )
        raise UsageError(f"{target} is in another folder than the task", fix=fix)
    if target.exists() and (not force or target.resolve() == task.source.resolve()):
        raise UsageError(
            f"{target} already exists",
            fix="choose another name with --out, or replace it with --force",
        )
    return target


def _tune_prompt(
    parts: SearchData,
    names: tuple[str, str | None],
    what: str | None,
    clock: SearchBudget,
    display: SearchProgressDisplay,
    load_options: LoadOptions,
    options: dict[str, Any],
) -> PromptTuningResult:
    from medtask.runs.run_setup import refuse_remote_phi
    from medtask.training.search.prompt_tuning import tune_prompt

    refuse_remote_phi(parts.task, allow_remote=load_options.allow_remote)
    search_kinds: tuple[SearchTarget, ...] = ("examples", "prompt") if what is None else (what,)  # type: ignore[assignment]
    engines: list[Engine] = []
    with ExitStack() as stack:
        # Who writes may be who answers: then it is one engine, and closed once.
        for name in dict.fromkeys(filter(None, names)):
            display.on_load(name)
            engines.append(stack.enter_context(closing(load_engine(name, load_options))))
        return tune_prompt(
            parts, engines[0], search_kinds, clock, display, proposer=engines[-1], **options
        )


def _tune_hyperparameters(
    parts: SearchData,
    method: Method,
    base: str | None,
    clock: SearchBudget,
    display: SearchProgressDisplay,
    out: Path | None,
    seed: int,
    load_options: LoadOptions,
) -> HyperparameterSearchResult:
    from medtask.engines.files.model_files import MINILM
    from medtask.training.recipe import Recipe
    from medtask.training.search.hyperparameter_search import search_hyperparameters

    folder = out or (parts.task.source.parent if parts.task.source else Path()) / f"tuned-{method}"
    base_model = base or (MINILM if method == "encoder" else choose_model(parts.task, None))
    recipe = Recipe(
        method=method,
        bases=(base_model,),
        seed=seed,
        dtype=load_options.dtype,
        device=load_options.device,
        memory=load_options.memory,
    )
    return search_hyperparameters(parts, recipe, clock, display, out=folder)


def _write_tuned_prompt(tuned: PromptTuningResult, target: Path) -> dict[str, Any]:
    """Write the file, and tell what was found; no text of a row is told."""
    from medtask.training.search.prompt_tuning import write_tuned_task

    if tuned.task_text is not None:
        write_tuned_task(target, tuned)
    return {
        "what": "words",
        "verdict": tuned.summarize(),
        "gain": tuned.gain.to_json() if tuned.gain else None,
        "changed": list(tuned.changed),
        "examples": len(tuned.best.examples or ()),
        "written": str(target) if tuned.task_text is not None else None,
        "validation": {"before": tuned.before, "after": tuned.after},
        "trials": tuned.trials,
        "rows": tuned.rows,
        "ended": tuned.ended,
        "notes": list(tuned.notes),
        "interrupted": tuned.interrupted,
    }


def _describe_tuned_training(tuned: HyperparameterSearchResult) -> dict[str, Any]:
    return {
        "what": "training",
        "verdict": tuned.summarize(),
        "gain": tuned.gain.to_json() if tuned.gain else None,
        "recipe": tuned.recipe.to_json(),
        "changed": dict(tuned.changed),
        "written": str(tuned.folder),
        "validation_loss": {"before": tuned.default_loss, "after": tuned.best_loss},
        "trials": tuned.trials,
        "rows": tuned.rows,
        "ended": tuned.stop_reason,
        "notes": [],
        "interrupted": tuned.interrupted,
    }


def _print_result(document: dict[str, Any]) -> None:
    show.print_line((document["verdict"], "bold"))
    tried, rows = (
        format_count(document["trials"], "candidate"),
        format_count(document["rows"]["validation"], "validation row"),
    )
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
            show.print_line("No file was written; use --keep-anyway to write the result.")
        return
    show.print_line((document["written"], "bold"))
    if document["what"] == "words":
        show.print_warning(
            "this file contains texts of rows, or text that a model wrote after reading them: read "
            "it before you share it"
        )

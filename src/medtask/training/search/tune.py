"""`medtask.tune`: search for better words of a task, or for better training settings."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

from medtask.engines.base import Engine
from medtask.engines.files.model_files import BUILT_IN_MODEL
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions, format_option
from medtask.engines.registry import load_model
from medtask.errors import InputError, UsageError
from medtask.runs.run_setup import refuse_remote_phi
from medtask.tables.read import read_table
from medtask.tasks.rows import require_columns
from medtask.tasks.task import Task
from medtask.training.methods import Method
from medtask.training.recipe import Recipe, build_recipe
from medtask.training.search.candidate_evaluator import NullSearchObserver, SearchObserver
from medtask.training.search.hyperparameter_search import (
    HyperparameterSearchResult,
    search_hyperparameters,
)
from medtask.training.search.prompt_tuning import (
    PromptTuningOptions,
    PromptTuningResult,
    SearchTarget,
    tune_prompt,
    write_tuned_task,
)
from medtask.training.search.search_budget import SearchBudget, parse_duration
from medtask.training.search.search_data import SearchData, build_search_data

TuningTarget = Literal["prompt", "examples", "mipro", "training"]


def tune(
    task: Task,
    table: object,
    *,
    budget: str = "20m",
    what: TuningTarget | None = None,
    model: str | None = None,
    proposer: str | None = None,
    method: Method | None = None,
    base: str | None = None,
    out: str | Path | None = None,
    gold: str | None = None,
    test_share: float = 0.25,
    seed: int = 0,
    keep_anyway: bool = False,
    allow_phi: bool = False,
    load_options: LoadOptions = DEFAULT_OPTIONS,
    overwrite: bool = False,
    observer: SearchObserver | None = None,
) -> PromptTuningResult | HyperparameterSearchResult:
    """Search for better words of a task, or for better settings of a training.

    Candidates are built from one part of the rows with gold and chosen by another; a third part,
    not used by the search, measures the gain. Ctrl-C ends the search; the gain
    of the best candidate is then not measured.

    Args:
        task: The task.
        table: Its rows: whatever `medtask.read_table` accepts.
        budget: How long to search, as in "90s", "20m" or "2h".
        what: What to search for; by default "training" with a ``method``, or else "prompt" and
            "examples".
        model: The model that answers; by default the task's.
        proposer: The model that writes instructions; by default ``model``.
        method: The training method whose settings are searched.
        base: The base of these trainings; by default ``model``.
        out: The new task file, in the folder of the old one, or the folder of a settings search.
        gold: The gold column; by default the task's.
        test_share: The share of rows that no search sees, up to 0.5.
        seed: The seed of all random choices.
        keep_anyway: Write the new task file even without a significant gain.
        allow_phi: Allow texts of rows in the new file of a task with ``phi: true``.
        load_options: How models are loaded.
        overwrite: Replace an existing task file.
        observer: Receives the events of the search.

    Returns:
        What was found, and its gain on the test rows.

    Raises:
        UsageError, InputError, TaskFaults: The options, task or table cannot be used.
        MissingExtra, EngineError, StorageError: A search or model cannot be used.
    """
    clock = SearchBudget(parse_duration(budget))
    observer = observer or NullSearchObserver()
    tunes_training = what == "training" or (what is None and method is not None)
    if method is not None and not tunes_training:
        raise UsageError(
            "--method selects a training, but words are searched for",
            fix="leave out --method, or --what",
        )
    task = replace(task, gold_column=gold or task.gold_column)
    shares = (test_share, 0.2 if tunes_training else 0.5)
    search_data = _split_rows(task, table, shares, seed, observer)
    if tunes_training:
        recipe = _build_recipe(task, method or "rslora", base or model, load_options, seed)
        home = task.source.parent if task.source else Path()
        folder = Path(out) if out else home / f"tuned-{recipe.method}"
        return search_hyperparameters(search_data, recipe, clock, observer, out=folder)
    target = _choose_task_file(task, out, overwrite=overwrite)
    refuse_remote_phi(task, allow_remote=load_options.allow_remote)
    targets: tuple[SearchTarget, ...] = ("examples", "prompt") if what is None else (what,)  # type: ignore[assignment]
    options = PromptTuningOptions(
        seed, keep_anyway, allow_phi, rows_file=_name_rows_file(target).name
    )
    engines: list[Engine] = []
    with ExitStack() as stack:
        # If the proposer is the model, it is loaded and closed once.
        for name in dict.fromkeys((model or task.model or BUILT_IN_MODEL, proposer)):
            if name:
                observer.on_load(name)
                engines.append(stack.enter_context(closing(load_model(name, load_options))))
        options = replace(options, proposer=engines[-1])
        result = tune_prompt(search_data, engines[0], targets, clock, observer, options)
    return result if result.task_text is None else _write_tuned_task(target, result)


def _build_recipe(
    task: Task, method: Method, base: str | None, load_options: LoadOptions, seed: int
) -> Recipe:
    used = ("dtype", "device", "memory")
    # allow_remote has no effect: nothing is sent.
    unused = [name for name in load_options.list_given() if name not in (*used, "allow_remote")]
    if unused:
        option = format_option(unused[0])
        raise UsageError(f"a training does not support {option}", fix=f"leave {option} out")
    settings = {name: getattr(load_options, name) for name in used}
    return build_recipe(method, base, {**settings, "seed": seed}, task_model=task.model)


def _write_tuned_task(path: Path, result: PromptTuningResult) -> PromptTuningResult:
    write_tuned_task(path, result)
    note = (
        "the training and validation rows of the search chose this file: metrics of its runs "
        f"leave them out (keep {result.rows_file} beside it)"
    )
    return replace(result, path=path, notes=(*result.notes, note))


def _split_rows(
    task: Task, table: object, shares: tuple[float, float], seed: int, observer: SearchObserver
) -> SearchData:
    if task.gold_column is None:
        raise InputError(
            "a search needs gold, and no gold column is named",
            fix="name it with --gold COLUMN, or write `gold: COLUMN` into the task file",
        )
    rows = read_table(table)
    require_columns(task, rows)
    search_data = build_search_data(
        task, rows, test_share=shares[0], validation_share=shares[1], seed=seed
    )
    for note in search_data.notes:
        observer.on_note(note)
    return search_data


def _choose_task_file(task: Task, out: str | Path | None, *, overwrite: bool) -> Path:
    """The new task file, in the folder of the task because paths in it are relative."""
    if task.source is None:
        raise InputError("the task was not read from a file", fix="write it into a file first")
    target = Path(out) if out else task.source.with_name(f"{task.source.stem}.tuned.yaml")
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(
            f"{target} is not the name of a task file", fix="give --out a name that ends in .yaml"
        )
    if target.resolve().parent != task.source.resolve().parent:
        raise UsageError(
            f"{target} is in another folder than the task",
            fix=(
                f"give it a name in {task.source.parent}: paths in a task file are relative to "
                "its folder"
            ),
        )
    if target.resolve() == task.source.resolve():
        overwrite = False
    for path in (target, _name_rows_file(target)):
        if path.exists() and not overwrite:
            raise UsageError(
                f"{path} already exists",
                fix="give another name with --out, or replace it with --force",
            )
    return target


def _name_rows_file(task_file: Path) -> Path:
    """The file for the rows that chose the words of a task file."""
    return task_file.with_name(f"{task_file.stem}.rows.json")

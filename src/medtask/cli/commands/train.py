"""`medtask train`: train a model for a task on rows with gold."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medtask.cli import console as show
from medtask.cli import training_options as options
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    GoldColumn,
    Offline,
    OnDuplicate,
    Quiet,
    TaskPath,
    disable_downloads,
    open_table,
)
from medtask.cli.model_options import Device, MemoryLimit
from medtask.cli.table_options import add_read_options
from medtask.cli.tracking import TrackingStore, open_tracking, report_to_tracker
from medtask.tables.read_options import ReadOptions
from medtask.training.recipe import DEFAULT_RECIPE

if TYPE_CHECKING:
    from medtask.tasks.task import Task
    from medtask.training.train import TaskData
    from medtask.training.trained_model import TrainedModel


@add_read_options
def train(
    context: typer.Context,
    task: TaskPath,
    data: DataSource = None,
    out: options.OutputFolder = None,
    base: options.BaseModels = None,
    method: options.TrainingMethod = None,
    also: options.FurtherTasks = None,
    gold: GoldColumn = None,
    validation: options.ValidationTable = None,
    share: options.ValidationShare = 0.1,
    min_count: options.MinLabelRows = 1,
    cap: options.MaxLabelRows = None,
    folds: options.FoldCount = None,
    *,
    read_options: ReadOptions,
    on_duplicate: OnDuplicate = None,
    epochs: options.EpochCount = DEFAULT_RECIPE.epochs,
    rate: options.LearningRate = DEFAULT_RECIPE.rate,
    batch: options.BatchRows = DEFAULT_RECIPE.batch,
    rank: options.AdapterRank = DEFAULT_RECIPE.rank,
    layers: options.AdapterLayers = DEFAULT_RECIPE.layers,
    alpha: options.AdapterAlpha = DEFAULT_RECIPE.alpha,
    dropout: options.AdapterDropout = DEFAULT_RECIPE.dropout,
    patience: options.EarlyStoppingPatience = DEFAULT_RECIPE.patience,
    validations: options.ValidationsPerEpoch = DEFAULT_RECIPE.validations,
    row_tokens: options.MaxRowTokens = DEFAULT_RECIPE.row_tokens,
    seed: options.RandomSeed = DEFAULT_RECIPE.seed,
    injections: options.InjectionShare = DEFAULT_RECIPE.injections,
    budget: options.TimeBudget = None,
    no_pack: options.DisablePacking = False,
    checkpointing: options.GradientCheckpointing = False,
    dtype: options.BaseDtype = "auto",
    device: Device = "auto",
    memory: MemoryLimit = None,
    dry_run: options.DryRun = False,
    demonstration: options.MarkAsDemonstration = False,
    track: TrackingStore = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on rows with gold.

    The result is a folder that run, evaluate and compare accept like any model. Ctrl-C stops within
    seconds; the same command resumes, also after a crash.
    """
    import medtask
    from medtask.cli.training_progress import TrainingProgressDisplay
    from medtask.tables.read import read_table
    from medtask.tasks.load import load_task
    from medtask.training.recipe import build_recipe, choose_method
    from medtask.training.train import TaskData, preview_training
    from medtask.training.training_data import RowSelection
    from medtask.training.validation_metrics import name_score

    disable_downloads(offline)
    loaded_task = load_task(task)
    method = method or ("rslora" if also else choose_method(loaded_task, base))
    folder = out or _default_folder(loaded_task, method)
    table_options = replace(read_options, on_duplicate=on_duplicate)
    with open_table(loaded_task, data, table_options) as table:
        further = read_options.for_further_tables()
        validation_table = read_table(validation, further) if validation is not None else None
        selection = RowSelection(share, min_count, cap)
        settings = options.read_settings(context.params)
        further_tasks = [_open_task_data(argument, further) for argument in also or ()]
        if dry_run:
            tasks = [TaskData(loaded_task, table, gold, validation_table), *further_tasks]
            recipe = build_recipe(method, base, settings, task_model=loaded_task.model)
            lines = preview_training(tasks, recipe, out=folder, selection=selection)
            if folds is not None:
                lines.append(f"{folds} further models would answer the rows, into {folder}-folds")
            show.print_json({"dry_run": lines}) if as_json else show.print_line("\n".join(lines))
            return
        tracker = open_tracking(track, loaded_task, folder)
        with TrainingProgressDisplay(quiet=quiet) as display, redirect_stdout(sys.stderr):
            display.model_title = " + ".join(base or ()) or method
            display.score_name = name_score(
                [loaded_task, *(further_task.task for further_task in further_tasks)]
            )
            result = medtask.train(
                loaded_task,
                table,
                out=folder,
                method=method,
                base=base,
                gold=gold,
                validation=validation_table,
                further_tasks=further_tasks,
                folds=folds,
                selection=selection,
                observer=display,
                demonstration=demonstration,
                **settings,
            )
    document = (
        report_to_tracker(tracker, "train", loaded_task, folder, result.to_json())
        if result.task_results
        else None
    )
    if document is not None:  # of several processes, the main one reports
        show.print_json(document) if as_json else _print_result(result)
    elif result.state == "interrupted":
        show.print_line("Stopped. Run the same command again to resume.", stderr=True)
    raise typer.Exit(result.exit_code)


def _default_folder(task: Task, method: str) -> Path:
    """The default folder: next to the task, one per method."""
    home = task.source.parent if task.source else Path()
    return home / "models" / method


def _open_task_data(argument: str, read_options: ReadOptions) -> TaskData:
    """Parse "TASK=TABLE", or a task that names its own table."""
    from medtask.errors import UsageError
    from medtask.tables.read import read_table
    from medtask.tasks.load import load_task
    from medtask.training.train import TaskData

    path, _, table = argument.partition("=")
    task = load_task(Path(path))
    if not table and task.data is None:
        raise UsageError(
            f"{path} names no table",
            fix=f"name one with --also {path}=TABLE, or write `data: TABLE` into its task file",
        )
    return TaskData(task, read_table(Path(table) if table else task.data, read_options))


def _print_result(model: TrainedModel) -> None:
    from medtask.evaluation.kinds.metrics import get_metric_title

    for task_result in model.task_results:
        if gap := task_result.describe_better_baselines():
            show.print_line((gap, "bold"))
        if task_result.score is not None:
            name = f"{task_result.task}: " if len(model.task_results) > 1 else ""
            baselines = "".join(
                f"   {baseline} {figure.value:.3f}"
                for baseline, figure in task_result.baselines.items()
            )
            # Validations of several labels report the share of correct decisions, which is not
            # comparable with F1.
            comparable = len(model.task_results) == 1 and task_result.headline_metric == "accuracy"
            untrained = (
                f"   untrained {model.base_score:.3f}"
                if comparable and model.base_score is not None
                else ""
            )
            metric = task_result.headline_metric
            show.print_line(
                f"{name}{get_metric_title(metric)} on validation rows"
                f" {task_result.score}, n = {task_result.score.n:,}{baselines}{untrained}"
            )
        if task_result.calibration:
            show.print_line((task_result.calibration, "dim"))
    if (out_of_fold := model.out_of_fold) and out_of_fold.score is not None:
        show.print_line(
            f"{get_metric_title(out_of_fold.headline_metric)} on {out_of_fold.score.n:,} rows with "
            f"gold {out_of_fold.score}, each answered by a model of {out_of_fold.folds} folds that "
            "was not trained on it"
        )
        show.print_line((f"{out_of_fold.run}/", "bold"), "   medtask evaluate and compare read it")
    if model.state == "interrupted":
        show.print_line(
            "Stopped: the folder holds the best state so far. Run the same command again to resume."
        )
    show.print_line(
        (f"{model.path}/", "bold"),
        "   "
        + "  ".join(sorted(path.name for path in model.path.iterdir() if path.name[0] != ".")),
    )
    show.print_line(f"medtask run TASK TABLE --model {shlex.quote(str(model.path))}")

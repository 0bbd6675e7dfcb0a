"""`medtask tune`: other words for a task, or other settings of a training, and whether they are
better than chance would have it.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtask.cli import show
from medtask.cli.inputs import (
    AllowRemote,
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
    forbid_downloads,
    load_engine,
    open_table,
)
from medtask.cli.recipe import TunedMethod
from medtask.errors import InputError, UsageError

if TYPE_CHECKING:
    from medtask.engines.base import Engine
    from medtask.tasks.task import Task
    from medtask.train.recipe import Method
    from medtask.train.search.bench import Trial
    from medtask.train.search.clock import Clock
    from medtask.train.search.hyper import TunedTraining
    from medtask.train.search.parts import Parts
    from medtask.train.search.tune import Tuned, What

LINE_SECONDS = 10.0


def tune(
    task: TaskPath,
    data: DataSource = None,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="How long to search, as in 90s, 20m or 2h.")
    ] = "20m",
    what: Annotated[
        Literal["prompt", "examples", "mipro", "training"] | None,
        typer.Option(
            help="What to search for; default: prompt and examples, with --method training."
        ),
    ] = None,
    model: ModelName = None,
    proposer: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Who writes instructions; default: the model itself."),
    ] = None,
    method: TunedMethod = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What the training begins with.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR", help="The new task file, beside the old; or the search’s folder."
        ),
    ] = None,
    gold: GoldColumn = None,
    sheet: SheetName = None,
    test_share: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Rows that no search sees, to measure with at the end."),
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    keep_anyway: Annotated[
        bool, typer.Option("--keep-anyway", help="Write the new file even where no gain is shown.")
    ] = False,
    acknowledge_phi: Annotated[
        bool, typer.Option("--acknowledge-phi", help="With phi: true, let rows stand in the file.")
    ] = False,
    allow_remote: AllowRemote = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find better words for a task, or settings of a training.

    The rows with gold are divided in three: what is tried is taken from the first part and chosen
    by the second; the third, which no search sees, tells at the end what it has brought. Ctrl-C
    ends the search, and the best so far is measured.
    """
    from medtask.tasks.load import load_task
    from medtask.train.search.clock import Clock, parse_budget

    clock = Clock(parse_budget(budget))
    forbid_downloads(offline)
    question = load_task(task)
    question = replace(question, gold_column=gold or question.gold_column)
    training = what == "training" or (what is None and method is not None)
    if method is not None and not training:
        raise UsageError(
            "--method is how a model is trained, and words are searched for",
            fix="leave out --method, or --what",
        )
    view = _View() if quiet else _LineView()
    with open_table(question, data, sheet) as table, redirect_stdout(sys.stderr):
        if question.gold_column is None:
            fix = "name it with --gold COLUMN, or write `gold: COLUMN` into the task file"
            raise InputError(
                "a search needs to know what is right, and no gold column is named", fix=fix
            )
        check_table(question, table)
        parts = _divide(question, table, training, test_share, seed, view)
        if training:
            found = _tune_training(parts, method or "rslora", base or model, clock, view, out, seed)
            told = _describe_training(found)
        else:
            target = _choose_file(question, out, force)
            options = {"seed": seed, "keep_anyway": keep_anyway, "allow_phi": acknowledge_phi}
            names = (choose_model(question, model), proposer)
            tuned = _tune_words(parts, names, what, clock, view, allow_remote, options)
            told = _finish_words(tuned, target)
    show.show_json(told) if as_json else _show(told)
    raise typer.Exit(130 if told["interrupted"] else 0)


def _divide(
    task: Task, table: Any, training: bool, test_share: float, seed: int, view: _View
) -> Parts:
    from medtask.train.search.parts import divide_rows

    parts = divide_rows(
        task, table, test_share=test_share, validation_share=0.2 if training else 0.5, seed=seed
    )
    for note in parts.notes:
        view.on_note(note)
    return parts


def _choose_file(task: Task, out: Path | None, force: bool) -> Path:
    """Where the new task goes: beside the old one, because paths in it count from there."""
    assert task.source is not None
    target = out or task.source.with_name(f"{task.source.stem}.tuned.yaml")
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(
            f"{target} is not the name of a task file", fix="give --out a name that ends in .yaml"
        )
    if target.resolve().parent != task.source.resolve().parent:
        fix = (
            f"give it a name in {task.source.parent}: paths in a task file count from its own "
            "folder"
        )
        raise UsageError(f"{target} is in another folder than the task", fix=fix)
    if target.exists() and (not force or target.resolve() == task.source.resolve()):
        raise UsageError(
            f"{target} is already there",
            fix="give another name with --out, or replace it with --force",
        )
    return target


def _tune_words(
    parts: Parts,
    names: tuple[str, str | None],
    what: str | None,
    clock: Clock,
    view: _View,
    allow_remote: bool,
    options: dict[str, Any],
) -> Tuned:
    from medtask.train.search.tune import tune_words

    if parts.task.phi and allow_remote:
        fix = "leave --allow-remote out: such a task is answered on this machine"
        raise UsageError(
            "the task says `phi: true`: its records may go to no other machine", fix=fix
        )
    whats: tuple[What, ...] = ("examples", "prompt") if what is None else (what,)  # type: ignore[assignment]
    engines: list[Engine] = []
    with ExitStack() as stack:
        # Who writes may be who answers: then it is one engine, and closed once.
        for name in dict.fromkeys(filter(None, names)):
            view.on_load(name)
            engines.append(
                stack.enter_context(closing(load_engine(name, allow_remote=allow_remote)))
            )
        return tune_words(parts, engines[0], whats, clock, view, proposer=engines[-1], **options)


def _tune_training(
    parts: Parts,
    method: Method,
    base: str | None,
    clock: Clock,
    view: _View,
    out: Path | None,
    seed: int,
) -> TunedTraining:
    from medtask.engines.registry import MINILM
    from medtask.train.recipe import Recipe
    from medtask.train.search.hyper import tune_training

    folder = out or (parts.task.source.parent if parts.task.source else Path()) / f"tuned-{method}"
    begin = base or (MINILM if method == "encoder" else choose_model(parts.task, None))
    return tune_training(
        parts, Recipe(method=method, bases=(begin,), seed=seed), clock, view, out=folder
    )


def _finish_words(tuned: Tuned, target: Path) -> dict[str, Any]:
    """Write the file, and tell what was found; no text of a row is told."""
    from medtask.train.search.tune import write_tuned

    if tuned.text is not None:
        write_tuned(target, tuned)
    return {
        "what": "words",
        "verdict": tuned.verdict(),
        "gain": tuned.gain.to_json() if tuned.gain else None,
        "changed": list(tuned.changed),
        "examples": len(tuned.best.examples or ()),
        "written": str(target) if tuned.text is not None else None,
        "validation": {"before": tuned.before, "after": tuned.after},
        "trials": tuned.trials,
        "rows": tuned.rows,
        "ended": tuned.ended,
        "notes": list(tuned.notes),
        "interrupted": tuned.interrupted,
    }


def _describe_training(found: TunedTraining) -> dict[str, Any]:
    return {
        "what": "training",
        "verdict": found.verdict(),
        "gain": found.gain.to_json() if found.gain else None,
        "recipe": found.recipe.tell(),
        "changed": dict(found.changed),
        "written": str(found.folder),
        "validation_loss": {"before": found.default_loss, "after": found.loss},
        "trials": found.trials,
        "rows": found.rows,
        "ended": found.ended,
        "notes": [],
        "interrupted": found.interrupted,
    }


def _show(told: dict[str, Any]) -> None:
    show.say((told["verdict"], "bold"))
    tried, rows = (
        show.count(told["trials"], "candidate"),
        show.count(told["rows"]["validation"], "validation row"),
    )
    show.fact("search", f"{tried} on {rows}; {told['ended']}")
    if told["what"] == "training":
        before, after = (told["validation_loss"][side] for side in ("before", "after"))
        show.fact(
            "loss",
            f"{before:.4f} -> {after:.4f} on the validation rows, by which the recipe was chosen",
        )
        if told["changed"]:
            show.fact(
                "recipe",
                ", ".join(f"{name} {value:.3g}" for name, value in told["changed"].items()),
            )
    elif told["changed"]:
        show.fact(
            "changed",
            ", ".join(
                f"{told['examples']} examples" if name == "examples" else name
                for name in told["changed"]
            ),
        )
    for note in told["notes"]:
        show.fact("note", note)
    if told["written"] is None:
        if told["changed"]:
            show.say("No file was written; --keep-anyway writes what was found.")
        return
    show.say((told["written"], "bold"))
    if told["what"] == "words":
        show.warn(
            "texts of rows, or what a model wrote after reading them, stand in this file: read "
            "it before you pass it on"
        )


class _View:
    """Follows a search in silence."""

    def on_note(self, text: str) -> None: ...

    def on_load(self, model: str) -> None: ...

    def on_stage(self, text: str) -> None: ...

    def on_trial(self, trial: Trial) -> None: ...


class _LineView(_View):
    """Follows a search in plain lines on standard error: whatever is better at once, the rest every
    ten seconds.
    """

    def __init__(self) -> None:
        self._best: float | None = None
        self._shown = 0.0

    def on_load(self, model: str) -> None:
        show.say(f"Loading {model}", stderr=True)

    def on_note(self, text: str) -> None:
        show.say(("note: ", "yellow"), text, stderr=True)

    def on_stage(self, text: str) -> None:
        show.say(text, stderr=True)

    def on_trial(self, trial: Trial) -> None:
        better = trial.best != self._best
        if not better and time.monotonic() - self._shown < LINE_SECONDS:
            return
        self._best, self._shown = trial.best, time.monotonic()
        left = show.duration(max(0.0, trial.left_s))
        show.say(
            f"  {trial.number:>4}   {trial.value:.3f}   best {trial.best:.3f}   {left} left   "
            f"{trial.what}",
            stderr=True,
        )

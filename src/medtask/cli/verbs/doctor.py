"""`medtask doctor`: is everything here that a run needs, and are a task's labels fit to be told
apart?
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import show
from medtask.cli.inputs import AllowRemote, AsJson, GoldSource, load_engine
from medtask.errors import EngineError, UsageError

if TYPE_CHECKING:
    from medtask.evaluate.findings.bias import Bias
    from medtask.evaluate.label_doctor import Examination
    from medtask.runs.answered import Answers

_STATES = {"ok": "green", "note": "yellow", "bad": "bold red"}
_WEIGHTS = {"act": "bold red", "look": "yellow", "note": "dim"}
_BAR = 30  # characters


def doctor(
    task: Annotated[
        Path | None,
        typer.Argument(metavar="[TASK]", help="Examine its labels; without it, this machine."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Its answers too: a run's folder, or a table with id and answer."
        ),
    ] = None,
    gold: GoldSource = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Load this model and try it; with TASK: its tokens, and what it prefers.",
        ),
    ] = None,
    prior: Annotated[
        bool, typer.Option("--prior", help="The same with the run's own model, or the task's.")
    ] = False,
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with this machine, or with a task's labels."""
    if task is None:
        if run or gold or prior:
            raise UsageError(
                "a run is examined by its task's labels, and no task is named",
                fix="medtask doctor TASK --run RUN",
            )
        _examine_machine(model, allow_remote, as_json)
    else:
        _examine_labels(task, run, gold, model, prior, allow_remote, as_json)


def _examine_machine(model: str | None, allow_remote: bool, as_json: bool) -> None:
    from medtask.cli.machine import look_around, try_model

    findings = list(look_around())
    if model:
        findings += try_model(model, allow_remote=allow_remote)
    well = all(finding.state != "bad" for finding in findings)
    if as_json:
        show.show_json({"ok": well, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            show.say(
                (f"{finding.state:<4}  ", _STATES[finding.state]),
                (f"{finding.name:<9}  ", "dim"),
                finding.detail,
            )
            if finding.fix:
                show.say(" " * 17, ("fix: ", "bold"), finding.fix)
        show.say(
            "All that a run needs is here."
            if well
            else "Runs do not work until what is marked bad is mended."
        )
    raise typer.Exit(0 if well else EngineError.exit_code)


def _examine_labels(
    path: Path,
    run: Path | None,
    gold: str | None,
    model: str | None,
    prior: bool,
    allow_remote: bool,
    as_json: bool,
) -> None:
    from medtask.cli.label_set import examine_task
    from medtask.evaluate.label_doctor import to_json
    from medtask.runs.answered import open_answers
    from medtask.tasks.load import load_task

    task = load_task(path)
    if gold and not run:
        raise UsageError(
            "gold is held against answers, and none are named", fix="name them with --run"
        )
    answers = open_answers(run, gold=gold, task=task) if run else None
    reference = model or (_find_model(answers, task.model) if prior else None)
    if reference is None:
        examination = examine_task(task, answers)
    else:
        with closing(load_engine(reference, allow_remote=allow_remote)) as engine:
            examination = examine_task(task, answers, engine)
    if as_json:
        show.show_json({"task": task.name, "kind": task.kind, **to_json(examination)})
    else:
        _show(task.name, examination)


def _find_model(answers: Answers | None, named: str | None) -> str:
    """The reference of the model that gave the answers, else the task's."""
    identity = answers.manifest.get("model", {}).get("identity", {}) if answers else {}
    reference = identity.get("model") or identity.get("reference") or named
    if not reference:
        raise UsageError(
            "neither the run nor the task tells which model answers", fix="name it with --model"
        )
    return str(reference)


def _show(name: str, examination: Examination) -> None:
    from medtask.evaluate.label_doctor import list_lines, summarise

    show.say((name, "bold"), f": {summarise(examination)}")
    for weight, seen, advice in list_lines(examination):
        show.say((f"{weight:<6}", _WEIGHTS[weight]), seen)
        show.say(" " * 6, ("fix: ", "bold"), advice)
    if examination.bias:
        _show_bias(examination.bias)
    for gap in examination.gaps:
        show.say(("not examined: ", "dim"), gap)


def _show_bias(bias: Bias) -> None:
    from medtask.evaluate.label_doctor import list_shares
    from medtask.evaluate.words import percent, shorten

    show.say(
        (
            (
                f"with nothing to read (mean of {len(bias.inputs)} empty inputs; "
                f"{percent(bias.even)} would be even)"
            ),
            "dim",
        )
    )
    shares = list_shares(bias)
    width = min(40, max(len(shorten(name, 40)) for name, _, _ in shares))
    for name, share, in_gold in shares:
        bar = "█" * round(_BAR * share)
        told = f"{percent(share):>8}" + (f"   gold {in_gold}" if in_gold else "")
        show.say(
            f"  {show.escape(shorten(name, 40), keep=''):<{width}}  ",
            (f"{bar:<{_BAR}}", "cyan"),
            told,
        )

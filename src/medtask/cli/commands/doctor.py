"""`medtask doctor`: check this machine, the labels of a task, or the ledger of a run."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, GoldSource
from medtask.cli.model_options import add_load_options, load_engine
from medtask.cli.table_options import add_read_options
from medtask.display import escape_control_characters, format_count, format_percent, shorten
from medtask.engines.load_options import LoadOptions
from medtask.errors import EngineError, StorageError, UsageError
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.cli.environment import EnvironmentCheck
    from medtask.evaluation.labels.content_free_bias import ContentFreeBias
    from medtask.evaluation.labels.label_set_report import LabelSetReport
    from medtask.runs.answer_table import AnswerTable

_STATE_STYLES = {"ok": "green", "note": "yellow", "bad": "bold red"}
_SEVERITY_STYLES = {"act": "bold red", "look": "yellow", "note": "dim"}
_BAR_WIDTH = 30  # characters


@add_read_options
@add_load_options
def doctor(
    task: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TASK]", help="Task whose labels are checked; default: check this machine."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help=(
                "With TASK: answers to include, a run folder or a table with the columns id and "
                "answer. Without TASK: the run folder whose ledger is checked for damage."
            ),
        ),
    ] = None,
    gold: GoldSource = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Load and test this model; with TASK: check label tokens and label bias.",
        ),
    ] = None,
    prior: Annotated[
        bool, typer.Option("--prior", help="Do the same with the model of the run or of the task.")
    ] = False,
    *,
    read_options: ReadOptions,
    load_options: LoadOptions,
    as_json: AsJson = False,
) -> None:
    """Check this machine, a task's labels, or a run's ledger."""
    if task is None:
        if gold or prior:
            raise UsageError(
                "--gold and --prior need a task", fix="medtask doctor TASK --run RUN --gold GOLD"
            )
        if run and model:
            raise UsageError(
                "--run without a task checks the ledger, for which no model is loaded",
                fix="leave out --model, or name the task before --run",
            )
        if run:
            _check_run(run, as_json)
            return
        _check_environment(model, load_options, as_json)
        return
    from medtask.cli.label_checks import check_task_labels
    from medtask.evaluation.labels.label_set_report import to_json
    from medtask.runs.open_answers import open_answers
    from medtask.tasks.load import load_task

    loaded_task = load_task(task)
    if gold and not run:
        raise UsageError(
            "--gold needs answers to compare with", fix="name a run or a table with --run"
        )
    answers = (
        open_answers(run, gold=gold, task=loaded_task, read_options=read_options) if run else None
    )
    reference = model or (_find_reference(answers, loaded_task.model) if prior else None)
    if reference is None:
        report = check_task_labels(loaded_task, answers)
    else:
        with closing(load_engine(reference, load_options)) as engine:
            report = check_task_labels(loaded_task, answers, engine)
    if as_json:
        show.print_json({"task": loaded_task.name, "kind": loaded_task.kind, **to_json(report)})
    else:
        _print_label_report(loaded_task.name, report)


def _check_environment(model: str | None, options: LoadOptions, as_json: bool) -> None:
    # Before the imports, during which no other thread can print.
    show.print_line("Checking this machine", stderr=True)
    from medtask.cli.environment import check_environment, check_model

    findings = chain(check_environment(), check_model(model, options) if model else ())
    checks = []
    for finding in findings:
        checks.append(finding)
        if not as_json:
            _print_check(finding)
    passed = all(finding.state != "bad" for finding in checks)
    if as_json:
        show.print_json({"ok": passed, "findings": [asdict(finding) for finding in checks]})
    else:
        show.print_line(
            "Everything that a run needs is installed."
            if passed
            else "Runs do not work until the problems marked bad are fixed."
        )
    raise typer.Exit(0 if passed else EngineError.exit_code)


def _print_check(result: EnvironmentCheck) -> None:
    show.print_line(
        (f"{result.state:<4}  ", _STATE_STYLES[result.state]),
        (f"{result.name:<9}  ", "dim"),
        result.detail,
    )
    if result.fix:
        show.print_line(" " * 17, ("fix: ", "bold"), result.fix)


def _check_run(folder: Path, as_json: bool) -> None:
    from medtask.runs.ledger_file import verify_ledger

    path = folder / "ledger.db"
    if not path.exists():
        raise UsageError(
            f"{folder} is not a run folder: ledger.db is missing",
            fix="name a folder that `medtask run` wrote",
        )
    state = verify_ledger(path)
    if as_json:
        show.print_json({"ok": state.problem is None, **asdict(state)})
    elif state.problem is None:
        show.print_line(f"{path} is intact: {format_count(state.intact, 'answer')}.")
    else:
        show.print_line(("bad   ", _STATE_STYLES["bad"]), f"{path}: {state.problem}")
        show.print_line(
            f"{format_count(state.intact, 'answer')} intact, {state.damaged:,} damaged or missing."
        )
        show.print_line(
            ("fix: ", "bold"),
            "run the command of the run again: intact answers are kept, the others are asked again",
        )
    raise typer.Exit(0 if state.problem is None else StorageError.exit_code)


def _find_reference(answers: AnswerTable | None, default: str | None) -> str:
    """The reference of the model that gave the answers; default: the task's."""
    identity = answers.manifest.get("model", {}).get("identity", {}) if answers else {}
    reference = identity.get("model") or identity.get("reference") or default
    if not reference:
        raise UsageError("neither the run nor the task names a model", fix="name it with --model")
    return str(reference)


def _print_label_report(name: str, report: LabelSetReport) -> None:
    from medtask.evaluation.labels.label_set_report import list_finding_lines, summarise_findings

    show.print_line((name, "bold"), f": {summarise_findings(report)}")
    for severity, observation, advice in list_finding_lines(report):
        show.print_line((f"{severity:<6}", _SEVERITY_STYLES[severity]), observation)
        show.print_line(" " * 6, ("fix: ", "bold"), advice)
    if report.bias:
        _print_label_bias(report.bias)
    for gap in report.skipped_checks:
        show.print_line(("not checked: ", "dim"), gap)


def _print_label_bias(bias: ContentFreeBias) -> None:
    from medtask.evaluation.labels.label_set_report import list_bias_shares

    show.print_line(
        (
            (
                f"content-free inputs (mean of {len(bias.inputs)} empty inputs; "
                f"{format_percent(bias.uniform_share)} would be even)"
            ),
            "dim",
        )
    )
    shares = list_bias_shares(bias)
    width = min(40, max(len(shorten(name, 40)) for name, _, _ in shares))
    for name, share, in_gold in shares:
        bar = "█" * round(_BAR_WIDTH * share)
        figures = f"{format_percent(share):>8}" + (f"   gold {in_gold}" if in_gold else "")
        show.print_line(
            f"  {escape_control_characters(shorten(name, 40), keep=''):<{width}}  ",
            (f"{bar:<{_BAR_WIDTH}}", "cyan"),
            figures,
        )

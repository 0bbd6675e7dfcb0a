"""`medtask.judge`: a model grades the free text of a run, or compares two runs.

RUN/judgements.csv     one line per row
RUN/judgements.json    the metrics
RUN/judgements/        ledger and manifest; they let the same command resume
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from medtask.atomic_files import replace_text
from medtask.engines.base import Engine
from medtask.errors import UsageError
from medtask.evaluation.statistics.judge_metrics import JudgeMetrics
from medtask.evaluation.statistics.pairwise_judge_metrics import PairwiseJudgeMetrics
from medtask.prediction.judgements import check_judge_engine
from medtask.runs.judgement_tables import write_grade_table, write_pair_table
from medtask.runs.judging_input import (
    JudgingInput,
    check_answers,
    read_human_grades,
    refuse_self_judging,
)
from medtask.runs.manifest import restore_task
from medtask.runs.open_answers import open_answers
from medtask.runs.progress import RunObserver
from medtask.runs.run_setup import refuse_remote_phi
from medtask.runs.session import Session, SessionState, open_session
from medtask.runs.session_request import SessionRequest
from medtask.tables.read_options import ReadOptions, ReadOptionValues
from medtask.tables.write import FORMATS
from medtask.tasks.rubric import MEDICAL_RUBRIC, Rubric, load_rubric
from medtask.tasks.task import Task


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """The result of `medtask.judge`.

    Attributes:
        table: The table of judgements; the metrics are in a JSON file next to it.
        judge: The name of the judge model.
        answers: The name of the judged answers.
        alternative: The name of the answers they were compared with; "" for grading.
        state: "finished", or "interrupted" after a signal; the same call then resumes.
        metrics: Grades or preferences with confidence intervals; None if interrupted.
        new_judgements: Number of judgements made by this call.
        seconds: Duration of this call.
        exit_code: 0; 3 if a larger share of judgements than ``max_error_rate`` is missing; 130 or
            143 after a signal.
    """

    table: Path
    judge: str
    answers: str
    alternative: str
    state: SessionState
    metrics: JudgeMetrics | PairwiseJudgeMetrics | None
    new_judgements: int
    seconds: float
    exit_code: int

    @property
    def report(self) -> None:
        """None: judgements have no page."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The JSON document that ``medtask judge --json`` prints; it contains no record text."""
        return {
            "table": str(self.table),
            "state": self.state,
            "judge": self.judge,
            "asked": self.new_judgements,
            "seconds": round(self.seconds, 3),
            **(self.metrics.to_json() if self.metrics else {}),
            "exit_code": self.exit_code,
        }


def judge(
    source: str | Path,
    model: Engine | Callable[[], Engine],
    *,
    rubric: Rubric | str | Path | None = None,
    gold: str | None = None,
    human: str | None = None,
    against: str | Path | None = None,
    task: Task | None = None,
    group: str | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    allow_self: bool = False,
    allow_remote: bool = False,
    max_error_rate: float = 0.05,
    force_lock: bool = False,
    progress: RunObserver | None = None,
    **read: Unpack[ReadOptionValues],
) -> JudgeResult:
    """Grade free text with a model, or compare the answers of two runs.

    The same call again resumes an interrupted judging, or adds human grades.

    Args:
        source: A run folder, or a table with the columns id and answer.
        model: The judge, or a function that loads it; it is called after the answers are checked.
        rubric: A rubric or its file; by default one for medical answers.
        gold: The column or file with the reference answers; by default the run's gold.
        human: The column or file with human grades of a random sample of the rows. They are needed
            to estimate the error rate of the judge.
        against: Another run or table whose answers are compared with those of ``source``.
        task: The task; required if it cannot be read from ``source``.
        group: The column that identifies dependent rows, such as those of one patient.
        limit: Judge the first ``limit`` rows only.
        out: The output table; by default next to the answers.
        allow_self: Allow a model to judge its own answers.
        allow_remote: Allow a judge on another machine; refused for a task with ``phi: true``.
        max_error_rate: ``exit_code`` is 3 if a larger share of judgements failed.
        force_lock: Take over a folder that is locked by a process on another host.
        progress: Receives notes and progress.
        read: How tables are read: fields of `ReadOptions` by name, such as ``encoding="cp1250"``.

    Returns:
        The metrics of the grades or preferences, and the paths of the judgements.

    Raises:
        UsageError: The model would judge its own answers, or the answers are not free text.
        InputError: No row can be judged.
        RunMismatch: ``out`` belongs to another judge, rubric or answers.
        EngineError: The judge cannot be loaded or cannot answer.

    Example:
        >>> result = medtask.judge("runs/qa", medtask.load_model("google/medgemma-27b-text-it"))
        >>> result.metrics.to_json()
    """
    if against and human:
        raise UsageError(
            "people's grades do not apply to comparisons", fix="leave --human or --against out"
        )
    options = ReadOptions(**read)
    open_texts = partial(open_answers, task=task, kind="answer", group=group, read_options=options)
    judging_input = JudgingInput(
        open_texts(source, gold=gold),
        _open_rubric(rubric),
        alternative=open_texts(against, gold=gold) if against else None,
        human_grades=open_texts(source, gold=human) if human else None,
        limit=limit,
    )
    refuse_remote_phi(judging_input.task, allow_remote=allow_remote)
    table = _choose_table(Path(source), out, judging_input)
    human_grades = read_human_grades(judging_input)
    request = _build_request(judging_input, table, allow_self=allow_self, force_lock=force_lock)
    metrics: JudgeMetrics | PairwiseJudgeMetrics | None = None
    with open_session(request, model, progress) as session:
        session.answer(judging_input.iter_records())
        judged = (one.answer for one in session.ledger.read_answers(request.rows))
        metrics = (
            write_pair_table(judging_input, judged, table)
            if judging_input.alternative
            else write_grade_table(judging_input, judged, human_grades, table)
        )
        _write_metrics(session, judging_input, metrics, table.with_suffix(".json"))
    finished = session.state == "finished"
    lost = metrics is not None and (metrics.missing_rate or 0.0) > max_error_rate
    return JudgeResult(
        table=table,
        judge=session.engine.info.title,
        answers=judging_input.answers.name,
        alternative=judging_input.alternative.name if judging_input.alternative else "",
        state=session.state or "interrupted",
        metrics=metrics if finished else None,
        new_judgements=session.cost.rows,
        seconds=session.get_elapsed_s(),
        exit_code=(3 if lost else 0) if finished else session.exit_code,
    )


def _open_rubric(rubric: Rubric | str | Path | None) -> Rubric:
    rubric = rubric or MEDICAL_RUBRIC
    return rubric if isinstance(rubric, Rubric) else load_rubric(Path(rubric))


def _choose_table(source: Path, out: str | Path | None, judging_input: JudgingInput) -> Path:
    """The table of judgements. Raises UsageError if its format is not known."""
    name = "preferences" if judging_input.alternative else "judgements"
    folder = judging_input.answers.folder
    default = folder / f"{name}.csv" if folder else source.with_name(f"{source.stem}.{name}.csv")
    table = Path(out) if out else default
    if table.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{table} has no format for judgements", fix=f"choose one of {', '.join(FORMATS)}"
        )
    return table


def _build_request(
    judging_input: JudgingInput, table: Path, *, allow_self: bool, force_lock: bool
) -> SessionRequest:
    """The session request for judging. Raises InputError if no row can be judged."""
    judged = [judging_input.answers]
    judged += [judging_input.alternative] if judging_input.alternative else []

    def check_model(engine: Engine) -> None:
        check_judge_engine(engine)
        if not allow_self:
            refuse_self_judging(engine, *judged)

    rows, digest = check_answers(judging_input)
    folder = table.with_suffix("")
    return SessionRequest(
        task=restore_task(judging_input.task, folder),
        data_digest=digest,
        rows=rows,
        out=folder,
        force_lock=force_lock,
        check_model=check_model,
        mismatch_fix=f"name another file with --out, or remove {folder} to judge again",
        notes=(*judging_input.answers.notes, *judging_input.list_missing_facts()),
    )


def _write_metrics(
    session: Session,
    judging_input: JudgingInput,
    metrics: JudgeMetrics | PairwiseJudgeMetrics,
    path: Path,
) -> None:
    """Write the metrics, with the facts needed to interpret them."""
    manifest, rubric = session.finish(), judging_input.rubric
    document = {
        "answers": judging_input.answers.name,
        "rubric": {
            "name": rubric.name,
            "fingerprint": session.request.task.fingerprint,
            "source": str(rubric.source or "built in"),
        },
        **{name: manifest[name] for name in ("created", "model", "egress")},
        **metrics.to_json(),
    }
    replace_text(path, json.dumps(document, indent=2, default=str) + "\n")

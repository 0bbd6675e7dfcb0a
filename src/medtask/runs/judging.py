"""A judge at work on the answers of a run: as safe as a run, from the answers to a table of
judgements and what they say in sum.

RUN/judgements.csv     a line for each row
RUN/judgements.json    the figures
RUN/judgements/        ledger and manifest of the judging: the same command again asks nothing twice
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medtask.atomic_files import replace_text
from medtask.engines.base import Engine
from medtask.errors import InputError, MedtaskError, RunMismatch, UsageError
from medtask.evaluation.statistics.judge_metrics import (
    GradedAnswer,
    GradeScale,
    JudgeMetrics,
    PairwiseJudgeMetrics,
    compute_judge_metrics,
    compute_pairwise_judge_metrics,
)
from medtask.prediction.asking import check_engine
from medtask.prediction.judgements import (
    NO_ANSWER,
    NO_REFERENCE,
    JudgeCase,
    Judgement,
    PairwiseJudgement,
    build_comparison_records,
    build_grading_records,
    check_judge_engine,
    parse_judgements,
    parse_pairwise_judgements,
)
from medtask.prediction.model_identity import find_same_model
from medtask.privacy import block_network
from medtask.records import Answer, Record
from medtask.runs.answer_table import AnswerTable
from medtask.runs.execution import NullRunObserver, RunObserver, SessionCost, fill_ledger
from medtask.runs.folder import open_run_folder
from medtask.runs.ledger import Ledger
from medtask.runs.lock import lock_run
from medtask.runs.manifest import (
    get_timestamp,
    identify_model,
    identify_task,
    list_destinations,
    refuse_mismatch,
    write_manifest,
)
from medtask.runs.signals import Interrupted, catch_signals
from medtask.tables.table import Column
from medtask.tables.write import FORMATS, write_answers
from medtask.tasks.rubric import Rubric, make_comparison_task, make_grading_task
from medtask.tasks.task import FreeText, Task

_GRADE_COLUMNS = (
    *(
        Column("id", "text"),
        Column("grade", "text"),
        Column("expected_grade", "float"),
        Column("confidence", "float"),
    ),
    *(Column("status", "text"), Column("reason", "text")),
)
_PAIR_COLUMNS = (
    *(
        Column("id", "text"),
        Column("winner", "text"),
        Column("decided_by_place", "text"),
        Column("preference", "float"),
    ),
    *(Column("status", "text"), Column("reason", "text")),
)


@dataclass(frozen=True, slots=True)
class JudgingInput:
    """What is judged, by what standard. ``alternative``: other answers to the same questions,
    with which those of ``answers`` are compared in place of being graded. ``human_grades``: the
    same answers with people's grades as their gold. ``limit``: of the rows.
    """

    answers: AnswerTable
    rubric: Rubric
    alternative: AnswerTable | None = None
    human_grades: AnswerTable | None = None
    limit: int | None = None

    def iter_cases(self) -> Iterator[JudgeCase]:
        """Every row as a case, streamed, again and again."""
        alternatives = (
            {row.answer.record_id: _get_text(row.answer) for row in self.alternative.rows()}
            if self.alternative
            else {}
        )
        context = (
            self.answers.task.answer_spec.context
            if isinstance(self.answers.task.answer_spec, FreeText)
            else None
        )
        for row in self.answers.rows():
            if self.limit is not None and row.row > self.limit:
                return
            yield JudgeCase(
                row=row.row,
                record_id=row.answer.record_id,
                question=row.text,
                reference=row.gold if isinstance(row.gold, str) else "",
                answer=_get_text(row.answer),
                context=str(row.fields.get(context) or "") if context else "",
                alternative=alternatives.get(row.answer.record_id, ""),
                group=row.group,
            )

    @property
    def task(self) -> Task:
        phi = self.answers.task.phi or (self.alternative is not None and self.alternative.task.phi)
        return (make_comparison_task if self.alternative else make_grading_task)(
            self.rubric, phi=phi
        )

    def iter_records(self) -> Iterator[Record]:
        return (build_comparison_records if self.alternative else build_grading_records)(
            self.rubric, self.iter_cases()
        )


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """What became of a judging. ``table``: of the judgements; its figures lie beside it.
    ``metrics``: None where it was interrupted. ``new_judgements``: judgements that this session
    asked for. ``exit_code``: 0; 3 above the error rate; 130 or 143 after a signal.
    """

    table: Path
    judge: str
    state: Literal["finished", "interrupted"]
    metrics: JudgeMetrics | PairwiseJudgeMetrics | None
    new_judgements: int
    seconds: float
    exit_code: int


def judge(
    judging_input: JudgingInput,
    model: Engine | Callable[[], Engine],
    out: Path,
    *,
    allow_self: bool = False,
    max_error_rate: float = 0.05,
    force_lock: bool = False,
    progress: RunObserver | None = None,
) -> JudgeResult:
    """Have a model judge answers, or go on where it was stopped, into the table ``out`` and files
    beside it.

    ``model``: an engine, or what loads one; it is called once the answers are known to be sound.
    Raises every MedtaskError: UsageError where a model is to judge its own answers (``allow_self``
    lets it), InputError where nothing can be judged, RunMismatch where ``out`` belongs to another
    judge, rubric or answers.
    """
    if out.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{out}: no format for judgements", fix=f"choose one of {', '.join(FORMATS)}"
        )
    task, human_grades = judging_input.task, _read_human_grades(judging_input)
    rows, digest = _check_answers(judging_input)
    identity = identify_task(task, digest)
    with ExitStack() as stack:
        folder = open_run_folder(out.with_suffix(""))
        stack.enter_context(lock_run(folder, force=force_lock))
        _refuse_other_judging(folder, identity, out)
        engine = model if isinstance(model, Engine) else stack.enter_context(closing(model()))
        check_judge_engine(engine)
        check_engine(task, engine)
        if not allow_self:
            refuse_self_judging(
                engine,
                judging_input.answers,
                *([judging_input.alternative] if judging_input.alternative else []),
            )
        identity |= identify_model(engine, {})
        _refuse_other_judging(folder, identity, out)
        return _run_judging(
            judging_input,
            _JudgingSession(task, engine, folder, identity, rows, progress or NullRunObserver()),
            human_grades,
            out,
            max_error_rate,
        )


def refuse_self_judging(engine: Engine, *judged: AnswerTable) -> None:
    """UsageError where the judge's model has given the answers, as far as their runs' manifests
    tell.
    """
    for answers in judged:
        models = [
            answers.manifest.get("model"),
            *dict(answers.manifest.get("models_of_passes") or {}).values(),
        ]
        for model in filter(None, models):
            if same_model := find_same_model(engine.info.identity, model["identity"]):
                fix = (
                    "choose another model as the judge, or say --allow-self if you know what "
                    "such a judgement is worth"
                )
                raise UsageError(
                    f"the judge has given the answers of {answers.name} itself ({same_model})",
                    fix=fix,
                )


@dataclass(slots=True)
class _JudgingSession:
    task: Task
    engine: Engine
    folder: Path
    identity: Mapping[str, str]
    rows: int  # judgements to be asked for
    progress: RunObserver
    cost: SessionCost = field(default_factory=SessionCost)
    started: float = field(default_factory=time.monotonic)

    def write_manifest(self, state: str, attempts: int = 0) -> dict[str, Any]:
        manifest = {
            "state": state,
            "created": get_timestamp(),
            "identity": dict(self.identity),
            "model": asdict(self.engine.info),
            "egress": {
                "guard": "on",
                "connections_attempted": attempts,
                "sent_to": list_destinations(self.engine),
            },
        }
        write_manifest(self.folder, manifest)
        return manifest

    def build_result(
        self, out: Path, metrics: JudgeMetrics | PairwiseJudgeMetrics | None, exit_code: int
    ) -> JudgeResult:
        state: Literal["finished", "interrupted"] = "finished" if metrics else "interrupted"
        return JudgeResult(
            out,
            self.engine.info.title,
            state,
            metrics,
            self.cost.rows,
            time.monotonic() - self.started,
            exit_code,
        )


def _run_judging(
    judging_input: JudgingInput,
    session: _JudgingSession,
    human_grades: Mapping[int, int],
    out: Path,
    max_error_rate: float,
) -> JudgeResult:
    """Ask, then write what was said; whatever happens, the ledger keeps it."""
    session.write_manifest("running")
    sent_to = list_destinations(session.engine)
    guard = block_network([address for addresses in sent_to.values() for address in addresses])
    with (
        guard as network_guard,
        closing(Ledger(session.folder / "ledger.db", session.task.outcomes)) as ledger,
        catch_signals() as signals,
    ):
        try:
            done = sum(ledger.count_statuses(session.rows).values())
            session.progress.on_start(session.rows, done)
            fill_ledger(
                ledger,
                session.task,
                session.engine,
                {},
                judging_input.iter_records(),
                done,
                session.cost,
                signals,
                session.progress,
            )
            answers = (row_answer.answer for row_answer in ledger.read_answers(session.rows))
            metrics = (
                _write_pair_table(judging_input, answers, out)
                if judging_input.alternative
                else _write_grade_table(judging_input, answers, human_grades, out)
            )
        except Interrupted as stop:
            ledger.flush()
            session.write_manifest("interrupted", network_guard.attempts)
            return session.build_result(out, None, stop.exit_code)
        except Exception:
            with suppress(
                MedtaskError
            ):  # a full disk takes no more; the error that matters is on its way
                ledger.flush()
                session.write_manifest("interrupted", network_guard.attempts)
            raise
        manifest = session.write_manifest("finished", network_guard.attempts)
    manifest_facts = {name: manifest[name] for name in ("created", "model", "egress")}
    rubric = {
        "name": judging_input.rubric.name,
        "fingerprint": session.task.fingerprint,
        "source": str(judging_input.rubric.source or "built in"),
    }
    document = {
        "answers": judging_input.answers.name,
        "rubric": rubric,
        **manifest_facts,
        **metrics.to_json(),
    }
    replace_text(out.with_suffix(".json"), json.dumps(document, indent=2, default=str) + "\n")
    lost = (metrics.missing_rate or 0.0) > max_error_rate
    return session.build_result(out, metrics, 3 if lost else 0)


def _write_grade_table(
    judging_input: JudgingInput,
    answers: Iterable[Answer],
    human_grades: Mapping[int, int],
    out: Path,
) -> JudgeMetrics:
    rubric, unjudged = judging_input.rubric, _UnjudgedCounts()
    rows: list[GradedAnswer] = []
    places = {name: place for place, name in enumerate(rubric.grade_names)}

    def list_lines() -> Iterator[tuple[object, ...]]:
        for judgement in parse_judgements(rubric, judging_input.iter_cases(), answers):
            if unjudged.add(judgement):
                grade = places[judgement.grade] if judgement.grade is not None else None
                rows.append(
                    GradedAnswer(
                        grade,
                        judgement.expected_grade,
                        human_grades.get(judgement.case.row),
                        judgement.case.group,
                    )
                )
            yield (
                judgement.case.record_id,
                judgement.grade,
                _round(judgement.expected_grade),
                _round(judgement.confidence),
                str(judgement.status),
                judgement.reason,
            )

    write_answers(out, _GRADE_COLUMNS, list_lines())
    scale = GradeScale(
        rubric.grade_names, tuple(grade.points for grade in rubric.grades), places[rubric.passing]
    )
    ungraded = len(human_grades) - sum(row.human_grade is not None for row in rows)
    return compute_judge_metrics(
        scale,
        rows,
        unanswered=unjudged.unanswered,
        unreferenced=unjudged.unreferenced,
        lost=ungraded,
    )


def _write_pair_table(
    judging_input: JudgingInput, answers: Iterable[Answer], out: Path
) -> PairwiseJudgeMetrics:
    unjudged, outcomes, groups = _UnjudgedCounts(), list[str | None](), list[str | None]()
    names = {
        "answer": judging_input.answers.name,
        "rival": judging_input.alternative.name if judging_input.alternative else "",
    }

    def list_lines() -> Iterator[tuple[object, ...]]:
        for judgement in parse_pairwise_judgements(
            judging_input.rubric, judging_input.iter_cases(), answers
        ):
            if unjudged.add(judgement):
                outcomes.append(_name_outcome(judgement))
                groups.append(judgement.case.group)
            winner = names.get(judgement.winner or "", judgement.winner)
            yield (
                judgement.case.record_id,
                winner,
                judgement.winning_position,
                _round(judgement.preference),
                str(judgement.status),
                judgement.reason,
            )

    write_answers(out, _PAIR_COLUMNS, list_lines())
    return compute_pairwise_judge_metrics(
        outcomes, groups, unanswered=unjudged.unanswered, unreferenced=unjudged.unreferenced
    )


def _name_outcome(judgement: PairwiseJudgement) -> str | None:
    match judgement.winner:
        case "answer":
            return "win"
        case "rival":
            return "loss"
        case "tie":
            return judgement.winning_position or "same"
    return None


@dataclass(slots=True)
class _UnjudgedCounts:
    """Counts what was not put to the judge."""

    unanswered: int = 0
    unreferenced: int = 0

    def add(self, judgement: Judgement | PairwiseJudgement) -> bool:
        """Whether it was put to the judge."""
        self.unanswered += judgement.reason == NO_ANSWER
        self.unreferenced += judgement.reason == NO_REFERENCE
        return judgement.reason not in (NO_ANSWER, NO_REFERENCE)


def _get_text(answer: Answer) -> str:
    return answer.value if isinstance(answer.value, str) else ""


def _round(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def _check_answers(judging_input: JudgingInput) -> tuple[int, str]:
    """How many judgements are to be asked for, and SHA-256 of all that they are about; what cannot
    be judged is told.
    """
    for answers in filter(None, (judging_input.answers, judging_input.alternative)):
        if answers.task.kind != "answer":
            fix = "let medtask evaluate hold them against gold"
            raise UsageError(
                f"a judge reads free text, and the answers of {answers.name} are of the kind "
                f"{answers.task.kind}",
                fix=fix,
            )
    digest = hashlib.sha256()
    for record in replace(
        judging_input, limit=None
    ).iter_records():  # so that a larger limit goes on where a smaller one ended
        digest.update(json.dumps(dict(record.fields), sort_keys=True).encode() + b"\n")
    rows = sum(1 for _ in judging_input.iter_records())
    if not rows and not any(case.answer for case in judging_input.iter_cases()):
        raise InputError(
            f"{judging_input.answers.name} has no answer to judge",
            fix="see in its report why its rows have none",
        )
    if (
        not rows
        and judging_input.rubric.reference
        and not any(case.reference for case in judging_input.iter_cases())
    ):
        fix = "name the column with --gold, or take a rubric with `reference: false`"
        raise InputError(
            "the rubric compares answers with a reference, and no row has one", fix=fix
        )
    if not rows and judging_input.alternative:
        fix = "compare two runs over the same table, whose answers differ"
        raise InputError(
            f"{judging_input.answers.name} and {judging_input.alternative.name} have no pair of "
            "answers to compare",
            fix=fix,
        )
    return rows, digest.hexdigest()


def _read_human_grades(judging_input: JudgingInput) -> dict[int, int]:
    """People's grades as places on the rubric's scale, by row; InputError where one is no grade of
    it.
    """
    if judging_input.human_grades is None:
        return {}
    grades = judging_input.rubric.grades
    places = {grade.name: place for place, grade in enumerate(grades)}
    found, unknown_rows = {}, []
    for row in judging_input.human_grades.rows():
        if row.gold is None:
            continue
        text = str(row.gold)
        place = places.get(
            text,
            next(
                (place for place, grade in enumerate(grades) if _equals_points(text, grade.points)),
                None,
            ),
        )
        if place is None:
            unknown_rows.append(row.row)
        else:
            found[row.row] = place
    source = (
        judging_input.human_grades.gold.source if judging_input.human_grades.gold else "the column"
    )
    if unknown_rows:
        # Not the values themselves: in the wrong column they would be somebody's words.
        listed = ", ".join(map(str, unknown_rows[:5])) + (" ..." if len(unknown_rows) > 5 else "")
        fix = f"write one of {', '.join(judging_input.rubric.grade_names)}, or leave the cell blank"
        raise InputError(
            f"{source}: {len(unknown_rows):,} of people's grades are no grades of the rubric (row "
            f"{listed})",
            fix=fix,
        )
    if not found:
        raise InputError(
            f"{source} holds no grade",
            fix="grade a random sample of the rows, 100 say, or leave --human out",
        )
    return found


def _equals_points(text: str, points: float) -> bool:
    try:
        return float(text) == points
    except ValueError:
        return False


def _refuse_other_judging(folder: Path, identity: Mapping[str, str], out: Path) -> None:
    try:
        refuse_mismatch(folder, identity)
    except RunMismatch as error:
        error.fix = f"name another file with --out, or remove {folder} to judge anew"
        raise

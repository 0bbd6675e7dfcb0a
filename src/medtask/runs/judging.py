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

from medtask.data.atomic import replace_text
from medtask.data.table import Column
from medtask.data.write import FORMATS, write_answers
from medtask.decision.asking import check_engine
from medtask.decision.judge import (
    NO_ANSWER,
    NO_REFERENCE,
    Case,
    Judgement,
    Verdict,
    check_judge,
    list_comparisons,
    list_gradings,
    read_comparisons,
    read_gradings,
)
from medtask.decision.kinship import find_kinship
from medtask.engines.base import Engine
from medtask.errors import InputError, MedtaskError, RunMismatch, UsageError
from medtask.evaluate.judged import Compared, Graded, Judged, Scale, measure_grades, measure_pairs
from medtask.privacy import no_network
from medtask.records import Answer, Record
from medtask.runs.answered import Answers
from medtask.runs.folder import open_folder
from medtask.runs.interrupt import Interrupted, catch_signals
from medtask.runs.ledger import Ledger
from medtask.runs.lock import lock_run
from medtask.runs.manifest import (
    identify_model,
    identify_question,
    list_destinations,
    now,
    refuse_mismatch,
    write_manifest,
)
from medtask.runs.work import Cost, Progress, Silence, fill_ledger
from medtask.tasks.rubric import Rubric, comparing_task, grading_task
from medtask.tasks.task import FreeText, Task

_GRADES = (
    *(
        Column("id", "text"),
        Column("grade", "text"),
        Column("expected_grade", "float"),
        Column("confidence", "float"),
    ),
    *(Column("status", "text"), Column("reason", "text")),
)
_PAIRS = (
    *(
        Column("id", "text"),
        Column("winner", "text"),
        Column("decided_by_place", "text"),
        Column("preference", "float"),
    ),
    *(Column("status", "text"), Column("reason", "text")),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What is judged, by what standard. ``rival``: other answers to the same questions, with which
    those of ``answers`` are compared in place of being graded. ``people``: the same answers with
    people's grades as their gold. ``limit``: of the rows.
    """

    answers: Answers
    rubric: Rubric
    rival: Answers | None = None
    people: Answers | None = None
    limit: int | None = None

    def cases(self) -> Iterator[Case]:
        """Every row as a case, streamed, again and again."""
        rivals = (
            {row.answer.record_id: _read_text(row.answer) for row in self.rival.rows()}
            if self.rival
            else {}
        )
        context = (
            self.answers.task.form.context if isinstance(self.answers.task.form, FreeText) else None
        )
        for row in self.answers.rows():
            if self.limit is not None and row.row > self.limit:
                return
            yield Case(
                row=row.row,
                record_id=row.answer.record_id,
                question=row.text,
                reference=row.gold if isinstance(row.gold, str) else "",
                answer=_read_text(row.answer),
                context=str(row.fields.get(context) or "") if context else "",
                rival=rivals.get(row.answer.record_id, ""),
                group=row.group,
            )

    @property
    def task(self) -> Task:
        phi = self.answers.task.phi or (self.rival is not None and self.rival.task.phi)
        return (comparing_task if self.rival else grading_task)(self.rubric, phi=phi)

    def records(self) -> Iterator[Record]:
        return (list_comparisons if self.rival else list_gradings)(self.rubric, self.cases())


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """What became of a judging. ``table``: of the judgements; its figures lie beside it. ``found``:
    None where it was interrupted. ``asked``: judgements that this session asked for. ``exit_code``:
    0; 3 above the error rate; 130 or 143 after a signal.
    """

    table: Path
    judge: str
    state: Literal["finished", "interrupted"]
    found: Judged | Compared | None
    asked: int
    seconds: float
    exit_code: int


def judge(
    bench: Bench,
    model: Engine | Callable[[], Engine],
    out: Path,
    *,
    allow_self: bool = False,
    max_error_rate: float = 0.05,
    force_lock: bool = False,
    progress: Progress | None = None,
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
    task, people = bench.task, _read_people(bench)
    rows, digest = _survey(bench)
    identity = identify_question(task, digest)
    with ExitStack() as stack:
        folder = open_folder(out.with_suffix(""))
        stack.enter_context(lock_run(folder, force=force_lock))
        _refuse_other(folder, identity, out)
        engine = model if isinstance(model, Engine) else stack.enter_context(closing(model()))
        check_judge(engine)
        check_engine(task, engine)
        if not allow_self:
            refuse_self(engine, bench.answers, *([bench.rival] if bench.rival else []))
        identity |= identify_model(engine, {})
        _refuse_other(folder, identity, out)
        return _work(
            bench,
            _Desk(task, engine, folder, identity, rows, progress or Silence()),
            people,
            out,
            max_error_rate,
        )


def refuse_self(engine: Engine, *judged: Answers) -> None:
    """UsageError where the judge's model has given the answers, as far as their runs' manifests
    tell.
    """
    for answers in judged:
        models = [
            answers.manifest.get("model"),
            *dict(answers.manifest.get("models_of_passes") or {}).values(),
        ]
        for one in filter(None, models):
            if kinship := find_kinship(engine.info.identity, one["identity"]):
                fix = (
                    "choose another model as the judge, or say --allow-self if you know what "
                    "such a judgement is worth"
                )
                raise UsageError(
                    f"the judge has given the answers of {answers.name} itself ({kinship})", fix=fix
                )


@dataclass(slots=True)
class _Desk:
    task: Task
    engine: Engine
    folder: Path
    identity: Mapping[str, str]
    rows: int  # judgements to be asked for
    progress: Progress
    cost: Cost = field(default_factory=Cost)
    started: float = field(default_factory=time.monotonic)

    def write_manifest(self, state: str, attempts: int = 0) -> dict[str, Any]:
        manifest = {
            "state": state,
            "created": now(),
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

    def conclude(self, out: Path, found: Judged | Compared | None, exit_code: int) -> JudgeResult:
        state: Literal["finished", "interrupted"] = "finished" if found else "interrupted"
        return JudgeResult(
            out,
            self.engine.info.title,
            state,
            found,
            self.cost.rows,
            time.monotonic() - self.started,
            exit_code,
        )


def _work(
    bench: Bench, desk: _Desk, people: Mapping[int, int], out: Path, max_error_rate: float
) -> JudgeResult:
    """Ask, then write what was said; whatever happens, the ledger keeps it."""
    desk.write_manifest("running")
    sent_to = list_destinations(desk.engine)
    guard = no_network([address for addresses in sent_to.values() for address in addresses])
    with (
        guard as seen,
        closing(Ledger(desk.folder / "ledger.db", desk.task.outcomes)) as ledger,
        catch_signals() as signals,
    ):
        try:
            done = sum(ledger.count_statuses(desk.rows).values())
            desk.progress.on_start(desk.rows, done)
            fill_ledger(
                ledger,
                desk.task,
                desk.engine,
                {},
                bench.records(),
                done,
                desk.cost,
                signals,
                desk.progress,
            )
            answers = (given.answer for given in ledger.answers(desk.rows))
            found = (
                _write_pairs(bench, answers, out)
                if bench.rival
                else _write_grades(bench, answers, people, out)
            )
        except Interrupted as stop:
            ledger.flush()
            desk.write_manifest("interrupted", seen.attempts)
            return desk.conclude(out, None, stop.exit_code)
        except Exception:
            with suppress(
                MedtaskError
            ):  # a full disk takes no more; the error that matters is on its way
                ledger.flush()
                desk.write_manifest("interrupted", seen.attempts)
            raise
        manifest = desk.write_manifest("finished", seen.attempts)
    about = {name: manifest[name] for name in ("created", "model", "egress")}
    rubric = {
        "name": bench.rubric.name,
        "fingerprint": desk.task.fingerprint,
        "source": str(bench.rubric.source or "built in"),
    }
    document = {"answers": bench.answers.name, "rubric": rubric, **about, **found.to_json()}
    replace_text(out.with_suffix(".json"), json.dumps(document, indent=2, default=str) + "\n")
    lost = (found.missing_rate or 0.0) > max_error_rate
    return desk.conclude(out, found, 3 if lost else 0)


def _write_grades(
    bench: Bench, answers: Iterable[Answer], people: Mapping[int, int], out: Path
) -> Judged:
    rubric, seen = bench.rubric, _Seen()
    rows: list[Graded] = []
    places = {name: place for place, name in enumerate(rubric.names)}

    def lines() -> Iterator[tuple[object, ...]]:
        for one in read_gradings(rubric, bench.cases(), answers):
            if seen.count(one):
                grade = places[one.grade] if one.grade is not None else None
                rows.append(Graded(grade, one.expected, people.get(one.case.row), one.case.group))
            yield (
                one.case.record_id,
                one.grade,
                _round(one.expected),
                _round(one.confidence),
                str(one.status),
                one.reason,
            )

    write_answers(out, _GRADES, lines())
    scale = Scale(
        rubric.names, tuple(grade.points for grade in rubric.grades), places[rubric.passing]
    )
    lost = len(people) - sum(row.human is not None for row in rows)
    return measure_grades(
        scale, rows, unanswered=seen.unanswered, unreferenced=seen.unreferenced, lost=lost
    )


def _write_pairs(bench: Bench, answers: Iterable[Answer], out: Path) -> Compared:
    seen, outcomes, groups = _Seen(), list[str | None](), list[str | None]()
    names = {"answer": bench.answers.name, "rival": bench.rival.name if bench.rival else ""}

    def lines() -> Iterator[tuple[object, ...]]:
        for one in read_comparisons(bench.rubric, bench.cases(), answers):
            if seen.count(one):
                outcomes.append(_name_outcome(one))
                groups.append(one.case.group)
            winner = names.get(one.winner or "", one.winner)
            yield (
                one.case.record_id,
                winner,
                one.place,
                _round(one.preference),
                str(one.status),
                one.reason,
            )

    write_answers(out, _PAIRS, lines())
    return measure_pairs(
        outcomes, groups, unanswered=seen.unanswered, unreferenced=seen.unreferenced
    )


def _name_outcome(verdict: Verdict) -> str | None:
    match verdict.winner:
        case "answer":
            return "win"
        case "rival":
            return "loss"
        case "tie":
            return verdict.place or "same"
    return None


@dataclass(slots=True)
class _Seen:
    """Counts what was not put to the judge."""

    unanswered: int = 0
    unreferenced: int = 0

    def count(self, one: Judgement | Verdict) -> bool:
        """Whether it was put to the judge."""
        self.unanswered += one.reason == NO_ANSWER
        self.unreferenced += one.reason == NO_REFERENCE
        return one.reason not in (NO_ANSWER, NO_REFERENCE)


def _read_text(answer: Answer) -> str:
    return answer.value if isinstance(answer.value, str) else ""


def _round(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def _survey(bench: Bench) -> tuple[int, str]:
    """How many judgements are to be asked for, and SHA-256 of all that they are about; what cannot
    be judged is told.
    """
    for answers in filter(None, (bench.answers, bench.rival)):
        if answers.task.kind != "answer":
            fix = "let medtask evaluate hold them against gold"
            raise UsageError(
                f"a judge reads free text, and the answers of {answers.name} are of the kind "
                f"{answers.task.kind}",
                fix=fix,
            )
    digest = hashlib.sha256()
    for record in replace(
        bench, limit=None
    ).records():  # so that a larger limit goes on where a smaller one ended
        digest.update(json.dumps(dict(record.fields), sort_keys=True).encode() + b"\n")
    rows = sum(1 for _ in bench.records())
    if not rows and not any(case.answer for case in bench.cases()):
        raise InputError(
            f"{bench.answers.name} has no answer to judge",
            fix="see in its report why its rows have none",
        )
    if not rows and bench.rubric.reference and not any(case.reference for case in bench.cases()):
        fix = "name the column with --gold, or take a rubric with `reference: false`"
        raise InputError(
            "the rubric compares answers with a reference, and no row has one", fix=fix
        )
    if not rows and bench.rival:
        fix = "compare two runs over the same table, whose answers differ"
        raise InputError(
            f"{bench.answers.name} and {bench.rival.name} have no pair of answers to compare",
            fix=fix,
        )
    return rows, digest.hexdigest()


def _read_people(bench: Bench) -> dict[int, int]:
    """People's grades as places on the rubric's scale, by row; InputError where one is no grade of
    it.
    """
    if bench.people is None:
        return {}
    grades = bench.rubric.grades
    places = {grade.name: place for place, grade in enumerate(grades)}
    found, strange = {}, []
    for row in bench.people.rows():
        if row.gold is None:
            continue
        text = str(row.gold)
        place = places.get(
            text,
            next(
                (place for place, grade in enumerate(grades) if _is_number(text, grade.points)),
                None,
            ),
        )
        if place is None:
            strange.append(row.row)
        else:
            found[row.row] = place
    source = bench.people.gold.source if bench.people.gold else "the column"
    if strange:
        # Not the values themselves: in the wrong column they would be somebody's words.
        listed = ", ".join(map(str, strange[:5])) + (" ..." if len(strange) > 5 else "")
        fix = f"write one of {', '.join(bench.rubric.names)}, or leave the cell blank"
        raise InputError(
            f"{source}: {len(strange):,} of people's grades are no grades of the rubric (row "
            f"{listed})",
            fix=fix,
        )
    if not found:
        raise InputError(
            f"{source} holds no grade",
            fix="grade a random sample of the rows, 100 say, or leave --human out",
        )
    return found


def _is_number(text: str, points: float) -> bool:
    try:
        return float(text) == points
    except ValueError:
        return False


def _refuse_other(folder: Path, identity: Mapping[str, str], out: Path) -> None:
    try:
        refuse_mismatch(folder, identity)
    except RunMismatch as error:
        error.fix = f"name another file with --out, or remove {folder} to judge anew"
        raise

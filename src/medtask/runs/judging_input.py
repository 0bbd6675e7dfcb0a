"""Input of a judge: answers, rubric and human grades, checked before any call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from medtask.engines.base import Engine
from medtask.errors import InputError, UsageError
from medtask.names import Names
from medtask.prediction.judgements import JudgeCase, build_comparison_records, build_grading_records
from medtask.prediction.model_identity import find_same_model
from medtask.records import Answer, Record
from medtask.runs.answer_table import AnswerTable
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.rubric import Rubric, make_comparison_task, make_grading_task
from medtask.tasks.task import Task


@dataclass(frozen=True, slots=True)
class JudgingInput:
    """The answers to judge, and the rubric.

    Attributes:
        answers: The answers.
        rubric: The grades and their definitions.
        alternative: Other answers to the same questions. If given, ``answers`` are compared with
            them and not graded.
        human_grades: The same answers with human grades as gold.
        limit: How many rows are judged; None for all.
    """

    answers: AnswerTable
    rubric: Rubric
    alternative: AnswerTable | None = None
    human_grades: AnswerTable | None = None
    limit: int | None = None

    def iter_cases(self) -> Iterator[JudgeCase]:
        """Yield every row as a case; every call reads the tables again."""
        alternatives = (
            {row.answer.record_id: row for row in self.alternative.rows()}
            if self.alternative
            else {}
        )
        task = self.answers.task
        columns = get_task_kind(task).columns if task.kind_spec.free_text else ()
        context = next(iter(columns), None)
        for row in self.answers.rows():
            if self.limit is not None and row.row > self.limit:
                return
            other = alternatives.get(row.answer.record_id)
            not_new = [one.left_out for one in (row, other) if one and not one.answer_counts]
            yield JudgeCase(
                row=row.row,
                record_id=row.answer.record_id,
                question=row.text,
                reference=row.gold if isinstance(row.gold, str) else "",
                answer=_get_text(row.answer),
                context=str(row.fields.get(context) or "") if context else "",
                alternative=_get_text(other.answer) if other else "",
                group=row.group,
                left_out=not_new[0] if not_new else None,
            )

    @property
    def task(self) -> Task:
        """The task that the judge answers."""
        sources = (self.answers, self.alternative)
        phi = any(source.task.phi for source in sources if source is not None)
        return (make_comparison_task if self.alternative else make_grading_task)(
            self.rubric, phi=phi
        )

    def iter_records(self) -> Iterator[Record]:
        return (build_comparison_records if self.alternative else build_grading_records)(
            self.rubric, self.iter_cases()
        )

    def list_missing_facts(self) -> Iterator[str]:
        """A note for each fact about the answers that is missing and relevant to a judge."""
        if not self.answers.manifest:
            yield (
                f"{self.answers.name} does not say which model gave the answers: make sure that it "
                "is not the judge"
            )
        if not self.answers.task.input:
            yield (
                "no column holds the question (text, input, question, or what --task names): the "
                "judge reads only answer and reference"
            )


def refuse_self_judging(engine: Engine, *judged: AnswerTable) -> None:
    """Raise UsageError if, according to the manifests, the judge model gave the answers."""
    for answers in judged:
        models = [
            answers.manifest.get("model"),
            *dict(answers.manifest.get("models_of_passes") or {}).values(),
        ]
        for model in filter(None, models):
            if same_model := find_same_model(engine.info.identity, model["identity"]):
                raise UsageError(
                    f"the judge itself gave the answers of {answers.name} ({same_model})",
                    fix="choose another model as the judge, or add --allow-self",
                )


def check_answers(judging_input: JudgingInput) -> tuple[int, str]:
    """The number of judgements to make, and the SHA-256 of their input.

    Raises UsageError if the answers are not free text, InputError if no row can be judged.
    """
    for answers in filter(None, (judging_input.answers, judging_input.alternative)):
        if not answers.task.kind_spec.free_text:
            raise UsageError(
                f"a judge reads free text, and the answers of {answers.name} are of the kind "
                f"{answers.task.kind}",
                fix="compare them with gold: medtask evaluate",
            )
    digest = hashlib.sha256()
    # All rows are hashed, so that a run with a smaller limit can be resumed with a larger one.
    for record in replace(judging_input, limit=None).iter_records():
        digest.update(json.dumps(dict(record.fields), sort_keys=True).encode() + b"\n")
    rows = sum(1 for _ in judging_input.iter_records())
    if not rows and not any(case.answer for case in judging_input.iter_cases()):
        raise InputError(
            f"{judging_input.answers.name} has no answer to judge",
            fix="its report says why its rows have none",
        )
    if (
        not rows
        and judging_input.rubric.reference
        and not any(case.reference for case in judging_input.iter_cases())
    ):
        raise InputError(
            "the rubric compares answers with a reference, and no row has one",
            fix="name the column with --gold, or use a rubric with `reference: false`",
        )
    if not rows and judging_input.alternative:
        raise InputError(
            f"{judging_input.answers.name} and {judging_input.alternative.name} have no pair of "
            "answers to compare",
            fix="compare two runs over the same table, whose answers differ",
        )
    return rows, digest.hexdigest()


def read_human_grades(judging_input: JudgingInput) -> dict[int, int]:
    """Human grades as positions on the rubric's scale, by row number.

    Raises InputError if a grade is not in the rubric, or if there are no grades.
    """
    if judging_input.human_grades is None:
        return {}
    grades = judging_input.rubric.grades
    positions = {grade.name: position for position, grade in enumerate(grades)}
    names = Names(positions)
    found, unknown_rows = {}, []
    for row in judging_input.human_grades.rows():
        if row.gold is None:
            continue
        text = str(row.gold)
        by_points = (
            position for position, grade in enumerate(grades) if _equals_points(text, grade.points)
        )
        name = names.find(text)
        position = positions[name] if name is not None else next(by_points, None)
        if position is None:
            unknown_rows.append(row.row)
        else:
            found[row.row] = position
    source = (
        judging_input.human_grades.gold.source if judging_input.human_grades.gold else "the column"
    )
    if unknown_rows:
        # The values are not shown: if the column is wrong, they are record text.
        listed = ", ".join(map(str, unknown_rows[:5])) + (" ..." if len(unknown_rows) > 5 else "")
        fix = f"write one of {', '.join(judging_input.rubric.grade_names)}, or leave the cell blank"
        raise InputError(
            f"{source}: {len(unknown_rows):,} of people's grades are not grades of the rubric (row "
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


def _get_text(answer: Answer) -> str:
    return answer.value if isinstance(answer.value, str) else ""

"""An audit of answers without gold: a sample to be labelled by a person, and what its labels say of
the whole table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.data.atomic import replace_text
from medtask.data.read import read_table
from medtask.data.table import Column
from medtask.data.write import unguard, write_answers
from medtask.errors import InputError, RunMismatch, UsageError
from medtask.evaluate.audit import AuditPlan, AuditResult, estimate_audit, plan_audit
from medtask.evaluate.refusal import Refusal
from medtask.records import Answer, Value, settle_value
from medtask.runs.answered import GOLD_NAMES, AnsweredRow, Answers
from medtask.tasks.gold import find_strange, read_gold
from medtask.tasks.hints import list_columns, quote
from medtask.tasks.hygiene import read_cell
from medtask.tasks.prompt import input_columns
from medtask.tasks.task import AnyLabels, Choice, Task

SAMPLE, PLAN = "sample.csv", "audit.json"
BLANK = "gold"  # the column that a person fills in
FORMAT = 1
NOTHING = "none"  # what a person writes where no label applies
_LISTED = 10


@dataclass(frozen=True, slots=True, eq=False)
class Claims:
    """What answers claim of all rows: their class [n] (-1: no answer), confidence [n] (0 without an
    answer, NaN unknown), and the labels that they have [n, k]. ``digest`` tells these answers from
    all others.
    """

    classes: NDArray[np.int64]
    confidence: NDArray[np.float64]
    labels: tuple[str, ...]
    has: NDArray[np.bool_]
    digest: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample that was drawn: ``looks`` rows of ``rows``, of which ``labelled`` have their label
    so far.
    """

    folder: Path
    rows: int
    looks: int
    labelled: int

    @property
    def file(self) -> Path:
        return self.folder / SAMPLE


def draw_sample(answers: Answers, folder: Path, *, budget: int, seed: int = 0) -> Sample:
    """Write sample.csv (the rows to look at, shuffled, without their answers) and audit.json (the
    plan) into ``folder``.

    A sample with labels in it is never replaced (UsageError).
    """
    before = read_sample(folder)
    if before and before.labelled:
        fix = "leave --budget and --seed out to use its labels, or name another folder with --out"
        raise UsageError(f"{before.file} has {before.labelled:,} labels already", fix=fix)
    claims = collect_claims(answers)
    plan = plan_audit(claims.classes, claims.confidence, budget, seed)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    columns = _list_inputs(answers)
    places = frozenset(plan.drawn.tolist())
    found = {row.row - 1: row for row in answers.rows() if row.row - 1 in places}
    order = np.random.default_rng([seed, 2]).permutation(plan.drawn).tolist()
    cells = (
        [found[at].answer.record_id, *(found[at].fields.get(name) for name in columns), None]
        for at in order
    )
    shown = [name if name not in ("id", BLANK) else f"{name} (input)" for name in columns]
    write_answers(
        folder / SAMPLE, [Column("id", "text"), *map(Column, shown), Column(BLANK, "text")], cells
    )
    document = {"format": FORMAT, "answers": claims.digest, "plan": plan.to_json()}
    replace_text(folder / PLAN, json.dumps(document, indent=1) + "\n")
    return Sample(folder, plan.rows, len(plan.drawn), 0)


def read_sample(folder: Path) -> Sample | None:
    """The sample that was drawn into ``folder``; None where there is none. InputError where its
    plan cannot be read.
    """
    if not (folder / PLAN).exists():
        return None
    plan = _read_plan(folder)["plan"]
    labelled = 0
    if (folder / SAMPLE).exists():
        table = read_table(folder / SAMPLE)
        labelled = sum(read_cell(row.get(BLANK)) is not None for row in table.rows())
    return Sample(folder, int(plan["rows"]), len(plan["drawn"]), labelled)


def estimate_from_labels(answers: Answers, folder: Path, labels: Path | None = None) -> AuditResult:
    """What the labels of the sample, or of another file with the columns id and gold, say of all
    answers.

    RunMismatch where the answers are not those that the sample was drawn from; InputError for
    labels that the task does not know, with their rows, and where there are too few.
    """
    document, claims = _read_plan(folder), collect_claims(answers)
    told = document["plan"]
    if document["answers"] != claims.digest:
        fix = (
            "audit the run as it was (calibrated since? repeat its `medtask run` with "
            "--uncalibrated), or draw a new one with --out DIR"
        )
        raise RunMismatch(
            f"the answers of {answers.name} have changed since the sample in {folder} was drawn",
            fix=fix,
        )
    plan = plan_audit(claims.classes, claims.confidence, int(told["budget"]), int(told["seed"]))
    if plan.drawn.tolist() != told["drawn"]:
        raise InputError(
            f"{folder / PLAN} does not hold the plan of these answers",
            fix="draw a new sample into another folder with --out",
        )
    source = labels or folder / SAMPLE
    given = _read_labels(source)
    truths, rows = _match(answers, plan, given, source)
    places = np.array(sorted(truths), dtype=np.int64)
    right = np.array(
        [_is_right(rows[at].answer, truths[at], answers.task) for at in places.tolist()], dtype=bool
    )
    has = np.array(
        [[name in _names_of(truths[at]) for name in claims.labels] for at in places.tolist()],
        dtype=bool,
    )
    shaped = has.reshape(len(places), len(claims.labels))
    found = estimate_audit(
        plan,
        places,
        right,
        claims.confidence,
        truths=shaped,
        answers=claims.has,
        labels=claims.labels,
    )
    if isinstance(found, Refusal):
        wanted = f", at least {found.needed:,} must" if found.needed else ""
        raise InputError(
            f"{found.reason} ({found.rows:,} of {len(plan.drawn):,} have one{wanted})",
            fix=f"fill in more of {source}",
        )
    return found


def collect_claims(answers: Answers) -> Claims:
    """What the answers claim, in one pass. UsageError for the kinds whose answers cannot be
    labelled blindly.
    """
    task = answers.task
    if task.kind in ("answer", "fields"):
        fix = (
            "have them graded: medtask judge"
            if task.kind == "answer"
            else "give the truth in a column: medtask evaluate --gold"
        )
        raise UsageError(
            f"answers of the kind {task.kind} cannot be held against one label", fix=fix
        )
    labels = () if isinstance(task.form, Choice) else tuple(label.name for label in task.candidates)
    codes: dict[frozenset[str], int] = {}
    digest = hashlib.sha256()
    classes, confidence = [], []
    for row in answers.rows():
        said = _say(row.answer, task)
        sure = row.answer.confidence
        # To six digits: what a file rounds must not look like another answer.
        facts = [
            row.answer.record_id,
            row.answer.status,
            None if said is None else sorted(said),
            None if sure is None else round(sure, 6),
        ]
        digest.update(
            json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        )
        # A row's own options share letters, not meanings: they are one class.
        key = frozenset() if isinstance(task.form, Choice) else said
        classes.append(-1 if said is None or key is None else codes.setdefault(key, len(codes)))
        confidence.append(0.0 if said is None else np.nan if sure is None else sure)
    numbers = np.array(classes, dtype=np.int64)
    # The last line is for rows without an answer, whose number is -1.
    table = np.array(
        [[name in said for name in labels] for said in (*codes, frozenset())], dtype=bool
    ).reshape(len(codes) + 1, len(labels))
    return Claims(
        numbers, np.array(confidence, dtype=np.float64), labels, table[numbers], digest.hexdigest()
    )


def _say(answer: Answer, task: Task) -> frozenset[str] | None:
    """The labels that an answer gives, or the letters; None where there is no answer."""
    value = settle_value(answer.status, answer.value, task.abstention)
    return None if value is None else _names_of(value)


def _names_of(value: Value) -> frozenset[str]:
    return frozenset([value]) if isinstance(value, str) else frozenset(map(str, value))


def _is_right(answer: Answer, truth: Value, task: Task) -> bool:
    return _say(answer, task) == _names_of(truth)


def _list_inputs(answers: Answers) -> list[str]:
    """The columns of a row's fields that a person needs to see: those that the model saw; all but
    gold where that is not known.
    """
    task = answers.task
    seen = input_columns(task) if task.input else frozenset()
    names = list(answers.own_columns.values())
    hidden = {
        task.id_column,
        task.group_column,
        task.gold_column,
        answers.gold.column if answers.gold else None,
        *GOLD_NAMES,
    }
    hidden = {answers.columns.get(name, name) for name in hidden if name}
    return (
        [name for name in names if name in seen]
        if seen
        else [name for name in names if name not in hidden]
    )


def _read_plan(folder: Path) -> dict[str, Any]:
    path = folder / PLAN
    if not path.exists():
        raise UsageError(
            f"no sample was drawn into {folder}", fix="draw one: medtask audit RUN --budget 120"
        )
    found: object = None
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
    plan = found.get("plan") if isinstance(found, dict) and found.get("format") == FORMAT else None
    numbers = (
        [plan.get(name) for name in ("rows", "budget", "seed")]
        if isinstance(plan, dict)
        else [None]
    )
    if (
        not isinstance(found, dict)
        or not isinstance(plan, dict)
        or not isinstance(plan.get("drawn"), list)
        or not _are_counts(numbers)
    ):
        raise InputError(
            f"{path} cannot be read", fix="draw a new sample into another folder with --out"
        )
    return found


def _are_counts(numbers: Sequence[object]) -> bool:
    return all(isinstance(number, int) and number >= 0 for number in numbers)


def _read_labels(path: Path) -> dict[str, tuple[int, object]]:
    """The cells that are filled in, by id, with their row's number in the file. InputError for
    files that are no such table.
    """
    table = read_table(path)
    names = [name for name in GOLD_NAMES if name in table.columns]
    if "id" not in table.columns or not names:
        fix = f"it has {list_columns(table.columns)}"
        raise InputError(f"{path} needs the columns id and {BLANK}", fix=fix)
    found: dict[str, tuple[int, object]] = {}
    for number, row in enumerate(table.rows(), 1):
        name, cell = read_cell(row["id"]), row[names[0]]
        if name is None or read_cell(cell) is None:
            continue
        if name in found:
            raise InputError(
                f"{path} labels the id of row {found[name][0]:,} again in row {number:,}",
                fix="leave one of the two rows out",
            )
        found[name] = number, cell
    return found


def _match(
    answers: Answers, plan: AuditPlan, given: Mapping[str, tuple[int, object]], source: Path
) -> tuple[dict[int, Value], dict[int, AnsweredRow]]:
    """The truths by the place of their row, and those rows. InputError, with rows of the file, for
    ids and labels that are unknown.
    """
    drawn = frozenset(plan.drawn.tolist())
    rows = {row.row - 1: row for row in answers.rows() if row.row - 1 in drawn}
    place = {row.answer.record_id: at for at, row in rows.items()}
    truths: dict[int, Value] = {}
    strangers, unknown = [], []
    for name, (number, cell) in given.items():
        at = place.get(name, place.get(unguard(name)))
        if at is None:
            strangers.append(number)
            continue
        truth = _read_truth(answers.task, rows[at].fields, cell)
        if truth is None:
            unknown.append(number)
        else:
            truths[at] = truth
    if strangers:
        fix = "label the rows of the sample, and no others"
        raise InputError(
            f"{source} has ids that are not in the sample: {_list_rows(strangers)}", fix=fix
        )
    if unknown:
        raise InputError(
            f"{source} has labels that the task does not know: {_list_rows(unknown)}",
            fix=_list_choices(answers.task),
        )
    return truths, rows


def _read_truth(task: Task, fields: Mapping[str, object], cell: object) -> Value | None:
    """A cell as a truth of the task; None where it is none."""
    if task.several and str(cell).strip().casefold() == NOTHING:
        return ()
    truth = read_gold(task, fields, unguard(cell) if isinstance(cell, str) else cell)
    return None if truth is None or find_strange(task, fields, truth) else truth


def _list_rows(numbers: Sequence[int]) -> str:
    """``rows 2, 5 and 9``; the heading is no row."""
    shown = ", ".join(f"{number:,}" for number in sorted(numbers)[:_LISTED])
    return f"row{'s' * (len(numbers) != 1)} {shown}" + (
        f" and {len(numbers) - _LISTED:,} more" if len(numbers) > _LISTED else ""
    )


def _list_choices(task: Task) -> str:
    if isinstance(task.form, Choice):
        return "write the letter of one of the row's own options"
    names: Iterable[str] = (label.name for label in task.candidates)
    several = (
        f'; several with ";" between them, "{NOTHING}" where none applies'
        if isinstance(task.form, AnyLabels)
        else ""
    )
    return f"write one of {', '.join(map(quote, names))}{several}"

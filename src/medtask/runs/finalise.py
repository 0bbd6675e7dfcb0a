"""What people read, derived from the ledger: the tables of answers, and what they look like in
sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from medtask.data.table import Column, Table
from medtask.data.values import json_text
from medtask.data.write import write_answers
from medtask.decision.decide import apply_thresholds
from medtask.decision.fields import answer_schema
from medtask.decision.predictor import RowAnswer
from medtask.errors import RunMismatch
from medtask.records import Answer, Prompt, Record
from medtask.runs.calibrations import calibrate_answer
from medtask.runs.ledger import Ledger
from medtask.tasks.prompt import build_prompt, prompt_key
from medtask.tasks.rows import read_records
from medtask.tasks.task import AnyLabels, Fields, FreeText, Task

if TYPE_CHECKING:
    from medtask.evaluate.calibration import Calibration
    from medtask.evaluate.comparison import Baseline
    from medtask.evaluate.summary import Gatherer, Summary
    from medtask.evaluate.thresholds import Fitted

ALWAYS = ("csv", "parquet")
_FOR_PEOPLE = ("csv", "xlsx")  # no probabilities, and confidence with four decimals
_ALWAYS_OURS = ("answer", "confidence", "status", "reason", "pass", "probabilities", "uncalibrated")


_Pair = tuple[Record, RowAnswer]


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that the tables of a run are made from: its first ``rows`` rows, all of which have
    answers.
    """

    task: Task
    table: Table
    ledger: Ledger
    rows: int
    gold_column: str | None
    calibration: Calibration | None = None

    def records(self) -> Iterator[Record]:
        return islice(read_records(self.task, self.table, gold_column=self.gold_column), self.rows)

    def answers(self) -> Iterator[RowAnswer]:
        """As they are told: with calibrated probabilities, where there is a calibration."""
        for given in self.ledger.answers(self.rows):
            yield (
                replace(given, answer=calibrate_answer(self.task, given.answer, self.calibration))
                if self.calibration
                else given
            )

    def pairs(self) -> Iterator[_Pair]:
        return zip(self.records(), self.answers(), strict=True)


def fit_thresholds(source: Source) -> Fitted | None:
    """The thresholds that the task wants fitted on gold; None where it wants none, or no row has
    gold that can be used.
    """
    task, form = source.task, source.task.form
    if not isinstance(form, AnyLabels) or form.fit is None:
        return None
    from medtask.evaluate.thresholds import ThresholdFitter

    names = [label.name for label in task.labels]
    fitter = ThresholdFitter(names, form.fit, form.recall_floor)
    found = 0
    for record, given in source.pairs():
        shares = given.answer.probabilities
        # A further pass may have been asked about some of the labels only.
        if shares and shares.keys() >= set(names) and _is_usable(record, names):
            fitter.add(given.row, shares, cast("tuple[str, ...]", record.gold))
            found += 1
    return fitter.finish() if found else None


def open_gatherer(task: Task, *, has_gold: bool, seed: int = 0) -> Gatherer:
    """What gathers the answers to a task for its report."""
    from medtask.evaluate.summary import Gatherer

    return Gatherer(
        task.kind, [label.name for label in task.labels], task.abstention, has_gold, seed
    )


def compare_baselines(task: Task, summary: Summary) -> tuple[Baseline, ...]:
    """Simple methods on the rows with gold; nothing where there are none, or their texts are not
    known.
    """
    if summary.gold is None or not summary.gold.sample.gold or not any(summary.gold.sample.texts):
        return ()
    from medtask.evaluate.baselines import run_baselines

    return run_baselines(
        task.kind,
        summary.gold.sample,
        [(label.name, label.definition) for label in task.candidates],
    )


def write_tables(
    folder: Path, source: Source, formats: Sequence[str], thresholds: Fitted | None = None
) -> Summary:
    """Write answers.csv, answers.parquet and the other formats.

    RunMismatch where an answer in the ledger is to another text than the row now has.
    """
    task, table = source.task, source.table
    gatherer = open_gatherer(task, has_gold=source.gold_column is not None)
    names = rename_columns(task, table.columns)
    for place, suffix in enumerate(dict.fromkeys((*ALWAYS, *formats))):
        pairs = source.pairs()
        if thresholds:
            pairs = _judge(task, pairs, thresholds)
        if place == 0:
            pairs = _gather(task, pairs, gatherer)
        ours = _list_ours(
            task, people=suffix in _FOR_PEOPLE, calibrated=source.calibration is not None
        )
        columns = [*(Column(name) for name in names.values()), *ours]
        write_answers(
            folder / f"answers.{suffix}",
            columns,
            _list_cells(pairs, table.columns, ours, people=suffix in _FOR_PEOPLE),
        )
    return gatherer.finish()


def rename_columns(task: Task, columns: Sequence[str]) -> dict[str, str]:
    """The table's columns -> their names in the tables of answers, where some names are taken."""
    ours = {*_ALWAYS_OURS, *(column.name for column in _list_ours(task, people=False))}
    names: dict[str, str] = {}
    for column in columns:
        name = column
        while name in ours or (name != column and name in columns):
            name = f"input_{name}"
        names[column] = name
    return names


def _judge(task: Task, pairs: Iterable[_Pair], thresholds: Fitted) -> Iterator[_Pair]:
    """Pass pairs on, their labels decided by the thresholds that are theirs."""
    names = [label.name for label in task.labels]
    for record, given in pairs:
        fitted = thresholds.for_row(given.row, _is_usable(record, names))
        yield record, replace(given, answer=apply_thresholds(task, given.answer, fitted))


def _is_usable(record: Record, labels: Sequence[str]) -> bool:
    return isinstance(record.gold, tuple) and all(name in labels for name in record.gold)


def _gather(task: Task, pairs: Iterable[_Pair], gatherer: Gatherer) -> Iterator[_Pair]:
    """Pass pairs on, each counted, and each seen to be an answer to this very record."""
    for record, given in pairs:
        prompt = build_prompt(task, record)
        asked = prompt if isinstance(prompt, Prompt) else None
        key, text, options = (
            (prompt_key(asked), asked.text, asked.options) if asked else (None, "", ())
        )
        if given.key != key:
            raise RunMismatch(
                f"row {given.row:,} is not what was answered: the table was changed while the "
                "run read it",
                fix="start afresh with --new-run, and leave the table alone meanwhile",
            )
        gatherer.add(given.row, given.answer, text, record.gold, options, record.group)
        yield record, given


def _list_ours(task: Task, *, people: bool, calibrated: bool = False) -> list[Column]:
    if isinstance(task.form, Fields):
        answer = Column("answer", "nested", schema=answer_schema(task.form))
    else:
        answer = Column("answer", "texts" if task.several else "text")
    ours = [
        answer,
        Column("confidence", "float"),
        Column("status", "text"),
        Column("reason", "text"),
        Column("pass", "text"),
    ]
    if task.outcomes and not people:
        names = ("probabilities", "uncalibrated") if calibrated else ("probabilities",)
        ours += [Column(name, "probabilities", task.outcomes) for name in names]
    if isinstance(task.form, FreeText) and task.form.sections:
        ours.append(Column("written", "text"))
    if isinstance(task.form, Fields) and task.form.quoted:
        ours.append(Column("quotes", "text"))
    return ours


def _list_cells(
    pairs: Iterable[_Pair], columns: Sequence[str], ours: Sequence[Column], *, people: bool
) -> Iterator[Sequence[object]]:
    for record, given in pairs:
        yield [
            *(record.fields[column] for column in columns),
            *(write_cell(column.name, given.answer, people) for column in ours),
        ]


def write_cell(name: str, answer: Answer, people: bool) -> object:
    """What a column of ours holds for an answer; for ``people`` in fewer digits, and several labels
    as one text.
    """
    match name:
        case "answer":
            return (
                "; ".join(answer.value)
                if people and isinstance(answer.value, tuple)
                else answer.value
            )
        case "confidence":
            return (
                round(answer.confidence, 4)
                if people and answer.confidence is not None
                else answer.confidence
            )
        case "status":
            return str(answer.status)
        case "pass":
            return answer.pass_name
        case "written":
            return answer.text
        case "quotes":
            return (
                json_text({field: asdict(quote) for field, quote in answer.quotes.items()})
                if answer.quotes
                else None
            )
    return getattr(answer, name)

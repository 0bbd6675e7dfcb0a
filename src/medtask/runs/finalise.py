"""What people read, derived from the ledger: the tables of answers, and what they look like in sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medtask.data.table import Column, Table
from medtask.data.write import write_answers
from medtask.decision.predictor import RowAnswer
from medtask.errors import RunMismatch
from medtask.records import Prompt, Record
from medtask.runs.ledger import Ledger
from medtask.tasks.prompt import build_prompt, prompt_key
from medtask.tasks.rows import read_records
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluate.summary import Gatherer, Summary

ALWAYS = ("csv", "parquet")
_FOR_PEOPLE = ("csv", "xlsx")  # no probabilities, and confidence with four decimals
_OURS = ("answer", "confidence", "status", "reason", "pass", "probabilities")


_Pair = tuple[Record, RowAnswer]


def write_tables(
    folder: Path, task: Task, table: Table, ledger: Ledger, *, rows: int, formats: Sequence[str], gold_column: str | None
) -> Summary:
    """Write answers.csv, answers.parquet and the other formats for the first ``rows`` rows, all of which have answers.

    RunMismatch where an answer in the ledger is to another text than the row now has.
    """
    from medtask.evaluate.summary import Gatherer

    abstain = task.abstain.name if task.abstain else None
    gatherer = Gatherer([label.name for label in task.labels], abstain, has_gold=gold_column is not None)
    names = rename_columns(table.columns)
    for place, suffix in enumerate(dict.fromkeys((*ALWAYS, *formats))):
        pairs = _pair_rows(task, table, ledger, rows, gold_column)
        if place == 0:
            pairs = _gather(task, pairs, gatherer)
        columns = [*(Column(name) for name in names.values()), *_list_ours(task, suffix)]
        write_answers(folder / f"answers.{suffix}", columns, _list_cells(pairs, table.columns, suffix))
    return gatherer.finish()


def rename_columns(columns: Sequence[str]) -> dict[str, str]:
    """The table's columns -> their names in the tables of answers, where some names are taken."""
    names: dict[str, str] = {}
    for column in columns:
        name = column
        while name in _OURS or (name != column and name in columns):
            name = f"input_{name}"
        names[column] = name
    return names


def _pair_rows(task: Task, table: Table, ledger: Ledger, rows: int, gold_column: str | None) -> Iterator[_Pair]:
    records = islice(read_records(task, table, gold_column=gold_column), rows)
    return zip(records, ledger.answers(rows), strict=True)


def _gather(task: Task, pairs: Iterable[_Pair], gatherer: Gatherer) -> Iterator[_Pair]:
    """Pass pairs on, each counted, and each seen to be an answer to this very record."""
    for record, given in pairs:
        prompt = build_prompt(task, record)
        key, text = (prompt_key(prompt), prompt.text) if isinstance(prompt, Prompt) else (None, "")
        if given.key != key:
            raise RunMismatch(
                f"row {given.row:,} is not what was answered: the table was changed while the run read it",
                fix="start afresh with --new-run, and leave the table alone meanwhile",
            )
        gatherer.add(given.row, given.answer, text, record.gold)
        yield record, given


def _list_ours(task: Task, suffix: str) -> list[Column]:
    types: tuple[Literal["text", "float", "probabilities"], ...] = ("text", "float", "text", "text", "text", "probabilities")
    labels = tuple(label.name for label in task.candidates)
    ours = [Column(name, kind, labels if kind == "probabilities" else ()) for name, kind in zip(_OURS, types, strict=True)]
    return ours[:-1] if suffix in _FOR_PEOPLE else ours


def _list_cells(pairs: Iterable[_Pair], columns: Sequence[str], suffix: str) -> Iterator[Sequence[object]]:
    people = suffix in _FOR_PEOPLE
    for record, given in pairs:
        answer = given.answer
        confidence = round(answer.confidence, 4) if people and answer.confidence is not None else answer.confidence
        cells = [record.fields[column] for column in columns]
        cells += (answer.value, confidence, str(answer.status), answer.reason, answer.pass_name)
        yield cells if people else [*cells, answer.probabilities]

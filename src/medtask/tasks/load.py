"""Task files into tasks: everything that is wrong with one is told at once, each fault with its
line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from medtask.errors import InputError, TaskFault, TaskFaults
from medtask.tasks.fewshot import read_examples
from medtask.tasks.forms import read_form
from medtask.tasks.hints import quote
from medtask.tasks.hygiene import clean_text
from medtask.tasks.identity import fingerprint_task
from medtask.tasks.labels import Entry, assign_says, find_warnings, read_abstention, read_labels
from medtask.tasks.passes import check_orders, derive_passes, read_reasoning
from medtask.tasks.prompt import extra_columns
from medtask.tasks.schema import (
    GatePart,
    Part,
    ReviewPart,
    TaskPart,
    read_answer,
    read_part,
    settle_keys,
)
from medtask.tasks.source import Document, NullWord, read_document
from medtask.tasks.task import Fields, FreeText, Gate, OneLabel, Review, Task
from medtask.tasks.template import read_template

FILE_NAMES = ("task.yaml", "task.yml", "task.json")
LISTED_FAULTS = 50


def load_task(path: str | Path) -> Task:
    """Load a task from its file, or from the folder that holds ``task.yaml`` (``task.yml``,
    ``task.json``).

    Raises TaskFaults with all faults of the file, InputError where there is no such file.
    """
    file = _find_file(Path(path))
    document, faults = settle_keys(read_document(file))
    faults += document.faults
    part = read_part(document, (), TaskPart, faults)
    question = _read_question(document, file, faults)
    task = replace(
        question.task,
        name=_name_task(_text(document.data, "name"), file),
        review=_read_optional(document, "review", ReviewPart, Review, faults) or Review(),
        gate=_read_gate(document, question.task, faults),
        reasoning=read_reasoning(document, ("reasoning",), faults),
        phi=part.phi if part else False,
        data=file.parent / part.data if part and part.data else None,
        model=part.model if part else None,
        source=file,
    )
    shown = read_examples(
        document, ("examples",), file.parent, question.task, question.graded, faults
    )
    task = replace(task, examples=shown.examples, pool=shown.pool)
    check_orders(document, ("reasoning",), task, faults)
    passes = derive_passes(document, task, file.parent, question.graded, faults)
    if faults or part is None:
        raise TaskFaults(str(file), _shorten(faults))
    own = find_warnings(document, file.name, question.entries, isinstance(task.form, OneLabel))
    more = (warning for one in passes for warning in one.task.warnings)
    task = replace(
        task,
        passes=passes,
        warnings=(*own, *_warn_of_leaks(document, file.name, task), *shown.warnings, *more),
    )
    return replace(task, fingerprint=fingerprint_task(task))


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, as far as the file tells. ``entries``: its labels; ``graded``: whether its
    answers are known for sure.
    """

    task: Task
    entries: list[Entry]
    graded: bool


def _read_question(document: Document, file: Path, faults: list[TaskFault]) -> _Question:
    before = len(faults)
    answer, part = document.at("answer"), read_answer(document, faults)
    answer = answer if isinstance(answer, dict) else {}
    entries, label_faults = (
        read_labels(document, answer["labels"]) if "labels" in answer else ([], [])
    )
    abstain, abstain_faults = read_abstention(document, answer.get("abstain"), entries)
    faults += label_faults + abstain_faults
    form = (
        read_form(
            document,
            part,
            [] if label_faults else [entry.name for entry in entries],
            file.parent,
            faults,
        )
        if part
        else OneLabel()
    )
    labels, abstention = assign_says(
        entries, abstain, form.readout if isinstance(form, OneLabel) else "name"
    )
    graded = part is not None and len(faults) == before
    faults += _check_input(document)
    data = document.data
    task = Task("", _text(data, "instruction"), _text(data, "input"), form, labels, abstention)
    columns: dict[str, Any] = {
        f"{key}_column": _text(data, key) or None for key in ("id", "gold", "group")
    }
    return _Question(replace(task, **columns), entries, graded)


def _read_gate(document: Document, task: Task, faults: list[TaskFault]) -> Gate:
    gate = _read_optional(document, "gate", GatePart, Gate, faults)
    if gate is None:
        return Gate()
    if gate.too_long == "chunk" and isinstance(task.form, FreeText | Fields):
        message = (
            f"chunk combines scores, and a task of the kind {task.kind} has none: choose "
            "error or head_tail"
        )
        faults.append(document.fault(message, "gate", "too_long"))
    if gate.too_long != "chunk" and document.at("gate", "combine") is not None:
        faults.append(document.fault('"combine" belongs to "too_long: chunk"', "gate", "combine"))
    if gate.novelty is not None and document.at("examples") is None:
        faults.append(
            document.fault(
                '"novelty" is likeness to the examples, and the task has none', "gate", "novelty"
            )
        )
    return gate


T = TypeVar("T")


def _read_optional(
    document: Document, key: str, part: type[Part], make: Callable[..., T], faults: list[TaskFault]
) -> T | None:
    """The record that ``make`` makes of an optional part; None where there is none, or a fault in
    it.
    """
    raw = document.at(key)
    if raw is None or isinstance(raw, NullWord):
        return None
    read = read_part(document, (key,), part, faults)
    return make(**read.model_dump()) if read else None


def _find_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix.lower() not in (".yaml", ".yml", ".json"):
            raise InputError(
                f"{path} is no task file: it ends in neither .yaml, .yml nor .json",
                fix="name the task's file or its folder",
            )
        return path
    start = f"write one with: medtask init {path.stem} --from TABLE"
    if not path.is_dir():
        raise InputError(f"there is no task {path}", fix=f"check the path, or {start}")
    found = [path / name for name in FILE_NAMES if (path / name).is_file()]
    if not found:
        raise InputError(
            f"the folder {path} holds no task.yaml, task.yml or task.json",
            fix=f"name the task's folder, or {start}",
        )
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise InputError(f"the folder {path} holds {names}", fix="name the file that is meant")
    return found[0]


def _text(data: dict[str, object], key: str) -> str:
    value = data.get(key)
    return value.strip() if isinstance(value, str) else ""


def _check_input(document: Document) -> Iterator[TaskFault]:
    source = _text(document.data, "input")
    template = read_template(source)
    for line, message in template.faults:
        yield document.fault(message, "input", text_line=line)
    if source and not template.faults and not template.columns and not template.whole_row:
        yield document.fault(
            'input uses no column of the table - write one as in "{{ procedure }}"', "input"
        )


def _warn_of_leaks(document: Document, file_name: str, task: Task) -> Iterator[str]:
    template, gold = read_template(task.input), task.gold_column
    if gold and (gold in template.columns or template.whole_row):
        yield (
            f"{file_name}:{document.line('input')}: input shows the gold column {quote(gold)} "
            "to the model"
        )
    elif gold and gold in extra_columns(task.form):
        yield (
            f"{file_name}:{document.line('answer')}: the gold column {quote(gold)} is shown to "
            "the model"
        )


def _name_task(name: str, file: Path) -> str:
    given = name or (file.resolve().parent.name if file.name in FILE_NAMES else file.stem)
    return " ".join(clean_text(given).split()) or "task"


def _shorten(faults: Sequence[TaskFault]) -> list[TaskFault]:
    shown = sorted(faults, key=lambda fault: fault.line or 0)[:LISTED_FAULTS]
    hidden = len(faults) - len(shown)
    return (
        [*shown, TaskFault(shown[-1].line, f"and {hidden:,} more faults after it")]
        if hidden
        else shown
    )

"""Task files into tasks: everything that is wrong with one is told at once, each fault with its
line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from medtask.display import quote
from medtask.errors import InputError, TaskFault, TaskFaults
from medtask.tasks.answer_spec import read_answer_spec
from medtask.tasks.config import (
    ConfigModel,
    GateConfig,
    ReviewConfig,
    TaskConfig,
    read_answer_config,
    read_config,
    resolve_keys,
)
from medtask.tasks.document import Document, NullScalar, read_document
from medtask.tasks.fewshot import read_examples
from medtask.tasks.fingerprint import fingerprint_task
from medtask.tasks.input_template import read_template
from medtask.tasks.label_definitions import (
    LabelEntry,
    assign_verbalizers,
    find_label_warnings,
    read_abstain_label,
    read_labels,
)
from medtask.tasks.pass_definitions import check_debiasing, derive_passes, read_reasoning
from medtask.tasks.prompt import find_extra_columns
from medtask.tasks.task import Fields, FreeText, Gate, Review, SingleLabel, Task
from medtask.tasks.text_cleaning import clean_text

FILE_NAMES = ("task.yaml", "task.yml", "task.json")
MAX_LISTED_FAULTS = 50


def load_task(path: str | Path) -> Task:
    """Load a task from its file, or from the folder that holds ``task.yaml`` (``task.yml``,
    ``task.json``).

    Raises TaskFaults with all faults of the file, InputError where there is no such file.
    """
    file = _find_file(Path(path))
    document, faults = resolve_keys(read_document(file))
    faults += document.faults
    part = read_config(document, (), TaskConfig, faults)
    parsed = _parse_task(document, file, faults)
    task = replace(
        parsed.task,
        name=_choose_task_name(_read_text(document.data, "name"), file),
        review=_read_optional(document, "review", ReviewConfig, Review, faults) or Review(),
        gate=_read_gate(document, parsed.task, faults),
        reasoning=read_reasoning(document, ("reasoning",), faults),
        phi=part.phi if part else False,
        data=file.parent / part.data if part and part.data else None,
        model=part.model if part else None,
        source=file,
    )
    few_shot = read_examples(
        document, ("examples",), file.parent, parsed.task, parsed.answers_known, faults
    )
    task = replace(task, examples=few_shot.examples, pool=few_shot.pool)
    check_debiasing(document, ("reasoning",), task, faults)
    passes = derive_passes(document, task, file.parent, parsed.answers_known, faults)
    if faults or part is None:
        raise TaskFaults(str(file), _limit_faults(faults))
    own = find_label_warnings(
        document, file.name, parsed.label_entries, isinstance(task.answer_spec, SingleLabel)
    )
    more = (warning for one in passes for warning in one.task.warnings)
    task = replace(
        task,
        passes=passes,
        warnings=(*own, *_find_gold_leaks(document, file.name, task), *few_shot.warnings, *more),
    )
    return replace(task, fingerprint=fingerprint_task(task))


@dataclass(frozen=True, slots=True)
class _ParsedTask:
    """What is asked, as far as the file tells. ``label_entries``: its labels;
    ``answers_known``: whether its answers are known for sure.
    """

    task: Task
    label_entries: list[LabelEntry]
    answers_known: bool


def _parse_task(document: Document, file: Path, faults: list[TaskFault]) -> _ParsedTask:
    before = len(faults)
    answer, part = document.get_value("answer"), read_answer_config(document, faults)
    answer = answer if isinstance(answer, dict) else {}
    entries, label_faults = (
        read_labels(document, answer["labels"]) if "labels" in answer else ([], [])
    )
    abstain, abstain_faults = read_abstain_label(document, answer.get("abstain"), entries)
    faults += label_faults + abstain_faults
    answer_spec = (
        read_answer_spec(
            document,
            part,
            [] if label_faults else [entry.name for entry in entries],
            file.parent,
            faults,
        )
        if part
        else SingleLabel()
    )
    labels, abstention = assign_verbalizers(
        entries, abstain, answer_spec.readout if isinstance(answer_spec, SingleLabel) else "name"
    )
    answers_known = part is not None and len(faults) == before
    faults += _check_input(document)
    data = document.data
    task = Task(
        "",
        _read_text(data, "instruction"),
        _read_text(data, "input"),
        answer_spec,
        labels,
        abstention,
    )
    columns: dict[str, Any] = {
        f"{key}_column": _read_text(data, key) or None for key in ("id", "gold", "group")
    }
    return _ParsedTask(replace(task, **columns), entries, answers_known)


def _read_gate(document: Document, task: Task, faults: list[TaskFault]) -> Gate:
    gate = _read_optional(document, "gate", GateConfig, Gate, faults)
    if gate is None:
        return Gate()
    if gate.too_long == "chunk" and isinstance(task.answer_spec, FreeText | Fields):
        message = (
            f"chunk combines scores, and a task of the kind {task.kind} has none: choose "
            "error or head_tail"
        )
        faults.append(document.make_fault(message, "gate", "too_long"))
    if gate.too_long != "chunk" and document.get_value("gate", "combine") is not None:
        faults.append(
            document.make_fault('"combine" belongs to "too_long: chunk"', "gate", "combine")
        )
    if gate.novelty is not None and document.get_value("examples") is None:
        faults.append(
            document.make_fault(
                '"novelty" is likeness to the examples, and the task has none', "gate", "novelty"
            )
        )
    return gate


T = TypeVar("T")


def _read_optional(
    document: Document,
    key: str,
    config_type: type[ConfigModel],
    factory: Callable[..., T],
    faults: list[TaskFault],
) -> T | None:
    """The record that ``factory`` makes of an optional part; None where there is none, or a
    fault in it.
    """
    raw = document.get_value(key)
    if raw is None or isinstance(raw, NullScalar):
        return None
    read = read_config(document, (key,), config_type, faults)
    return factory(**read.model_dump()) if read else None


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


def _read_text(data: dict[str, object], key: str) -> str:
    value = data.get(key)
    return value.strip() if isinstance(value, str) else ""


def _check_input(document: Document) -> Iterator[TaskFault]:
    source = _read_text(document.data, "input")
    template = read_template(source)
    for line, message in template.faults:
        yield document.make_fault(message, "input", text_line=line)
    if source and not template.faults and not template.columns and not template.whole_row:
        yield document.make_fault(
            'input uses no column of the table - write one as in "{{ procedure }}"', "input"
        )


def _find_gold_leaks(document: Document, file_name: str, task: Task) -> Iterator[str]:
    template, gold = read_template(task.input), task.gold_column
    if gold and (gold in template.columns or template.whole_row):
        yield (
            f"{file_name}:{document.find_line('input')}: input shows the gold column "
            f"{quote(gold)} "
            "to the model"
        )
    elif gold and gold in find_extra_columns(task.answer_spec):
        yield (
            f"{file_name}:{document.find_line('answer')}: the gold column {quote(gold)} is "
            "shown to "
            "the model"
        )


def _choose_task_name(name: str, file: Path) -> str:
    given = name or (file.resolve().parent.name if file.name in FILE_NAMES else file.stem)
    return " ".join(clean_text(given).split()) or "task"


def _limit_faults(faults: Sequence[TaskFault]) -> list[TaskFault]:
    shown = sorted(faults, key=lambda fault: fault.line or 0)[:MAX_LISTED_FAULTS]
    hidden = len(faults) - len(shown)
    return (
        [*shown, TaskFault(shown[-1].line, f"and {hidden:,} more faults after it")]
        if hidden
        else shown
    )

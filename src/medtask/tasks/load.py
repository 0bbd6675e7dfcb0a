"""Loading of task files; all faults of a file are reported at once, each with its line."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from medtask.display import format_suggestion, quote
from medtask.errors import InputError, TaskFault, TaskFaults
from medtask.keywords import compile_keyword
from medtask.tasks.config import (
    BaselinesConfig,
    CascadeConfig,
    ConfigModel,
    GateConfig,
    ReviewConfig,
    TaskConfig,
)
from medtask.tasks.document import read_document
from medtask.tasks.fewshot import read_examples
from medtask.tasks.fingerprint import fingerprint_task
from medtask.tasks.input_template import read_template
from medtask.tasks.keys import find_kind, resolve_keys
from medtask.tasks.kinds import TASK_KINDS, get_task_kind
from medtask.tasks.label_definitions import (
    LabelEntry,
    assign_verbalizers,
    find_label_warnings,
    read_abstain_label,
    read_labels,
)
from medtask.tasks.pass_definitions import check_reasoning, derive_passes, read_reasoning
from medtask.tasks.reader import TaskReader, is_null
from medtask.tasks.row_fingerprints import read_fingerprints
from medtask.tasks.task import AnswerSpec, Gate, Label, Review, SingleLabel, Task
from medtask.tasks.text_cleaning import clean_text

FILE_NAMES = ("task.yaml", "task.yml", "task.json")
MAX_LISTED_FAULTS = 50

T = TypeVar("T")


def load_task(path: str | Path, *, root: str | Path | None = None) -> Task:
    """Load a task file.

    Args:
        path: The task file, or the folder with its ``task.yaml``, ``task.yml`` or ``task.json``.
        root: The folder that all files named in the task file must be in, for task files of other
            people. By default they may be in any folder that the user can read.

    Returns:
        The task. Its ``warnings`` describe settings that are valid but probably unintended.

    Raises:
        TaskFaults: The file has faults; the exception lists all of them.
        InputError: The file is not found or cannot be read.
    """
    file = _find_file(Path(path))
    reader = TaskReader(read_document(file), root=None if root is None else Path(root))
    resolve_keys(reader)
    reader.faults += reader.document.faults
    config = reader.read_config((), TaskConfig)
    answer = _read_answer(reader)
    task = replace(
        _build_task(reader, file, config, answer),
        review=_read_section(reader, "review", ReviewConfig, Review) or Review(),
        reasoning=read_reasoning(reader, ("reasoning",)),
    )
    task = replace(task, gate=_read_gate(reader, task))
    task = replace(task, keywords=_read_keywords(reader, task))
    task = replace(task, cascade_alpha=_read_cascade(reader, task))
    few_shot = read_examples(reader, ("examples",), task)
    task = replace(task, examples=few_shot.examples, pool=few_shot.pool)
    check_reasoning(reader, ("reasoning",), task)
    passes = derive_passes(reader, task)
    if reader.faults or config is None:
        faults = [*reader.faults, *_find_related_warnings(reader)]
        raise TaskFaults(str(file), _limit_faults(faults))
    cut_texts = tuple(f"{file.name}:{one.line}: {one.message}" for one in reader.document.warnings)
    warnings = (
        *cut_texts,
        *find_label_warnings(reader, answer.label_entries, exclusive=task.kind_spec.exclusive),
        *_find_gold_leaks(reader, task),
        *few_shot.warnings,
        *(warning for one in passes for warning in one.task.warnings),
    )
    task = replace(task, passes=passes, warnings=warnings, cut_texts=cut_texts)
    return replace(task, fingerprint=fingerprint_task(task))


def _find_related_warnings(reader: TaskReader) -> list[TaskFault]:
    """The warnings about lines that have a fault, or the line after it: the probable cause."""
    lines = {fault.line for fault in reader.faults if fault.line is not None}
    return [
        one
        for one in reader.document.warnings
        if one.line is not None and lines & {one.line, one.line - 1}
    ]


@dataclass(frozen=True, slots=True)
class _AnswerSection:
    """The answer section: its specification, and the labels of the file and of the task."""

    spec: AnswerSpec
    label_entries: list[LabelEntry]
    labels: tuple[Label, ...]
    abstain: Label | None


def _read_answer(reader: TaskReader) -> _AnswerSection:
    before = len(reader.faults)
    kind, config = _read_answer_config(reader)
    raw = reader.document.get_value("answer")
    raw = raw if isinstance(raw, dict) else {}
    before_labels = len(reader.faults)
    entries = read_labels(reader, raw["labels"]) if "labels" in raw else []
    names = [entry.name for entry in entries] if len(reader.faults) == before_labels else []
    abstain = read_abstain_label(reader, raw.get("abstain"), entries)
    spec: AnswerSpec = SingleLabel()
    if kind and config:
        spec = TASK_KINDS[kind].read_spec(reader, config, names)
    readout = TASK_KINDS[spec.kind].get_readout(spec)
    labels, abstention = assign_verbalizers(entries, abstain, readout)
    reader.answers_known = config is not None and len(reader.faults) == before
    return _AnswerSection(spec, entries, labels, abstention)


def _read_answer_config(reader: TaskReader) -> tuple[str | None, ConfigModel | None]:
    """The kind of the answer section, and its values before interpretation."""
    answer = reader.document.get_value("answer")
    if not isinstance(answer, dict):
        if "answer" in reader.document.data:
            message = (
                '"answer" must be a mapping: a kind, and the keys of that kind, as in '
                "{kind: label, labels: [yes, no]}"
            )
            reader.add_fault(message, "answer")
        return None, None
    given_kind, kind = answer.get("kind"), find_kind(answer)
    if kind is None or given_kind != kind:
        kinds = ", ".join(TASK_KINDS)
        hint = format_suggestion(str(given_kind), TASK_KINDS) or f" - there are {kinds}"
        message = (
            f"unknown kind {quote(given_kind)}{hint}"
            if isinstance(given_kind, str)
            else f'"kind" is one name - there are {kinds}'
            if "kind" in answer
            else f'"answer" has no "kind" - there are {kinds}'
        )
        reader.add_fault(message, "answer", "kind")
    if not kind or "kind" not in answer:
        return None, None
    return kind, reader.read_config(("answer",), TASK_KINDS[kind].config_type)


def _build_task(
    reader: TaskReader, file: Path, config: TaskConfig | None, answer: _AnswerSection
) -> Task:
    """Build the task without examples, gate and passes."""
    _check_input(reader)
    return Task(
        name=_choose_task_name(reader.get_text("name"), file),
        instruction=reader.get_text("instruction"),
        input=reader.get_text("input"),
        answer_spec=answer.spec,
        labels=answer.labels,
        abstain=answer.abstain,
        phi=config.phi if config else None,
        id_column=reader.get_text("id") or None,
        gold_column=reader.get_text("gold") or None,
        group_column=reader.get_text("group") or None,
        data=_find_named_file(reader, "data", config.data if config else None),
        model=config.model if config else None,
        tuning_rows=_find_named_file(
            reader, "tuning_rows", config.tuning_rows if config else None, read_fingerprints
        ),
        source=file,
        source_lines=reader.document.source_lines,
    )


def _find_named_file(
    reader: TaskReader, key: str, name: str | None, check: Callable[[Path], object] | None = None
) -> Path | None:
    """The file that a key names; a fault if it is outside the root or ``check`` refuses it."""
    if not name:
        return None
    try:
        path = reader.resolve_path(name)
        if check:
            check(path)
    except InputError as error:
        reader.add_fault(f"{error} - {error.fix}", key)
        return None
    return path


def _read_gate(reader: TaskReader, task: Task) -> Gate:
    gate = _read_section(reader, "gate", GateConfig, Gate)
    if gate is None:
        return Gate()
    if gate.too_long == "chunk" and task.kind_spec.generated:
        message = (
            f"chunk combines scores, and a task of the kind {task.kind} has none: choose error or "
            "head_tail"
        )
        reader.add_fault(message, "gate", "too_long")
    if gate.too_long != "chunk" and reader.document.get_value("gate", "combine") is not None:
        reader.add_fault('"combine" belongs to "too_long: chunk"', "gate", "combine")
    if gate.novelty is not None and reader.document.get_value("examples") is None:
        reader.add_fault(
            '"novelty" compares rows with the examples, and the task has none', "gate", "novelty"
        )
    return gate


def _read_keywords(reader: TaskReader, task: Task) -> dict[str, tuple[str, ...]]:
    """The keywords of each label, for a baseline."""
    path = ("baselines", "keywords")
    if reader.is_missing("baselines") or not reader.read_config(("baselines",), BaselinesConfig):
        return {}
    raw = reader.document.get_value(*path)
    if is_null(raw):
        return {}
    if not isinstance(raw, dict):
        message = '"keywords" must be a mapping: labels, each with a list of words or "/patterns/"'
        reader.add_fault(message, *path)
        return {}
    names = [label.name for label in task.labels]
    keywords: dict[str, tuple[str, ...]] = {}
    for name, listed in raw.items():
        if reader.answers_known and name not in names:
            hint = format_suggestion(name, names)
            reader.add_fault(f"{quote(name)} is not a label of the task{hint}", *path, name)
        texts = listed if isinstance(listed, list) else [listed]
        for index, text in enumerate(texts):
            place = (*path, name, index) if isinstance(listed, list) else (*path, name)
            try:
                compile_keyword(text if isinstance(text, str) else "")
            except ValueError as error:
                reader.add_fault(f"the keyword {quote(text)} {error}", *place)
        keywords[name] = tuple(str(text) for text in texts)
    return keywords


def _read_cascade(reader: TaskReader, task: Task) -> float | None:
    """The share of rows that may differ; None without a cascade."""
    if reader.is_missing("cascade"):
        return None
    config = reader.read_config(("cascade",), CascadeConfig)
    if reader.answers_known and (conflict := get_task_kind(task).find_cascade_conflict()):
        reader.add_fault(conflict, "cascade")
    return config.alpha if config else None


def _read_section(
    reader: TaskReader, key: str, config_type: type[ConfigModel], factory: Callable[..., T]
) -> T | None:
    """The object that ``factory`` makes of an optional section; None if missing or not valid."""
    if reader.is_missing(key):
        return None
    config = reader.read_config((key,), config_type)
    return factory(**config.model_dump()) if config else None


def _find_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix.lower() not in (".yaml", ".yml", ".json"):
            raise InputError(
                f"{path} is not a task file: its name must end in .yaml, .yml or .json",
                fix="name the task's file or its folder",
            )
        return path
    start = f"write one with: medtask init {shlex.quote(path.stem)} --from TABLE"
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
        raise InputError(f"the folder {path} holds {names}", fix="name one of the files")
    return found[0]


def _check_input(reader: TaskReader) -> None:
    source = reader.get_text("input")
    template = read_template(source)
    for line, message in template.faults:
        reader.add_fault(message, "input", text_line=line)
    if source and not template.faults and not template.uses_row:
        message = 'input uses no column of the table - write one as in "{{ procedure }}"'
        reader.add_fault(message, "input")


def _find_gold_leaks(reader: TaskReader, task: Task) -> Iterator[str]:
    template, gold = read_template(task.input), task.gold_column
    if gold and (gold in template.columns or template.whole_row):
        message = f"input shows the gold column {quote(gold)} to the model"
        yield reader.format_warning(message, "input")
    elif gold and gold in get_task_kind(task).columns:
        message = f"the gold column {quote(gold)} is shown to the model"
        yield reader.format_warning(message, "answer")


def _choose_task_name(name: str, file: Path) -> str:
    given = name or (file.resolve().parent.name if file.name in FILE_NAMES else file.stem)
    return " ".join(clean_text(given).split()) or "task"


def _limit_faults(faults: Sequence[TaskFault]) -> list[TaskFault]:
    shown = sorted(faults, key=lambda fault: fault.line or 0)[:MAX_LISTED_FAULTS]
    hidden = len(faults) - len(shown)
    if not hidden:
        return shown
    return [*shown, TaskFault(shown[-1].line, f"and {hidden:,} more faults after it")]

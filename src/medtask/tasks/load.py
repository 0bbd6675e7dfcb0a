"""Task files into tasks: everything that is wrong with one is told at once, each fault with its line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medtask.errors import InputError, TaskFault, TaskFaults
from medtask.tasks.fewshot import Shape, read_examples
from medtask.tasks.hints import quote
from medtask.tasks.hygiene import clean_text
from medtask.tasks.identity import fingerprint_task
from medtask.tasks.labels import assign_says, find_warnings, read_abstention, read_labels
from medtask.tasks.schema import TaskPart, settle_keys, validate_values
from medtask.tasks.source import Document, read_document
from medtask.tasks.task import Review, Task
from medtask.tasks.template import read_template

FILE_NAMES = ("task.yaml", "task.yml", "task.json")
LISTED_FAULTS = 50


def load_task(path: str | Path) -> Task:
    """Load a task from its file, or from the folder that holds ``task.yaml`` (``task.yml``, ``task.json``).

    Raises TaskFaults with all faults of the file, InputError where there is no such file.
    """
    file = _find_file(Path(path))
    document, faults = settle_keys(read_document(file))
    part, part_faults = validate_values(document)
    faults += (*document.faults, *part_faults)

    data = document.data
    answer = data.get("answer")
    answer = answer if isinstance(answer, dict) else {}
    entries, label_faults = read_labels(document, answer["labels"]) if "labels" in answer else ([], [])
    abstain, abstain_faults = read_abstention(document, answer.get("abstain"), entries)
    faults += label_faults + abstain_faults
    faults += _check_input(document)
    answers = [] if label_faults else [entry.name for entry in (*entries, abstain) if entry]
    shape = Shape(_text(data, "input"), answers, _text(data, "gold"), _text(data, "id"))
    examples, example_faults = read_examples(document, data.get("examples"), file.parent, shape)
    faults += example_faults
    if faults or part is None:
        raise TaskFaults(str(file), _shorten(faults))

    labels, abstention = assign_says(entries, abstain, part.answer.readout)
    task = Task(
        name=_name_task(part, file),
        kind=part.answer.kind,
        instruction=part.instruction,
        input=part.input,
        labels=labels,
        abstain=abstention,
        examples=examples,
        readout=part.answer.readout,
        review=Review(**part.review.model_dump()) if part.review else Review(),
        id_column=part.id,
        gold_column=part.gold,
        data=file.parent / part.data if part.data else None,
        model=part.model,
        source=file,
        warnings=(*find_warnings(document, file.name, entries), *_warn_of_leaks(document, file.name, part)),
    )
    return replace(task, fingerprint=fingerprint_task(task))


def _find_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix.lower() not in (".yaml", ".yml", ".json"):
            raise InputError(f"{path} is no task file: it ends in neither .yaml, .yml nor .json", fix="name the task's file or its folder")
        return path
    start = f"write one with: medtask init {path.stem} --from TABLE"
    if not path.is_dir():
        raise InputError(f"there is no task {path}", fix=f"check the path, or {start}")
    found = [path / name for name in FILE_NAMES if (path / name).is_file()]
    if not found:
        raise InputError(f"the folder {path} holds no task.yaml, task.yml or task.json", fix=f"name the task's folder, or {start}")
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
        yield document.fault('input uses no column of the table - write one as in "{{ procedure }}"', "input")


def _warn_of_leaks(document: Document, file_name: str, part: TaskPart) -> Iterator[str]:
    template = read_template(part.input)
    if part.gold and (part.gold in template.columns or template.whole_row):
        yield f"{file_name}:{document.line('input')}: input shows the gold column {quote(part.gold)} to the model"


def _name_task(part: TaskPart, file: Path) -> str:
    given = part.name or (file.resolve().parent.name if file.name in FILE_NAMES else file.stem)
    return " ".join(clean_text(given).split()) or "task"


def _shorten(faults: Sequence[TaskFault]) -> list[TaskFault]:
    shown = sorted(faults, key=lambda fault: fault.line or 0)[:LISTED_FAULTS]
    hidden = len(faults) - len(shown)
    return [*shown, TaskFault(shown[-1].line, f"and {hidden:,} more faults after it")] if hidden else shown

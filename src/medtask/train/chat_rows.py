"""Rows to learn from as other trainers read them: the conversation that a run would hold, with the
right answer at its end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medtask.data.atomic import replace_text, storage_error
from medtask.data.source import show_path
from medtask.data.table import Column
from medtask.data.values import encodable
from medtask.data.write import write_answers
from medtask.errors import UsageError
from medtask.records import Message
from medtask.tasks.task import Task
from medtask.tasks.wording import write_answer
from medtask.train.clean import Cleaning, write_cleaning
from medtask.train.leaks import Leaks
from medtask.train.lesson import Lesson
from medtask.train.material import Material, find_phi
from medtask.train.split import Divided

Format = Literal["messages", "prompt-completion"]

FORMAT = 1
TOLD = "data.json"
TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
CLEANING, VALIDATION_CLEANING = "cleaning.csv", "validation-cleaning.csv"


def write_turns(task: Task, lesson: Lesson) -> tuple[list[Message], Message]:
    """The turns of a lesson's question, with its options as they stand in the table, and the
    assistant's turn that answers it.
    """
    *before, last = lesson.prompt.messages
    # The options of a choice stand in what its first branch asks; a debiased one asks in further
    # orders.
    ask = lesson.prompt.branches[0].ask if lesson.prompt.branches else ""
    gold = lesson.record.gold
    if gold is None:
        raise ValueError("a lesson has gold")
    answer = encodable(write_answer(task, gold, lesson.prompt.options))
    return [*before, Message(last.role, last.content + ask)], Message("assistant", answer)


def write_chat(
    path: Path, task: Task, lessons: Sequence[Lesson], form: Format = "messages"
) -> None:
    """A line of JSON for each lesson: ``{"messages": [{"role": "user", "content": "..."}, ...]}``,
    or the same turns as ``prompt`` and ``completion``. There is no system turn. The file is its
    owner's only, and replaced whole.
    """
    names = ("messages",) if form == "messages" else ("prompt", "completion")
    write_answers(path, [Column(name) for name in names], _list_cells(task, lessons, form))


def prepare_data(folder: Path, material: Material, form: Format = "messages") -> dict[str, Any]:
    """Write the two parts, what was left out, and what is known about it all (returned, too) into a
    folder.

    Files of an earlier preparation are replaced. UsageError where the folder holds anything else;
    StorageError. Until all is written, data.json says ``"state": "writing"``.
    """
    check_data_folder(folder)
    _make(folder)
    replace_text(folder / TOLD, json.dumps({"format": FORMAT, "state": "writing"}) + "\n")
    for name, lessons in ((TRAIN, material.train), (VALIDATION, material.validation)):
        write_chat(folder / name, material.task, lessons, form)
    files = {
        name: {"rows": len(lessons)}
        for name, lessons in ((TRAIN, material.train), (VALIDATION, material.validation))
    }
    for name, cleaning in (
        (CLEANING, material.cleaning),
        (VALIDATION_CLEANING, material.validation_cleaning),
    ):
        if cleaning:
            write_cleaning(folder / name, cleaning)
            files[name] = {"rows": len(cleaning.dropped)}
    told = _describe(
        material,
        form,
        {name: {**facts, "sha256": _hash(folder / name)} for name, facts in files.items()},
    )
    replace_text(folder / TOLD, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return told


def check_data_folder(folder: Path) -> None:
    """See that the folder is not there yet, is empty, or holds data that were prepared here;
    UsageError where it is in other use.
    """
    fix = "give an empty or a new folder with --out"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{show_path(folder)} is a file", fix=fix)
    try:
        used = folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    except OSError as error:
        raise storage_error(folder, error) from error
    if used and not _is_ours(folder / TOLD):
        raise UsageError(
            f"{show_path(folder)} holds files, and they are no data prepared by medtask", fix=fix
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What an earlier table to validate by left; it would tell of rows that are not there any
        # more.
        (folder / VALIDATION_CLEANING).unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


def _is_ours(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict)
        and found.get("format") == FORMAT
        and found.get("state") in ("writing", "whole")
    )


def _list_cells(task: Task, lessons: Sequence[Lesson], form: Format) -> Iterator[list[object]]:
    for lesson in lessons:
        turns, answer = write_turns(task, lesson)
        asked, said = [_tell_turn(turn) for turn in turns], _tell_turn(answer)
        yield [[*asked, said]] if form == "messages" else [asked, [said]]


def _tell_turn(turn: Message) -> dict[str, str]:
    return {"role": turn.role, "content": turn.content}


def _describe(material: Material, form: Format, files: Mapping[str, object]) -> dict[str, Any]:
    task = material.task
    parts: dict[str, Cleaning | Divided | Leaks | None] = {
        "cleaning": material.cleaning,
        "validation_cleaning": material.validation_cleaning,
        "split": material.divided,
        "leaks": material.leaks,
    }
    tables = {
        "table": (material.source, material.sha256),
        "validation_table": (material.validation_source, material.validation_sha256),
    }
    return {
        "format": FORMAT,
        "state": "whole",
        "task": {"name": task.name, "kind": task.kind, "fingerprint": task.fingerprint},
        **{
            name: {"source": source, "sha256": sha256}
            for name, (source, sha256) in tables.items()
            if sha256
        },
        "phi": find_phi(task),
        "rows": form,
        "files": files,
        **{name: part.to_json() for name, part in parts.items() if part},
        "notes": list(material.notes),
    }


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Training rows as chat files for other trainers: a run's prompts with gold answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medtask.atomic_files import raise_storage_errors, replace_text
from medtask.display import format_path
from medtask.engines.files.weights import hash_file
from medtask.errors import UsageError
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.records import Message
from medtask.tables.cell_values import replace_surrogates
from medtask.tables.table import Column
from medtask.tables.write import write_answers
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Task
from medtask.training.cleaning import CleaningReport, write_cleaning_report
from medtask.training.leakage import LeakageReport
from medtask.training.split import SplitReport
from medtask.training.training_data import TrainingData, determine_phi
from medtask.training.training_example import TrainingExample

ChatFormat = Literal["messages", "prompt-completion"]

FORMAT_VERSION = 1
REPORT_FILE = "data.json"
TRAIN_FILE, VALIDATION_FILE = "train.jsonl", "validation.jsonl"
CLEANING_FILE, VALIDATION_CLEANING_FILE = "cleaning.csv", "validation-cleaning.csv"


def build_chat_turns(task: Task, example: TrainingExample) -> tuple[list[Message], Message]:
    """The turns of a question, with options in the table's order, and the turn with the answer."""
    *before, last = example.prompt.messages
    # The first branch of a choice lists its options in the table's order.
    ask = example.prompt.branches[0].ask if example.prompt.branches else ""
    written = get_task_kind(task).write_answer(example.gold, example.prompt.options)
    answer = replace_surrogates(written)
    return [*before, Message(last.role, last.content + ask)], Message("assistant", answer)


def write_chat_file(
    path: Path,
    task: Task,
    examples: Sequence[TrainingExample],
    chat_format: ChatFormat = "messages",
) -> None:
    """Write a JSON line per example: ``{"messages": [{"role": "user", "content": "..."}, ...]}``,
    or the same turns as ``prompt`` and ``completion``.

    There is no system turn. The file is readable by its owner only, and replaced atomically.
    """
    names = ("messages",) if chat_format == "messages" else ("prompt", "completion")
    write_answers(path, [Column(name) for name in names], _build_cells(task, examples, chat_format))


def prepare_chat_data(
    folder: Path, data: TrainingData, chat_format: ChatFormat = "messages"
) -> dict[str, Any]:
    """Write training and validation rows, dropped rows and a report into a folder.

    Files of an earlier preparation are replaced. Until all files are written, data.json has
    ``"state": "writing"``.

    Returns:
        The report.

    Raises:
        UsageError: The folder contains other files.
        StorageError: The files cannot be written.
    """
    check_data_folder(folder)
    with raise_storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A report on an earlier validation table would not match the new rows.
        (folder / VALIDATION_CLEANING_FILE).unlink(missing_ok=True)
    replace_text(
        folder / REPORT_FILE, json.dumps({"format": FORMAT_VERSION, "state": "writing"}) + "\n"
    )
    files = {}
    for name, examples in ((TRAIN_FILE, data.train), (VALIDATION_FILE, data.validation)):
        write_chat_file(folder / name, data.task, examples, chat_format)
        files[name] = {"rows": len(examples)}
    for name, cleaning in (
        (CLEANING_FILE, data.cleaning),
        (VALIDATION_CLEANING_FILE, data.validation_cleaning),
    ):
        if cleaning:
            write_cleaning_report(folder / name, cleaning)
            files[name] = {"rows": len(cleaning.dropped)}
    report = _build_report(
        data,
        chat_format,
        {name: {**facts, "sha256": hash_file(folder / name)} for name, facts in files.items()},
    )
    replace_text(folder / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def check_data_folder(folder: Path) -> None:
    """Raise UsageError if the folder contains anything but prepared data."""
    fix = "give an empty or a new folder with --out"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{format_path(folder)} is a file", fix=fix)
    with raise_storage_errors(folder):
        used = folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    if used and not _is_prepared_data(folder / REPORT_FILE):
        raise UsageError(f"{format_path(folder)} holds files that medtask did not prepare", fix=fix)


class _ReportFile(JsonContent):
    format: int
    state: Literal["writing", "whole"]


def _is_prepared_data(path: Path) -> bool:
    try:
        return load_checked(path, _ReportFile).format == FORMAT_VERSION
    except (FileNotFoundError, InvalidJsonFile):
        return False


def _build_cells(
    task: Task, examples: Sequence[TrainingExample], chat_format: ChatFormat
) -> Iterator[list[object]]:
    for example in examples:
        turns, answer = build_chat_turns(task, example)
        prompt_turns, answer_turn = [_format_turn(turn) for turn in turns], _format_turn(answer)
        yield (
            [[*prompt_turns, answer_turn]]
            if chat_format == "messages"
            else [prompt_turns, [answer_turn]]
        )


def _format_turn(turn: Message) -> dict[str, str]:
    return {"role": turn.role, "content": turn.content}


def _build_report(
    data: TrainingData, chat_format: ChatFormat, files: Mapping[str, object]
) -> dict[str, Any]:
    task = data.task
    reports: dict[str, CleaningReport | SplitReport | LeakageReport | None] = {
        "cleaning": data.cleaning,
        "validation_cleaning": data.validation_cleaning,
        "split": data.split,
        "leaks": data.leakage,
    }
    tables = {
        "table": (data.source, data.sha256),
        "validation_table": (data.validation_source, data.validation_sha256),
    }
    return {
        "format": FORMAT_VERSION,
        "state": "whole",
        "task": {"name": task.name, "kind": task.kind, "fingerprint": task.fingerprint},
        **{
            name: {"source": source, "sha256": sha256}
            for name, (source, sha256) in tables.items()
            if sha256
        },
        "phi": determine_phi(task),
        "rows": chat_format,
        "files": files,
        **{name: part.to_json() for name, part in reports.items() if part},
        "notes": list(data.notes),
    }

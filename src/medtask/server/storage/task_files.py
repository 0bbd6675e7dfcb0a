"""Task files that users send: what they may not name on the server's disk."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy.orm import Session

from medtask.atomic_files import replace_file, replace_text
from medtask.errors import TaskFault, TaskFaults, UsageError
from medtask.server.storage.files import TASK_FILE, DataFolder
from medtask.server.storage.tables import StoredTask
from medtask.tasks.document import Document, KeyPath, read_document
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?(@[\w.\-]+)?")
_PREFIXES = ("fake:", "hf:", "mlx:", "vllm:", "encoder:", "llamacpp:")
_SERVER_PREFIXES = ("ollama:", "groq:", "openai:", "http://", "https://")


def check_model_reference(reference: str) -> None:
    """Refuse references to files: the server reads only what was uploaded or trained here.

    Raises:
        UsageError: The reference names a file or a folder.
    """
    name = reference.strip()
    if name.startswith(_SERVER_PREFIXES):
        return
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            if prefix == "fake:":
                return
            break
    if ".." in name or not _HUB_NAME.fullmatch(name) or Path(name).expanduser().exists():
        raise UsageError(
            "a model is named by its name on the Hub, such as google/gemma-3-4b-it, or by the id "
            "of a model of this server, not by a path",
            fix="choose smollm2-135m, minilm, org/name, ollama:name, or a model_id",
        )


def parse_task(text: str, folder: Path, own_folder: Path | None = None) -> Task:
    """Load a task from its text, with all faults and their lines.

    Args:
        text: The content of a task file, in YAML or JSON.
        folder: A private folder: the examples of a task can be the text of records.
        own_folder: The folder of the stored task, whose list of rows the text can name.

    Raises:
        TaskFaults: The text is not a valid task, or names a file.
    """
    with tempfile.TemporaryDirectory(prefix="task-", dir=folder) as private_folder:
        file = Path(private_folder) / TASK_FILE
        file.write_bytes(text.encode("utf-8", "replace"))
        document = read_document(file)
        rows = _find_own_rows(document, own_folder)
        if rows is not None:
            _copy(rows, file.with_name(rows.name))
        if faults := list(_find_file_names(document, rows.name if rows else None)):
            raise TaskFaults(TASK_FILE, faults)
        return load_task(file, root=file.parent)


def add_task(
    session: Session, files: DataFolder, text: str, *, name: str | None = None, created_by: str = ""
) -> tuple[StoredTask, Task]:
    """Store a task file.

    Raises:
        TaskFaults: The text is not a valid task, or names a file.
        StorageError: The data folder is not writable.
    """
    task = parse_task(text, files.create_upload_folder())
    stored = StoredTask(
        name=name or choose_task_name(task),
        kind=task.kind,
        fingerprint=task.fingerprint,
        created_by=created_by,
    )
    session.add(stored)
    session.flush()
    files.create_folder("tasks", stored.id)
    replace_text(files.get_task_file(stored.id), text)
    return stored, task


def copy_task(session: Session, files: DataFolder, file: Path, name: str) -> StoredTask:
    """Store a task file, with the list of rows by which its words were chosen."""
    task = load_task(file)
    stored = StoredTask(name=name[:200], kind=task.kind, fingerprint=task.fingerprint)
    session.add(stored)
    session.flush()
    folder = files.create_folder("tasks", stored.id)
    _copy(file, folder / TASK_FILE)
    if task.tuning_rows is not None:
        _copy(task.tuning_rows, folder / task.tuning_rows.name)
    return stored


def _copy(file: Path, target: Path) -> None:
    with replace_file(target) as draft:
        shutil.copyfile(file, draft)


def choose_task_name(task: Task) -> str:
    """The name of a task as it is shown in one line."""
    return "".join(letter for letter in task.name if letter.isprintable())[:200] or "task"


def _find_own_rows(document: Document, own_folder: Path | None) -> Path | None:
    """The list of rows that a search has written beside the stored task, if the text names it."""
    name = document.data.get("tuning_rows")
    if own_folder is None or not isinstance(name, str) or name != Path(name).name:
        return None
    path = own_folder / name
    return path if name.endswith(".rows.json") and path.is_file() else None


def _find_file_names(document: Document, own_rows: str | None) -> Iterator[TaskFault]:
    for path, value in _list_files(document.data):
        if path == ("tuning_rows",) and value == own_rows:
            continue
        yield TaskFault(
            document.source_lines.find(*path),
            f'"{path[-1]}" names a file or a folder ({len(value)} characters): tasks of a server '
            "read no files",
        )
    table = document.data.get("data")
    if isinstance(table, str) and Path(table).name != table:
        yield TaskFault(
            document.source_lines.find("data"),
            '"data" names a file in another folder: remove the line - a run on the server names '
            "its data set",
        )
    for path, value in _list_models(document.data):
        try:
            check_model_reference(value)
        except UsageError as error:
            yield TaskFault(document.source_lines.find(*path), f"{error} - {error.fix}")


def _list_files(data: Mapping[str, object]) -> Iterator[tuple[KeyPath, str]]:
    """The keys of a task, and of its passes, that name files."""
    for base, section in _list_sections(data):
        for key in ("tuning_rows", "examples"):
            value = section.get(key)
            if isinstance(value, str) and value.strip():
                yield (*base, key), value
        examples = section.get("examples")
        if isinstance(examples, Mapping) and isinstance(file := examples.get("file"), str):
            yield (*base, "examples", "file"), file
    answer = data.get("answer")
    schema = answer.get("schema") if isinstance(answer, Mapping) else None
    if isinstance(schema, str) and schema.strip():
        yield ("answer", "schema"), schema


def _list_models(data: Mapping[str, object]) -> Iterator[tuple[KeyPath, str]]:
    for base, section in _list_sections(data):
        if isinstance(model := section.get("model"), str) and model.strip():
            yield (*base, "model"), model


def _list_sections(
    data: Mapping[str, object],
) -> Iterator[tuple[KeyPath, Mapping[str, object]]]:
    yield (), data
    passes = data.get("passes")
    for number, one in enumerate(passes if isinstance(passes, list) else ()):
        if isinstance(one, Mapping):
            yield ("passes", number), one

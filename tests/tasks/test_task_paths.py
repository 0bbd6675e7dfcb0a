"""S10: a task file of another person names no file outside its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medtask.errors import InputError, TaskFaults
from medtask.tasks.load import load_task
from medtask.tasks.task_paths import resolve_task_path

SECRET = "SECRET-OF-ANOTHER-FOLDER"
CLIMBS = (
    "../secret.{ext}",
    "..//secret.{ext}",
    "./../secret.{ext}",
    "sub/../../secret.{ext}",
    "sub/../sub/../../secret.{ext}",
    "a/b/c/../../../../secret.{ext}",
    "..\\secret.{ext}",
    "sub\\..\\..\\secret.{ext}",
    "{outside}/secret.{ext}",
    "/{outside}/secret.{ext}",
    "//{outside}/secret.{ext}",
    "C:\\secret.{ext}",
    "C:secret.{ext}",
    "\\\\server\\share\\secret.{ext}",
    "\\secret.{ext}",
    "~/secret.{ext}",
    "~root/secret.{ext}",
    "link.{ext}",
    "folder-link/secret.{ext}",
    "chain.{ext}",
    "loop.{ext}",
    "relative-link.{ext}",
    "/etc/passwd",
    "/proc/self/environ",
    "/dev/stdin",
    "../../../../../../../../etc/passwd",
)
KEYS = {
    "data": ("csv", 'data: "{name}"\nanswer: {{kind: label, labels: [yes, no]}}\n'),
    "examples": ("csv", 'examples: "{name}"\nanswer: {{kind: label, labels: [yes, no]}}\n'),
    "schema": ("json", 'answer: {{kind: fields, schema: "{name}"}}\n'),
    "tuning_rows": ("json", 'tuning_rows: "{name}"\nanswer: {{kind: label, labels: [yes, no]}}\n'),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task's folder, with files and links beside the task, and files outside of it."""
    folder = tmp_path / "task"
    (folder / "sub").mkdir(parents=True)
    for extension in ("csv", "json"):
        outside = tmp_path / f"secret.{extension}"
        outside.write_text(
            f"note,answer\n{SECRET},yes\n"
            if extension == "csv"
            else f'{{"type": "object", "properties": {{"{SECRET}": {{"type": "string"}}}}}}'
        )
        (folder / f"own.{extension}").write_bytes(outside.read_bytes())
        (folder / f"link.{extension}").symlink_to(outside)
        (folder / f"relative-link.{extension}").symlink_to(f"../secret.{extension}")
        (folder / f"chain.{extension}").symlink_to(f"link.{extension}")
        (folder / f"loop.{extension}").symlink_to(f"loop.{extension}")
        (folder / f"inner-link.{extension}").symlink_to(f"own.{extension}")
    (folder / "folder-link").symlink_to(tmp_path)
    return folder


def write_task(folder: Path, key: str, name: str) -> Path:
    escaped = name.replace("\\", "\\\\")
    text = KEYS[key][1].format(name=escaped)
    path = folder / "task.yaml"
    path.write_text(f'name: t\ninstruction: Read.\ninput: "{{{{ note }}}}"\n{text}')
    return path


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("climb", CLIMBS)
def test_a_path_that_leaves_the_root_is_a_fault_and_nothing_is_read(
    folder: Path, key: str, climb: str
) -> None:
    name = climb.format(ext=KEYS[key][0], outside=folder.parent)
    with pytest.raises(TaskFaults) as caught:
        load_task(write_task(folder, key, name), root=folder)
    assert SECRET not in str(caught.value)
    assert "outside the folder of the task" in str(caught.value) or "cannot be used" in str(
        caught.value
    )


@pytest.mark.parametrize("key", ["data", "examples", "schema"])
@pytest.mark.parametrize("name", ["own.{ext}", "./own.{ext}", "inner-link.{ext}"])
def test_a_file_in_the_root_is_read(folder: Path, key: str, name: str) -> None:
    path = write_task(folder, key, name.format(ext=KEYS[key][0]))
    task = load_task(path, root=folder)
    assert task.data is None or task.data == (folder / "own.csv").resolve()
    assert len(task.examples) == (key == "examples")


def test_without_a_root_a_path_may_leave_the_folder(folder: Path) -> None:
    assert load_task(write_task(folder, "examples", "../secret.csv")).examples
    assert load_task(write_task(folder, "data", "../secret.csv")).data == folder / "../secret.csv"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_a_folder_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.csv")
    for name in ("pipe.csv", "sub"):
        with pytest.raises(InputError, match="not that of a regular file"):
            resolve_task_path(folder, name, folder)


def test_a_name_with_a_null_character_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="outside the folder"):
        resolve_task_path(folder, "own.csv\0.txt", folder)


def test_a_link_in_the_way_to_the_root_itself_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link-to-task").symlink_to(folder)
    root = tmp_path / "link-to-task"
    assert resolve_task_path(root, "own.csv", root) == (folder / "own.csv").resolve()

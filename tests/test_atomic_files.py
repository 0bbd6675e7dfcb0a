"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from medtask.atomic_files import make_private_folder, open_private, replace_file
from medtask.errors import StorageError, TableError


def test_a_file_is_replaced_at_the_end_for_its_owner_only(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with replace_file(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
        assert draft.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    "error", [TableError("a row is wrong", fix="mend it"), KeyboardInterrupt()]
)
def test_after_an_error_the_old_file_is_untouched(tmp_path, error):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(type(error)), replace_file(path) as draft:
        draft.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_draft_of_a_killed_process_is_replaced(tmp_path):
    (tmp_path / ".a.csv.draft").write_text("half of something")
    with replace_file(tmp_path / "a.csv") as draft:
        assert draft.read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


WRITER = """
import sys, time
from pathlib import Path
from medtask.atomic_files import replace_file
with replace_file(Path(sys.argv[1])) as draft, draft.open("w") as file:
    for _ in range(20):
        file.write(sys.argv[2] * 1000)
        file.flush()
        time.sleep(0.005)
"""


def test_of_several_processes_each_writes_the_whole_file(tmp_path):
    path = tmp_path / "a.csv"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, one]) for one in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert path.read_text() in [one * 20_000 for one in "abc"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_writer_that_does_not_end_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("medtask.atomic_files._WAIT_S", 0.1)
    path = tmp_path / "a.csv"
    with replace_file(path) as draft:
        draft.write_text("first")
        with pytest.raises(StorageError, match="another process is writing it"), replace_file(path):
            pass
    assert path.read_text() == "first"


def test_a_disk_without_locks_has_one_writer(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("medtask.atomic_files.take_lock", refuse)
    (tmp_path / ".a.csv.draft").write_text("half of something")
    with replace_file(tmp_path / "a.csv") as draft:
        draft.write_text("new")
    assert (tmp_path / "a.csv").read_text() == "new"


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".a.csv.draft").symlink_to(tmp_path / "victim")
    with replace_file(tmp_path / "a.csv") as draft:
        draft.write_text("new")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_folder_that_does_not_exist_is_reported(tmp_path):
    with (
        pytest.raises(StorageError, match=r"a\.csv cannot be written: No such file") as raised,
        replace_file(tmp_path / "no" / "a.csv"),
    ):
        pass
    assert "choose an existing folder" in raised.value.fix


def test_a_full_disk_is_reported_with_what_is_free(tmp_path):
    with (
        pytest.raises(StorageError, match=r"No space left on device \([\d,]+ bytes free\)"),
        replace_file(tmp_path / "a.csv"),
    ):
        raise OSError(28, "No space left on device")


def test_a_link_in_place_of_a_draft_is_replaced_and_its_file_unchanged(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for name in ("a.csv", ".a.csv.draft"):
        (tmp_path / name).symlink_to(tmp_path / "thesis.txt")
    with replace_file(tmp_path / "a.csv") as draft:
        draft.write_text("new")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / "a.csv").is_symlink()


def test_a_private_file_keeps_its_content(tmp_path):
    for text in (b"one", b"two"):
        handle = open_private(tmp_path / "log", os.O_WRONLY | os.O_APPEND)
        os.write(handle, text)
        os.close(handle)
    assert (tmp_path / "log").read_text() == "onetwo"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_private_file_or_folder_is_not_opened_through_a_link(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="it is a link"):
        open_private(tmp_path / "log")
    (tmp_path / "real").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="it is a link"):
        make_private_folder(tmp_path / "work")
    assert not (tmp_path / "elsewhere").exists()

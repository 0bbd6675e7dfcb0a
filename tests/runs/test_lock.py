from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medtask.errors import RunLocked, StorageError
from medtask.runs.lock import is_in_use, lock_run

HOLDER_SCRIPT = """
import sys, time
from pathlib import Path
from medtask.errors import RunLocked
from medtask.runs.lock import lock_run
try:
    with lock_run(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except RunLocked as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def hold_lock(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a process that holds the folder for a minute, or says who does."""
    started: list[subprocess.Popen[str]] = []

    def start_holder() -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLDER_SCRIPT, str(tmp_path), "60"],
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start_holder
    for process in started:
        process.kill()
        process.communicate()


def read_first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_many_processes_exactly_one_proceeds_and_the_others_name_it(
    hold_lock: Callable[[], subprocess.Popen[str]],
) -> None:
    processes = [hold_lock() for _ in range(5)]
    lines = [read_first_line(process) for process in processes]
    holder = processes[lines.index("held")]
    assert lines.count("held") == 1
    for process, line in zip(processes, lines, strict=True):
        if process is not holder:
            assert f"process {holder.pid} on " in line
            assert process.wait(60) == 6


def test_a_killed_holder_leaves_nothing_to_wait_for(
    tmp_path: Path, hold_lock: Callable[[], subprocess.Popen[str]]
) -> None:
    holder = hold_lock()
    assert read_first_line(holder) == "held"
    started = time.monotonic()
    with pytest.raises(RunLocked, match=f"process {holder.pid} on "), lock_run(tmp_path):
        pass
    assert time.monotonic() - started < 10  # the holder would keep it for a minute
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock_run(tmp_path):
        pass


def test_the_same_process_cannot_take_a_folder_twice(tmp_path: Path) -> None:
    with lock_run(tmp_path), pytest.raises(RunLocked), lock_run(tmp_path):
        pass
    with lock_run(tmp_path):
        pass


def write_lock_file(folder: Path, text: str) -> None:
    (folder / ".lock").write_text(text)


def test_a_holder_on_another_host_that_did_not_end_properly_needs_force(tmp_path: Path) -> None:
    write_lock_file(
        tmp_path,
        json.dumps(
            {"host": "node-17", "boot": "another", "pid": 4, "since": "2026-11-20T14:12:00+00:00"}
        ),
    )
    with (
        pytest.raises(RunLocked, match="process 4 on node-17 since 2026-11-20") as refusal,
        lock_run(tmp_path),
    ):
        pass
    assert "--force" in refusal.value.fix
    with lock_run(tmp_path, force=True):
        pass
    with lock_run(tmp_path):
        pass


@pytest.mark.skipif(
    not Path("/proc/sys/kernel/random/boot_id").exists(), reason="this system has no boot id"
)
def test_a_dead_container_on_the_same_machine_needs_no_force(tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    write_lock_file(
        tmp_path,
        json.dumps(
            {"host": "3f1c0a", "boot": boot, "pid": 1, "since": "2026-11-20T14:12:00+00:00"}
        ),
    )
    with lock_run(tmp_path):
        pass


def test_a_machine_that_was_restarted_needs_no_force(tmp_path: Path) -> None:
    write_lock_file(
        tmp_path,
        json.dumps(
            {
                "host": socket.gethostname(),
                "boot": "before",
                "pid": 4,
                "since": "2026-11-20T14:12:00+00:00",
            }
        ),
    )
    with lock_run(tmp_path):
        pass


@pytest.mark.parametrize("torn", ["\0" * 200, '{"host": "no', '{"ho'])
def test_a_lock_file_torn_by_a_power_cut_is_taken_over(tmp_path: Path, torn: str) -> None:
    write_lock_file(tmp_path, torn)
    with lock_run(tmp_path):
        pass


def test_the_lock_file_is_private_and_empty_afterwards(tmp_path: Path) -> None:
    with lock_run(tmp_path):
        assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / ".lock").read_text() == ""


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"), lock_run(tmp_path / "file"):
        pass


@pytest.mark.parametrize("make_link", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_that_leads_to_another_file_is_refused_and_that_file_is_unchanged(
    tmp_path: Path, make_link: Callable[[Path, Path], None]
) -> None:
    notes, folder = tmp_path / "thesis.txt", tmp_path / "run"
    notes.write_text("years of work")
    folder.mkdir()
    make_link(folder / ".lock", notes)
    with pytest.raises(StorageError, match=r"\.lock") as raised, lock_run(folder):
        pass
    assert raised.value.fix
    assert notes.read_text() == "years of work"


def test_a_lock_that_leads_nowhere_creates_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(tmp_path / "new")
    with pytest.raises(StorageError, match="it is a link"), lock_run(folder):
        pass
    assert not (tmp_path / "new").exists()


def test_a_lock_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(StorageError, match="not a regular file"), lock_run(tmp_path):
        pass


def test_a_folder_is_in_use_as_long_as_its_process_runs(tmp_path: Path) -> None:
    assert is_in_use(tmp_path) is False
    with lock_run(tmp_path):
        assert is_in_use(tmp_path) is True
    assert is_in_use(tmp_path) is False
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    holder = {"host": socket.gethostname(), "pid": ended.pid}
    write_lock_file(tmp_path, json.dumps(holder))
    assert is_in_use(tmp_path) is False
    write_lock_file(tmp_path, json.dumps({"host": "node-17", "boot": "another", "pid": ended.pid}))
    assert is_in_use(tmp_path) is None

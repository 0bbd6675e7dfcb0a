"""Jobs of tests: runs over invented rows, workers in processes, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from medtask.server.jobs.queue import add_job, read_database_time
from medtask.server.jobs.tables import Job
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredRun, StoredTask
from support.server import ServerUnderTest
from support.worker_process import fork_worker

ROWS = 300
LEASE_S = 3.0
TASK = """\
name: colours
instruction: Which colour?
input: "{{ text }}"
id: id
answer: {kind: label, labels: [red, green, blue]}
"""


@dataclass
class WorkerProcess:
    """A worker in a process, with a short lease."""

    process: BaseProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def list_children(self) -> list[int]:
        """The job processes of this worker."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with suppress(OSError):
            return [int(number) for number in path.read_text().split()]
        return []


@contextmanager
def run_one_worker(server: ServerUnderTest, lease_s: float = LEASE_S) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(fork_worker(server.settings, lease_s))
    try:
        yield worker
    finally:
        worker.kill()


def add_queued_run(
    server: ServerUnderTest, model: str = "fake:ms_per_row=8,batch=4"
) -> tuple[int, int]:
    """Add a run over `ROWS` rows; returns the ids of the run and its job."""
    files = DataFolder(server.settings.data_folder)
    with server.database.write() as session:
        dataset = StoredDataset(
            name="colours",
            file_name="rows.csv",
            bytes=0,
            sha256="",
            rows=ROWS,
            columns=["id", "text"],
            notes=[],
            read_options={},
        )
        task = StoredTask(name="colours", kind="label", fingerprint="")
        session.add_all([dataset, task])
        session.flush()
        rows = "".join(f"{number},text {number}\n" for number in range(ROWS))
        (files.create_folder("datasets", dataset.id) / "rows.csv").write_text(f"id,text\n{rows}")
        files.create_folder("tasks", task.id)
        files.get_task_file(task.id).write_text(TASK)
        run = StoredRun(
            name="run",
            task_id=task.id,
            dataset_id=dataset.id,
            model=model,
            settings={"baselines": False},
        )
        session.add(run)
        session.flush()
        job = add_job(session, "run", {"run_id": run.id})
        run.job_id = job.id
        return run.id, job.id


def read_job(server: ServerUnderTest, job_id: int) -> Job:
    with server.database.read() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


def is_alive(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end_lease(server: ServerUnderTest, job_id: int) -> None:
    """Let the time of a lease run out at once; crashes before do not count."""
    with server.database.write() as session:
        job = session.get(Job, job_id, with_for_update=True)
        assert job is not None
        now = read_database_time(session)
        job.crashes, job.available_at = 0, now
        if job.lease_until is not None:
            job.lease_until = now - timedelta(seconds=1)


def wait_for_end(server: ServerUnderTest, job_id: int, limit_s: float = 90) -> Job:
    return wait_until(server, job_id, lambda job: job.ended_at is not None, limit_s)


def wait_until(
    server: ServerUnderTest, job_id: int, reached: Callable[[Job], bool], limit_s: float = 60
) -> Job:
    deadline = time.monotonic() + limit_s
    while True:
        job = read_job(server, job_id)
        if reached(job):
            return job
        assert time.monotonic() < deadline, (job.state, job.progress, job.problem)
        time.sleep(0.05)


def has_progress(job: Job) -> bool:
    return bool((job.progress or {}).get("done"))


def read_answers(server: ServerUnderTest, run_id: int) -> str:
    folder = server.settings.data_folder / "runs" / str(run_id)
    return (folder / "answers.csv").read_text("utf-8")


def check_complete(server: ServerUnderTest, run_id: int, job_id: int) -> None:
    """Every row has exactly one answer, and the run's row has the result of the job."""
    lines = read_answers(server, run_id).splitlines()
    assert len(lines) == ROWS + 1
    assert len({line.split(",")[0] for line in lines}) == ROWS + 1
    job = read_job(server, job_id)
    assert (job.state, job.problem) == ("succeeded", None)
    with server.database.read() as session:
        run = session.get(StoredRun, run_id)
        assert run is not None
        assert run.result == job.result

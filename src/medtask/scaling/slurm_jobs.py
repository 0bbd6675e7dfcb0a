"""The jobs of a run on Slurm: submitting them, ``jobs.json`` in the run folder, and their state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from medtask.atomic_files import replace_text
from medtask.display import format_path
from medtask.errors import EngineError, StorageError, UsageError
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile

JOBS_FILE = "jobs.json"
_TIMEOUT_S = 60.0


def get_job_id() -> str:
    """The Slurm job of this process, "1234_7" for a task of an array; "" outside of Slurm."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID", "")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return os.environ.get("SLURM_JOB_ID", "")


def submit_script(script: Path, *options: str) -> str:
    """Submit a script; returns the id of its job.

    Raises:
        UsageError: Slurm is not installed here.
        EngineError: Slurm refuses the script.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise UsageError(
            "Slurm's command sbatch is not found on this machine",
            fix="submit from a login node of the cluster, or use --dry-run to see the script",
        )
    done = _run([sbatch, "--parsable", *options, str(script)])
    if done.returncode:
        reason = " ".join(done.stderr.split()).removeprefix("sbatch: error: ")
        raise EngineError(
            f"Slurm refused the job: {reason}",
            fix=f"correct the option that it names, or edit {script} and run: sbatch {script}",
        )
    return done.stdout.strip().partition(";")[0]  # "1234;cluster" on machines with several


def list_jobs(job: str) -> dict[str, tuple[str, str]] | None:
    """The tasks of a job that wait or run: by id, the state and the reason for waiting.

    None if Slurm does not answer here.
    """
    squeue = shutil.which("squeue")
    if squeue is None:
        return None
    done = _run([squeue, "--noheader", "--array", f"--jobs={job}", "--format=%i|%T|%r"])
    if done.returncode:
        # Slurm forgets jobs some minutes after their end.
        return {} if "Invalid job id" in done.stderr else None
    found = {}
    for line in done.stdout.splitlines():
        name, state, reason = line.strip().split("|", 2)
        found[name] = (state, "" if reason == "None" else reason)
    return found


def is_job_running(job: str) -> bool:
    """Whether a job may still run: also if Slurm does not answer."""
    jobs = list_jobs(job)
    return jobs is None or any(state in _ACTIVE for state, _ in jobs.values())


# A job that is completing can still have processes.
_ACTIVE = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - a fixed program, and arguments without a shell
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{type(error).__name__}: {error}")


class _SubmittedJob(JsonContent):
    id: str
    shards: list[int]


class _JobsFile(JsonContent):
    jobs: list[_SubmittedJob]


def read_jobs(folder: Path) -> dict[str, frozenset[int]]:
    """The ids of the jobs that were submitted, with the shards that each answers.

    Raises:
        StorageError: The file cannot be read.
    """
    path = folder / JOBS_FILE
    try:
        return {one.id: frozenset(one.shards) for one in load_checked(path, _JobsFile).jobs}
    except FileNotFoundError:
        return {}
    except InvalidJsonFile as error:
        raise StorageError(
            f"{format_path(path)} cannot be read: {error}",
            fix="remove the file: it only serves `medtask status`",
        ) from None


def add_job(folder: Path, job: str, shards: Collection[int]) -> None:
    """Add a submitted job."""
    jobs = {**read_jobs(folder), job: frozenset(shards)}
    content = {"jobs": [{"id": name, "shards": sorted(one)} for name, one in jobs.items()]}
    replace_text(folder / JOBS_FILE, json.dumps(content) + "\n")


def read_queue(folder: Path) -> dict[int, tuple[str, str]] | None:
    """The shards that wait in Slurm's queue or run, with their state and the reason for waiting.

    None if Slurm does not answer here, or no job was submitted.
    """
    found = {
        job: (listed, numbers)
        for job, numbers in read_jobs(folder).items()
        if (listed := list_jobs(job)) is not None
    }
    if not found:
        return None
    return {
        int(shard): state
        for listed, numbers in found.values()
        for name, state in listed.items()
        if (shard := name.rpartition("_")[2]).isdigit() and int(shard) in numbers
    }

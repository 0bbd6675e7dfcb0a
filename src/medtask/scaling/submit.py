"""`medtask.submit`: plans a run in shards, and submits it to Slurm."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from medtask.atomic_files import make_storage_error, replace_text
from medtask.display import format_count
from medtask.engines.files.model_files import BUILT_IN_MODEL
from medtask.runs.run_values import ShardedRunValues
from medtask.scaling.planning import make_request, open_plan
from medtask.scaling.slurm_jobs import add_job, read_queue, submit_script
from medtask.scaling.slurm_script import (
    ArrayJob,
    SlurmOptions,
    format_array_script,
    format_merge_script,
    make_vllm_reference,
)
from medtask.tables.read import read_table
from medtask.tasks.task import Task

SCRIPT_FILE, MERGE_SCRIPT_FILE, LOGS_FOLDER = "shards.sh", "merge.sh", "logs"


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """The result of `medtask.submit`.

    Attributes:
        folder: The run folder.
        shards: The numbers of the shards that the job answers; empty if none is missing.
        rows: Rows of the run.
        script: The batch script.
        job: The id of the array job; "" if nothing was submitted.
        merge_job: The id of the job that merges the shards when the array has ended; "" for none.
        notes: What the user should know.
    """

    folder: Path
    shards: tuple[int, ...]
    rows: int
    script: str
    job: str = ""
    merge_job: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON document that ``medtask submit --json`` prints."""
        return {
            "folder": str(self.folder),
            "shards": list(self.shards),
            "rows": self.rows,
            "job": self.job or None,
            "merge_job": self.merge_job or None,
            "script": self.script,
            "notes": list(self.notes),
        }


def submit(
    task: Task,
    table: object,
    *,
    model: str | None = None,
    shards: int = 1,
    slurm: SlurmOptions | None = None,
    merge: bool = True,
    dry_run: bool = False,
    **options: Unpack[ShardedRunValues],
) -> SubmittedRun:
    """Answer a table on a Slurm cluster: as an array job with a task for each shard of the rows.

    The same call submits the shards again that are neither complete nor in the queue.

    Args:
        task: A task that was loaded from a file which all machines can read.
        table: A path, or another input of `read_table` that consists of files.
        model: The model's reference; by default the task's.
        shards: How many shards the rows are split into.
        slurm: What each job asks for.
        merge: Submit also a job that merges the shards when the array has ended.
        dry_run: Write and submit nothing.
        **options: Options of `medtask.run` (out, limit, gold, formats, max_error_rate, calibrated,
            baselines, wide, new_run), and of `medtask.load_model` for each process. All machines
            must be able to write to ``out``; by default it is a new folder next to the task file.

    Returns:
        The ids of the jobs, and the script.

    Raises:
        UsageError: An option is not valid, or Slurm is not installed here.
        InputError: The task and the table do not fit.
        RunMismatch: The folder belongs to another task, table, model or number of shards.
        EngineError: Slurm refuses the job.
    """
    jobs = slurm or SlurmOptions()
    reference = model or task.model or BUILT_IN_MODEL
    if jobs.vllm:
        reference = make_vllm_reference(reference.removeprefix("vllm:"))
    request = make_request(task, read_table(table), reference, shards, options)
    plan, notes = open_plan(request, dry_run=dry_run)
    active = read_queue(plan.folder) or {}
    numbers = tuple(
        folder.shard.number
        for folder in plan.list_folders()
        if folder.shard.number not in active and not folder.read_done()
    )
    server_model = reference.partition("#")[2] if jobs.vllm else ""
    job = ArrayJob(plan.folder, task.name, numbers, plan.rows, sys.executable, jobs, server_model)
    if active:
        notes.append(f"{format_count(len(active), 'shard')} of this run are in the queue")
    elif not numbers:
        notes.append(f"no shard is missing: medtask merge {shlex.quote(str(plan.folder))}")
    submission = SubmittedRun(
        plan.folder, numbers, plan.rows, format_array_script(job), notes=tuple(notes)
    )
    return submission if dry_run or not numbers else _submit(submission, job, merge=merge)


def _submit(submission: SubmittedRun, job: ArrayJob, *, merge: bool) -> SubmittedRun:
    folder = submission.folder
    script, merge_script = folder / SCRIPT_FILE, folder / MERGE_SCRIPT_FILE
    try:
        (folder / LOGS_FOLDER).mkdir(mode=0o700, exist_ok=True)  # Slurm does not create it
    except OSError as error:
        raise make_storage_error(folder / LOGS_FOLDER, error) from error
    replace_text(script, submission.script)
    replace_text(merge_script, format_merge_script(job))
    job_id = submit_script(script)
    add_job(folder, job_id, job.shards)
    # "afterany": if shards are missing at the end, the merge lists them in its log.
    merge_job = submit_script(merge_script, f"--dependency=afterany:{job_id}") if merge else ""
    return replace(submission, job=job_id, merge_job=merge_job)

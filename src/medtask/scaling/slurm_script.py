"""The batch scripts of a run on Slurm, as texts made by pure functions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medtask.display import format_row_count
from medtask.errors import UsageError

_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}")
MERGE_MINUTES = 60
VLLM_PORT = 8317


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """What the jobs of a run ask Slurm for. None: the cluster's default.

    Attributes:
        time: Time limit of each shard, as in "8:00:00" or "1-12". A shard that reaches it is put
            back into the queue, and continues where it stopped.
        partition: The partition.
        gpus: GPUs of each shard.
        cpus: Cores of each shard.
        memory: Memory of each shard, as in "64G".
        max_running: How many shards may run at the same time.
        extra: Further options of sbatch, as in "account=radiology".
        setup: Shell commands that run first, as in "module load cuda".
        stop_seconds: How long before the time limit a shard stops.
        vllm: Whether the model is served by a vLLM server that is started in the job, on all its
            GPUs.
    """

    time: str | None = None
    partition: str | None = None
    gpus: int = 0
    cpus: int | None = None
    memory: str | None = None
    max_running: int | None = None
    extra: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    stop_seconds: int = 120
    vllm: bool = False

    def __post_init__(self) -> None:
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UsageError(
                f"{self.time!r} is not a time limit of Slurm",
                fix="write minutes, hours:minutes:seconds or days-hours, as in 8:00:00",
            )
        for option in (*self.extra, self.partition or "", self.memory or ""):
            if "\n" in option:
                raise UsageError(
                    "an option of sbatch has more than one line", fix="give one option at a time"
                )


@dataclass(frozen=True, slots=True)
class ArrayJob:
    """The job that answers the shards of a run.

    Attributes:
        run: The run folder.
        name: The name of the task.
        shards: The numbers of the shards to answer.
        rows: Rows of the run.
        python: The Python interpreter with medtask.
        model: The model that a vLLM server loads; "" without a server.
        options: What is asked for.
    """

    run: Path
    name: str
    shards: tuple[int, ...]
    rows: int
    python: str
    options: SlurmOptions
    model: str = ""


def format_array_script(job: ArrayJob) -> str:
    """The batch script that answers the shards of a run, one in each task of an array."""
    options = job.options
    head = [
        "#!/bin/bash",
        f"# {_clean(job.name)}: {format_row_count(job.rows)} in shards, written by medtask submit.",
        "# A shard keeps its answers in its folder. Stopped, killed and repeated tasks continue",
        "# where the shard is.",
        *_format_options(
            (
                f"job-name=medtask-{_clean(job.name)}",
                f"array={format_numbers(job.shards)}"
                + (f"%{options.max_running}" if options.max_running else ""),
                f"time={options.time}" if options.time else "",
                f"partition={options.partition}" if options.partition else "",
                f"gres=gpu:{options.gpus}" if options.gpus else "",
                f"cpus-per-task={options.cpus}" if options.cpus else "",
                f"mem={options.memory}" if options.memory else "",
                "nodes=1",
                "ntasks=1",
                "exclusive" if options.vllm else "",
                "requeue",
                "open-mode=append",
                # Not USR1, which NCCL takes. B: to the shell only, which passes it on.
                f"signal=B:USR2@{options.stop_seconds}",
                f"output={_quote_path(job.run)}/logs/shard-%a.log",
                *options.extra,
            )
        ),
    ]
    return "\n".join((*head, *_format_commands(job))) + "\n"


def format_merge_script(job: ArrayJob) -> str:
    """The batch script that merges the shards, for a job that waits for the array."""
    options = job.options
    lines = [
        "#!/bin/bash",
        *_format_options(
            (
                f"job-name=medtask-merge-{_clean(job.name)}",
                f"time={MERGE_MINUTES}",
                f"partition={options.partition}" if options.partition else "",
                "nodes=1",
                "ntasks=1",
                "requeue",
                "open-mode=append",
                f"output={_quote_path(job.run)}/logs/merge.log",
                *options.extra,
            )
        ),
        "",
        "umask 077",
        *options.setup,
        f"exec {shlex.quote(job.python)} -m medtask merge {shlex.quote(str(job.run))}",
    ]
    return "\n".join(lines) + "\n"


def make_vllm_reference(model: str) -> str:
    """The reference of a model that a vLLM server serves in the same job."""
    return f"http://127.0.0.1:{VLLM_PORT}/v1#{model}"


def format_numbers(numbers: Sequence[int]) -> str:
    """ "1-4,7": an array of Slurm."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _format_commands(job: ArrayJob) -> list[str]:
    return [
        "",
        "set -u",
        "umask 077",
        *job.options.setup,
        f"run={shlex.quote(str(job.run))}",
        f"python={shlex.quote(job.python)}",
        'shard="$SLURM_ARRAY_TASK_ID"',
        'job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
        "",
        "# A job that Slurm is ending, as after scancel, is COMPLETING: it is not put back.",
        "continue_later() {",
        '  case "$(scontrol show job "$job" --oneliner)" in',
        '    *JobState=RUNNING*) echo "shard $shard continues later"; scontrol requeue "$job" ;;',
        '    *) echo "shard $shard was cancelled" ;;',
        "  esac",
        "}",
        "",
        *(_format_server(job) if job.options.vllm else ()),
        "# USR2: the time limit is near. TERM: the job is preempted or cancelled.",
        "signals=0",
        "trap 'signals=1; kill -TERM \"$worker\" 2>/dev/null' USR2 TERM",
        '"$python" -m medtask shard "$run" "$shard" &',
        "worker=$!",
        'wait "$worker"',
        "code=$?",
        'while [ "$signals" = 1 ]; do  # a signal ends a wait before the process ends',
        "  signals=0",
        '  wait "$worker"',
        "  code=$?",
        "done",
        "",
        "# 143: stopped, with all answers kept. 137: killed, as for want of memory; after three",
        "# such ends without a new answer, medtask ends with another code.",
        'if [ "$code" = 143 ] || [ "$code" = 137 ]; then continue_later; fi',
        'exit "$code"',
    ]


def _format_server(job: ArrayJob) -> list[str]:
    model = shlex.quote(job.model)
    return [
        "# The server of the model, on all GPUs of the job. The job has its node for itself, so",
        "# that the port is free.",
        f"vllm serve {model} --host 127.0.0.1 --port {VLLM_PORT} \\",
        f"  --tensor-parallel-size {max(1, job.options.gpus)} --max-logprobs 100 \\",
        '  >>"$run/logs/vllm-$shard.log" 2>&1 &',
        "server=$!",
        'trap \'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null\' EXIT',
        "trap 'continue_later; exit 143' USR2 TERM  # while the server loads the model",
        f'until curl --silent --fail --output /dev/null "http://127.0.0.1:{VLLM_PORT}/health"; do',
        '  kill -0 "$server" 2>/dev/null || { echo "the vLLM server ended: see its log"; exit 5; }',
        "  sleep 5",
        "done",
        "",
    ]


def _format_options(options: Sequence[str]) -> list[str]:
    return [f"#SBATCH --{option.removeprefix('--')}" for option in options if option]


def _quote_path(path: Path) -> str:
    """A path as an option of a batch script, in which % and spaces have a meaning."""
    return re.sub(r"([ \\\t'\"])", r"\\\1", str(path)).replace("%", "%%")


def _clean(name: str) -> str:
    """A name of letters, digits, dots, lines and hyphens, for the name of a job."""
    return re.sub(r"[^\w.-]+", "-", name)[:60] or "run"

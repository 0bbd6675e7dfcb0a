"""Reads damaged tables, each in a process of its own: ``python -m support.mutant_reader``.

Prints the outcomes as JSON: how many files were read and refused, and every other ending.
Processes are forked instead of started, which is ten times as fast. What they do, and their limits,
are those of `medtask.isolation`. A forked process can wait for ever for a thread of polars that was
not copied: a file that takes too long is read again in processes that are started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import polars  # noqa: F401 - loaded once, before the processes are forked
import python_calamine  # noqa: F401

from medtask import isolation
from medtask.errors import TableError
from medtask.tables.read import read_table, validate_table
from support.file_mutants import mutate, write_sample

MAX_SECONDS, MAX_BYTES = 60, 2**30


def fork_call(function: str, *arguments: str | None, limits: isolation.ProcessLimits) -> object:
    """`isolation.call_isolated` with a forked process."""
    request = json.dumps([function, arguments, limits.memory_bytes, limits.cpu_seconds]).encode()
    return isolation.read_reply(*run_forked(lambda: isolation.answer_request(request)))


def run_forked(work) -> tuple[int, bytes, bytes]:
    """The exit code, standard output and standard error of ``work`` in a forked process."""
    files = [os.memfd_create(name) for name in ("stdout", "stderr")]
    child = os.fork()
    if child == 0:
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        code = 1
        try:
            os.write(1, work().encode())
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}"[:500].encode(errors="replace"))
        os._exit(code)
    _, status = os.waitpid(child, 0)
    contents = []
    for file in files:
        os.lseek(file, 0, os.SEEK_SET)
        contents.append(os.read(file, 2**26))
        os.close(file)
    return os.waitstatus_to_exitcode(status), contents[0], contents[1]


def read(path: Path) -> str:
    warnings.simplefilter("ignore")
    try:
        table = read_table(path)
        validate_table(table)
        return "read"
    except TableError as error:
        assert error.fix
        return "refused" if path.name in str(error) else f"no name: {error}"


def read_in_started_process(path: Path) -> tuple[int, str, bytes]:
    script = (
        "import sys; from pathlib import Path; from support.mutant_reader import read; "
        "print(read(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True)
    return done.returncode, done.stdout.decode(errors="replace").strip(), done.stderr


def read_with_alarm(path: Path) -> str:
    signal.alarm(MAX_SECONDS)
    return f"{read(path)}\n{measure_memory()}"


def main() -> None:
    sample, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    write = run_forked(lambda: str(write_sample(sample)))  # threads must not start in this process
    assert write[0] == 0, write
    import medtask.tables.binary_files

    medtask.tables.binary_files.call_isolated = fork_call
    data = sample.read_bytes()
    endings: Counter[str] = Counter()
    faults = []
    suffix = sample.suffix
    path = sample.with_name(f"mutant-{first}{''.join(sample.suffixes[-2:])}")
    for seed in range(first, first + count):
        path.write_bytes(mutate(data, seed, suffix))
        started = time.monotonic()
        code, out, error = run_forked(lambda: read_with_alarm(path))
        ending, _, peak = out.decode(errors="replace").partition("\n")
        seconds = time.monotonic() - started
        if code == -signal.SIGALRM:
            started = time.monotonic()
            code, ending, error = read_in_started_process(path)
            seconds = time.monotonic() - started
        if code or ending not in ("read", "refused"):
            faults.append([seed, code, ending, error.decode(errors="replace")[-300:]])
        elif int(peak or 0) > MAX_BYTES or seconds > MAX_SECONDS / 2:
            faults.append([seed, code, f"{int(peak or 0) >> 20} MB, {seconds:.0f} s", ""])
        else:
            endings[ending] += 1
    sys.stdout.write(json.dumps({"endings": endings, "faults": faults}))


def measure_memory() -> int:
    import resource

    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024


if __name__ == "__main__":
    main()

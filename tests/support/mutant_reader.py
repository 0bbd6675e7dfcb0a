"""Reads damaged tables in forked processes: ``python -m support.mutant_reader``.

Prints the outcomes as JSON: how many files were read and refused, and every other ending. A process
reads many files; one that ends before the last of them is a fault of the file that it was reading.
Processes are forked instead of started, which is ten times as fast. What they do, and their limits,
are those of `medtask.isolation`. A forked process can wait for ever for a thread of polars that was
not copied: a file that takes too long is read again in processes that are started.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from medtask import isolation
from medtask.errors import TableError
from medtask.tables.encoding_guess import guess_encodings
from medtask.tables.read import read_table, validate_table
from support.file_mutants import mutate, write_sample

MAX_SECONDS, MAX_BYTES = 60, 2**30
FILES_PER_PROCESS = 50
_LIBRARIES = {
    ".parquet": ("polars",),
    ".xlsx": ("python_calamine", "medtask.tables.workbook_check"),
}


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


def read_mutants(path: Path, data: bytes, suffix: str, seeds: list[int]) -> str:
    """Read mutants, and write a line on each to standard output as soon as it is read."""
    for seed in seeds:
        path.write_bytes(mutate(data, seed, suffix))
        signal.alarm(MAX_SECONDS)
        started = time.monotonic()
        ending = read(path)
        line = json.dumps([ending, time.monotonic() - started, measure_memory()])
        os.write(1, f"{line}\n".encode())
        if len(list(Path("/proc/self/task").iterdir())) > 1:
            break  # polars has started threads, for which a forked process would wait
    return ""


def find_fault(ending: str, seconds: float, peak_bytes: int) -> str:
    """What is wrong with a result; "" if nothing is."""
    if ending not in ("read", "refused"):
        return ending
    if peak_bytes > MAX_BYTES or seconds > MAX_SECONDS / 2:
        return f"{peak_bytes >> 20} MB, {seconds:.0f} s"
    return ""


def main() -> None:
    sample, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    write = run_forked(lambda: str(write_sample(sample)))  # threads must not start in this process
    assert write[0] == 0, write
    import medtask.tables.binary_files

    medtask.tables.binary_files.call_isolated = fork_call
    # Libraries are loaded once; a process without those of other formats is forked faster.
    for name in _LIBRARIES.get(sample.suffix, ()):
        importlib.import_module(name)
    if sample.suffix not in _LIBRARIES:
        list(guess_encodings("naïve".encode("latin-1")))
    data = sample.read_bytes()
    endings: Counter[str] = Counter()
    faults: list[list[object]] = []
    path = sample.with_name(f"mutant-{first}{''.join(sample.suffixes[-2:])}")
    seeds = list(range(first, first + count))
    while seeds:
        part = seeds[:FILES_PER_PROCESS]
        code, out, error = run_forked(
            lambda part=part: read_mutants(path, data, sample.suffix, part)
        )
        results = [json.loads(line) for line in out.decode().splitlines()]
        done = len(results)
        if code:  # the process has ended while it read the next file
            seed, started = part[done], time.monotonic()
            ending = "the process has ended"
            if code == -signal.SIGALRM:
                code, ending, error = read_in_started_process(path)
            if code:
                faults.append([seed, code, ending, error.decode(errors="replace")[-300:]])
            else:
                results.append([ending, time.monotonic() - started, 0])
            done += 1
        for seed, result in zip(part, results, strict=False):
            if fault := find_fault(*result):
                faults.append([seed, 0, fault, ""])
            else:
                endings[result[0]] += 1
        del seeds[:done]
    sys.stdout.write(json.dumps({"endings": endings, "faults": faults}))


def measure_memory() -> int:
    import resource

    from medtask.hardware import measure_peak_memory

    children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(measure_peak_memory()["memory"], children)


if __name__ == "__main__":
    main()

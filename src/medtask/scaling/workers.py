"""Several processes on one machine that answer the shards of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from medtask.errors import EngineError
from medtask.hardware import count_usable_cores
from medtask.runs.progress import RunObserver
from medtask.runs.signals import catch_signals, extend_shutdown
from medtask.scaling.plan import RunPlan
from medtask.scaling.run_status import describe_missing

MAX_RESTARTS = 3  # of killed processes, before there is a new answer
_POLL_S, _REPORT_S, _STOP_S = 0.2, 1.0, 12.0


def answer_with_workers(
    plan: RunPlan,
    workers: int,
    observer: RunObserver,
    devices: Sequence[str] = (),
    *,
    force_lock: bool = False,
) -> int:
    """Answer all shards in ``workers`` processes; returns 0, or the exit code after a signal.

    The cores of this machine are divided among the processes, and each sees one of the ``devices``
    (numbers or UUIDs of GPUs), if there are any. A process that is killed is replaced. With
    ``force_lock`` they take over shards that are locked by a process on another host.

    Raises:
        EngineError: A process has failed, or processes are killed again and again.
    """
    progress = _TotalProgress(plan)
    observer.on_start(plan.rows, progress.count_done())
    pool = _ShardProcesses(plan, workers, devices, force_lock=force_lock)
    with catch_signals(raising=False) as signals, _close(pool):
        reported = 0.0
        while pool.check():
            if signals.number is not None:
                extend_shutdown(_STOP_S)
                pool.stop()
                return signals.exit_code
            if time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                observer.on_batch(progress.count_done(), 0, 0)
            time.sleep(_POLL_S)
    if any(not folder.read_done() for folder in plan.list_folders()):
        raise EngineError(
            f"not all shards are complete: {describe_missing(plan)}",
            fix="correct the cause, then run the same command again: only missing rows are asked",
        )
    observer.on_batch(plan.rows, 0, 0)
    return 0


@dataclass(slots=True)
class _TotalProgress:
    """The rows of all shards that have an answer; complete shards are looked at once."""

    plan: RunPlan
    complete: set[int] = field(default_factory=set)

    def count_done(self) -> int:
        total = 0
        for folder in self.plan.list_folders():
            if folder.shard.number not in self.complete and folder.read_done():
                self.complete.add(folder.shard.number)
            if folder.shard.number in self.complete:
                total += folder.shard.rows
            elif progress := folder.read_progress():
                total += progress.done
        return total


class _ShardProcesses:
    """Processes that call ``medtask shard RUN``, each on its own cores."""

    def __init__(
        self, plan: RunPlan, workers: int, devices: Sequence[str], *, force_lock: bool
    ) -> None:
        self._plan = plan
        self._options = ["--quiet", *(["--force"] if force_lock else [])]
        self._devices = devices
        self._cores = _divide_cores(workers)
        self._restarts = 0
        self._size = 0
        self._processes = {place: self._start(place) for place in range(workers)}

    def check(self) -> bool:
        """Replace processes that were killed; returns whether some are still running."""
        for place, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[place]
            if code < 0:
                self._count_restart()
                self._processes[place] = self._start(place)
        return bool(self._processes)

    def stop(self) -> None:
        """Ask all processes to stop, and wait until they have stored their answers."""
        for process in self._processes.values():
            process.terminate()
        end = time.monotonic() + _STOP_S
        for process in self._processes.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _count_restart(self) -> None:
        size = sum(folder.measure_ledger() for folder in self._plan.list_folders())
        self._restarts = 1 if size > self._size else self._restarts + 1
        self._size = size
        if self._restarts > MAX_RESTARTS:
            raise EngineError(
                f"{self._restarts} processes were killed before they had a new answer",
                fix="use fewer workers, or a smaller model: each worker loads the model; then run "
                "the same command again",
            )

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        cores = self._cores[place]
        environment = dict(os.environ)
        if self._plan.load_options.threads is None:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, len(cores))))
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[place % len(self._devices)]
        # In a session of its own: Ctrl-C comes to this process, which asks the others to stop.
        process = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-m", "medtask", "shard", str(self._plan.folder), *self._options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        if cores and hasattr(os, "sched_setaffinity"):
            with suppress(OSError):  # it has ended already
                os.sched_setaffinity(process.pid, cores)
        return process


def _divide_cores(workers: int) -> list[set[int]]:
    """The cores of each process; empty where they cannot be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(workers)]
    usable = sorted(os.sched_getaffinity(0))[: count_usable_cores()]
    return [
        set(usable[len(usable) * place // workers : len(usable) * (place + 1) // workers])
        or {usable[place % len(usable)]}
        for place in range(workers)
    ]


@contextmanager
def _close(pool: _ShardProcesses) -> Iterator[None]:
    """Stop the processes if the block ends with an error."""
    try:
        yield
    finally:
        pool.stop()

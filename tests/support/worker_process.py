"""Workers of jobs: in a thread, or in a process that is forked and imports nothing."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from medtask.server.jobs import supervisor, worker
from medtask.server.settings import ServerSettings


def fork_worker(settings: ServerSettings, lease_s: float) -> BaseProcess:
    """Start a worker, in a few milliseconds from the second one on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=(settings, lease_s), daemon=False)
    process.start()
    return process


@contextmanager
def run_worker_thread(settings: ServerSettings) -> Iterator[None]:
    """Run a worker in this process until the block ends."""
    shorten_pauses()
    stop = threading.Event()
    thread = threading.Thread(target=worker.run_worker, args=(settings, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def shorten_pauses() -> None:
    """Shorten what workers of this process wait between two looks; limits stay as they are."""
    worker._IDLE_S = 0.05
    supervisor._TICK_S = 0.05
    supervisor._STORE_INTERVAL_S = 0.2
    supervisor._LOCKED_DELAY_S = 0.3


def _run(settings: ServerSettings, lease_s: float) -> None:
    shorten_pauses()
    stop = threading.Event()
    worker.stop_at_signals(stop)
    worker.run_worker(settings, stop, lease_s=lease_s)

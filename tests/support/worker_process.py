"""A worker of jobs in a process that is forked: its modules are imported once for all workers."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.process import BaseProcess

from medtask.server.jobs import worker
from medtask.server.settings import ServerSettings


def fork_worker(settings: ServerSettings, lease_s: float) -> BaseProcess:
    """Start a worker, in a few milliseconds from the second one on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=(settings, lease_s), daemon=False)
    process.start()
    return process


def _run(settings: ServerSettings, lease_s: float) -> None:
    stop = threading.Event()
    worker.stop_at_signals(stop)
    worker.run_worker(settings, stop, lease_s=lease_s)

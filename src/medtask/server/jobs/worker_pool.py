"""The worker processes of a server: started with it, restarted when they die, ended with it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fastapi import FastAPI

from medtask.server.jobs.worker import settings_to_line
from medtask.server.settings import ServerSettings
from medtask.server.storage.files import DataFolder

log = logging.getLogger("medtask.server.jobs")
_LOOK_INTERVAL_S = 1.0
_RESTART_DELAY_S = 2.0
_ABANDONED_S = 86_400.0  # after which a part of an upload is not continued
STOP_LIMIT_S = 8.0  # a worker gives its job 5 seconds to end


class WorkerPool:
    """Keeps ``settings.workers`` worker processes running.

    Workers end by themselves when this process dies, because their standard input is then closed.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._watch, name="workers", daemon=True)

    def start(self) -> None:
        """Start the workers."""
        self._processes = [self._start_one() for _ in range(self._settings.workers)]
        self._thread.start()

    def stop(self) -> None:
        """Ask the workers to end, wait for them, and kill those that do not."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _start_one(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "medtask.server.jobs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(settings_to_line(self._settings))
        return process

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_INTERVAL_S):
            for place, process in enumerate(self._processes):
                if process.poll() is not None:
                    log.warning("a worker ended with code %s and is restarted", process.returncode)
                    if process.stdin is not None:
                        process.stdin.close()
                    if self._stop.wait(_RESTART_DELAY_S):
                        return
                    self._processes[place] = self._start_one()


@contextmanager
def open_workers(app: FastAPI) -> Iterator[None]:
    """Run ``settings.workers`` worker processes as long as the application."""
    settings: ServerSettings = app.state.settings
    delete_abandoned_uploads(DataFolder(settings.data_folder))
    pool = WorkerPool(settings)
    app.state.worker_pool = pool
    pool.start()
    try:
        yield
    finally:
        pool.stop()


def delete_abandoned_uploads(files: DataFolder) -> None:
    """Delete what a killed server has left of uploads more than a day ago."""
    for path in files.create_upload_folder().iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()

"""The workers of an application: started before its first request, stopped after its last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fastapi import FastAPI

from medtask.server.jobs.worker_pool import WorkerPool
from medtask.server.settings import ServerSettings
from medtask.server.storage.files import DataFolder

_ABANDONED_S = 86_400.0


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

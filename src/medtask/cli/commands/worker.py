"""`medtask worker`: runs the jobs of a server, in a separate process, also on another machine."""

from __future__ import annotations

from typing import Annotated

import typer

from medtask.cli.commands.serve import (
    DEFAULT_DATA_FOLDER,
    DatabaseUrl,
    DataFolder,
    require_server_packages,
)

_SHUTDOWN_LIMIT_S = 15.0  # for the job that runs to save its state


def worker(
    data: DataFolder = DEFAULT_DATA_FOLDER,
    db: DatabaseUrl = "",
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory for loaded models: 8GB.")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow models on other machines.")
    ] = False,
) -> None:
    """Run jobs of a server on the same data folder and database."""
    require_server_packages()
    import os
    import threading

    from medtask.hardware import parse_bytes
    from medtask.runs.signals import extend_shutdown
    from medtask.server.jobs.worker import run_worker, stop_at_signals
    from medtask.server.schema import open_database
    from medtask.server.settings import ServerSettings

    settings = ServerSettings(
        data_folder=data,
        database_url=db,
        memory_limit_bytes=None if memory is None else parse_bytes(memory),
        allow_remote=allow_remote,
    )
    os.umask(0o077)
    extend_shutdown(_SHUTDOWN_LIMIT_S)
    open_database(settings).close()
    stop = threading.Event()
    stop_at_signals(stop)
    run_worker(settings, stop)

"""`medtask serve`: the server with its API, pages, review and jobs."""

from __future__ import annotations

import importlib.util
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import Quiet
from medtask.display import format_count
from medtask.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from medtask.server.settings import ServerSettings

DEFAULT_DATA_FOLDER = Path("medtask-data")
DataFolder = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        envvar="MEDTASK_DATA",
        help="Folder of all data of the server; default: medtask-data in this folder.",
        show_default=False,
    ),
]
DatabaseUrl = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar="MEDTASK_DB",
        help="postgresql+psycopg://USER@HOST/NAME; default: a SQLite file in the data folder.",
    ),
]


def serve(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port.")] = 8000,
    data: DataFolder = DEFAULT_DATA_FOLDER,
    db: DatabaseUrl = "",
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="A reverse proxy on this machine terminates TLS."),
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TLS certificate in PEM format.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A host name in the address bar of browsers."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory for loaded models: 8GB.")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow models on other machines.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Processes for jobs: runs, trainings.")
    ] = 1,
    verify_audit: Annotated[
        bool,
        typer.Option("--verify-audit", help="Only check that the audit log is complete."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Serve the API and the pages of medtask on this machine."""
    require_server_packages()
    from medtask.hardware import parse_bytes
    from medtask.server.process import serve_forever
    from medtask.server.settings import ServerSettings

    settings = ServerSettings(
        data_folder=data,
        database_url=db,
        host=host,
        port=port,
        behind_proxy=behind_proxy,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        allowed_hosts=tuple(allow_host or ()),
        memory_limit_bytes=None if memory is None else parse_bytes(memory),
        allow_remote=allow_remote,
        workers=workers,
    )
    if verify_audit:
        print_audit_faults(settings)
        return

    def print_address(url: str, link: str | None) -> None:
        if not quiet:
            show.print_line(f"medtask serves {url}")
        if link is not None:
            show.print_line("Nobody has an account yet. This link creates the first one, once:")
            show.print_line(f"  {link}")

    serve_forever(settings, print_address)


def require_server_packages() -> None:
    """Check that the packages of the server are installed.

    Raises:
        MissingExtra: One is not.
    """
    for name in ("alembic", "argon2", "fastapi", "prometheus_client", "sqlalchemy", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(
                f"the server needs a package that is not installed: {name}",
                fix="pip install 'medtask[serve]'",
            )


def print_audit_faults(settings: ServerSettings) -> None:
    """Print where the audit log is broken.

    Raises:
        InputError: It is.
    """
    from medtask.server.access.audit_log import AuditLog
    from medtask.server.schema import open_database

    with closing(open_database(settings)) as database, database.read() as session:
        log = AuditLog(settings.data_folder)
        count, faults = log.count_entries(session), list(log.find_faults(session))
    for fault in faults:
        show.print_line(fault)
    if faults:
        raise InputError(
            f"the audit log is broken in {format_count(len(faults), 'place')}",
            fix="compare the database with its last backup; somebody has changed it",
        )
    show.print_line(f"The audit log is complete: {format_count(count, 'entry', 'entries')}.")

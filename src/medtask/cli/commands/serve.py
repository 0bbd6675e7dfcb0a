"""`medtask serve`: the server with its API, pages, review and jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import Quiet

DataFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="MEDTASK_DATA",
        help="Folder of all data of the server; default: medtask-data in this folder.",
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
    data: DataFolder = None,
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
    quiet: Quiet = False,
) -> None:
    """Serve the API and the pages of medtask on this machine."""
    from medtask.errors import MissingExtra

    try:
        from medtask.server.process import serve_forever
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the server needs a package that is not installed: {error.name}",
            fix="pip install 'medtask[serve]'",
        ) from error
    from medtask.hardware import parse_bytes
    from medtask.server.settings import ServerSettings

    settings = ServerSettings(
        data_folder=choose_data_folder(data),
        database_url=db,
        host=host,
        port=port,
        behind_proxy=behind_proxy,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        allowed_hosts=tuple(allow_host or ()),
        memory_limit_bytes=None if memory is None else parse_bytes(memory),
        allow_remote=allow_remote,
    )

    def print_address(url: str, link: str | None) -> None:
        if not quiet:
            show.print_line(f"medtask serves {url}")
        if link is not None:
            show.print_line("Nobody has an account yet. This link creates the first one, once:")
            show.print_line(f"  {link}")

    serve_forever(settings, print_address)


def choose_data_folder(data: Path | None) -> Path:
    """The data folder of the server."""
    return data if data is not None else Path("medtask-data")

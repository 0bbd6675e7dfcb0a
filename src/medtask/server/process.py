"""The server as a process: listening, the link of the first start, and an orderly end."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

import uvicorn

from medtask.errors import UsageError
from medtask.runs.signals import extend_shutdown
from medtask.server.access.accounts import create_link, has_accounts
from medtask.server.access.audit_log import AuditEvent
from medtask.server.app import create_app
from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings, check_settings

_GRACE_S = 3
# A worker gives its job some seconds to end (`jobs.worker_pool.STOP_LIMIT_S`).
_SHUTDOWN_LIMIT_S = 15.0
_MAX_CONNECTIONS = 1_000


def serve_forever(settings: ServerSettings, on_ready: Callable[[str, str | None], None]) -> None:
    """Run the server until a signal.

    Args:
        settings: The settings.
        on_ready: Called with the server's URL, and with the one-time link if nobody has an account,
            once the server listens.

    Raises:
        UsageError: The settings are not valid, or the port is in use.
    """
    check_settings(settings)
    os.umask(0o077)
    extend_shutdown(_SHUTDOWN_LIMIT_S)
    logging.getLogger("uvicorn.error").addFilter(_is_without_error)
    with _listen(settings) as listener:
        database = open_database(settings)
        try:
            app = create_app(settings, database)
            url = _write_url(settings, listener.getsockname()[1])
            link = None
            with database.write() as session:
                if not has_accounts(session):
                    link = f"{url}/start/{create_link(session, None)}"
                event = AuditEvent("", "", "server.start", facts={"new": link is not None})
                app.state.audit_log.record(session, event)
            server = uvicorn.Server(_configure(settings, app))
            on_ready(url, link)
            server.run(sockets=[listener])
        finally:
            database.close()


def _configure(settings: ServerSettings, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,  # it would write paths and queries
        server_header=False,
        proxy_headers=settings.behind_proxy,
        forwarded_allow_ips="127.0.0.1",
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=_GRACE_S,
    )


def _is_without_error(record: logging.LogRecord) -> bool:
    # The handler of unexpected errors has logged the place; a message may contain a record's text.
    return record.exc_info is None


def _listen(settings: ServerSettings) -> socket.socket:
    """Bind before anything slow starts, so that a port in use is reported at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets with this protocol; without it answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"the server cannot listen on {settings.host}, port {settings.port}: {error.strerror}",
            fix="stop the program that uses the port, or choose another one with --port",
        ) from error
    return listener


def _write_url(settings: ServerSettings, port: int) -> str:
    scheme = "https" if settings.tls_certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{port}"

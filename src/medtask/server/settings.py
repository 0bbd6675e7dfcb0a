"""Settings of the server: where it listens, where it stores its data, and its limits."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from medtask.display import quote
from medtask.errors import InputError, UsageError

DATABASE_FILE = "medtask.db"


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of requests; a request beyond one is refused with 413, 422 or 429.

    Attributes:
        body_bytes: Size of a request's body, uploads excepted.
        upload_bytes: Size of an uploaded table.
        rows_per_request: Texts in one request that is answered at once; longer tables are jobs.
        characters_per_text: Length of one text.
        queue_length: Requests that may wait for one model, and jobs that may wait for one user.
        requests_per_minute: Requests of one user, one key, or one address without either.
        sign_ins_per_minute: Attempts to sign in from one address.
        body_seconds: Time in which the next part of a request's body has to arrive.
    """

    body_bytes: int = 4_000_000
    upload_bytes: int = 4_000_000_000
    rows_per_request: int = 1_000
    characters_per_text: int = 200_000
    queue_length: int = 256
    requests_per_minute: int = 12_000
    sign_ins_per_minute: int = 30
    body_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of one server and of its workers.

    Attributes:
        data_folder: Folder of all files of the server; it is created with mode 0700.
        database_url: SQLAlchemy URL; "" is a SQLite file in the data folder.
        behind_proxy: A reverse proxy on this machine terminates TLS.
        allowed_hosts: Host names of requests, besides the loopback names and ``host``.
        workers: Processes for jobs that the server starts.
        memory_limit_bytes: Memory for loaded models; None is what the machine has.
        allow_remote: Whether tasks may use models on other machines.
        session_hours: Time after which a user has to sign in again.
    """

    data_folder: Path
    database_url: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    behind_proxy: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    workers: int = 1
    memory_limit_bytes: int | None = None
    allow_remote: bool = False
    session_hours: float = 12.0
    limits: RequestLimits = field(default_factory=RequestLimits)

    @property
    def is_encrypted(self) -> bool:
        """Whether browsers reach the server over TLS."""
        return self.tls_certificate is not None or self.behind_proxy

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_folder.absolute() / DATABASE_FILE}"


def check_settings(settings: ServerSettings) -> None:
    """Check the settings before anything starts.

    Raises:
        UsageError: The settings contradict each other, or the server would be open to the network
            without encryption.
        InputError: A file of the TLS settings does not exist or cannot be used.
    """
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise UsageError(
            "a TLS certificate needs its key, and a key its certificate",
            fix="give both --tls-cert FILE and --tls-key FILE",
        )
    for path in (settings.tls_certificate, settings.tls_key):
        if path is not None and not path.is_file():
            raise InputError(f"{quote(path, 4096)} is not a file", fix="give a file in PEM format")
    if settings.tls_certificate is not None and settings.tls_key is not None:
        _check_certificate(settings.tls_certificate, settings.tls_key)
    if not is_loopback(settings.host) and not settings.is_encrypted:
        raise UsageError(
            f"{quote(settings.host)} is not a loopback address: passwords and texts would cross "
            "the network unencrypted",
            fix="use --host 127.0.0.1, or give --tls-cert and --tls-key, or --behind-proxy if a "
            "reverse proxy terminates TLS",
        )


def _check_certificate(certificate: Path, key: Path) -> None:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            f"{quote(certificate, 4096)} and {quote(key, 4096)} are not a certificate and its key",
            fix="give both in PEM format; the key must be that of the certificate, unencrypted",
        ) from error


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine only; other names are never looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

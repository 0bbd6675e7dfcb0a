"""A PostgreSQL server of the tests, in a temporary folder and on a unix socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

# Debian installs them in a folder for each version, outside the search path.
_FOLDERS = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
_PROGRAMS = {
    name: shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS]))
    for name in ("initdb", "pg_ctl", "postgres")
}
POSTGRES = all(_PROGRAMS.values())
MISSING_POSTGRES = "the binaries postgres, initdb and pg_ctl are not installed"


@dataclass(frozen=True)
class PostgresServer:
    """A running server; each database is a new one."""

    folder: Path

    def create_database(self, template: str = "template0") -> str:
        """Create an empty database, or a copy of one that nobody uses; returns its URL."""
        import psycopg

        name = f"test_{uuid.uuid4().hex[:12]}"
        host = str(self.folder)
        with psycopg.connect(
            host=host, user="medtask", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'")
        return f"postgresql+psycopg://medtask@/{name}?host={quote(host)}"


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """Start a server; it refuses to run as root, so that root starts it as the user postgres."""
    # A path of a unix socket has at most 107 bytes, which pytest's folders exceed.
    folder = Path(tempfile.mkdtemp(prefix="pg_"))
    data = folder / "data"
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        _run("initdb", "-D", str(data), "-U", "medtask", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses='' -k {folder} -c fsync=off -c max_connections=200"
        _run("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield PostgresServer(folder)
        finally:
            _run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(name: str, *options: str) -> None:
    prefix = []
    if os.geteuid() == 0:
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    subprocess.run(
        [*prefix, str(_PROGRAMS[name]), *options],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "HOME": "/tmp", "LC_ALL": "C.UTF-8"},
    )

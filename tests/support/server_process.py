"""`medtask serve` in a process of its own."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2


@dataclass
class ServerProcess:
    """A server that listens.

    Attributes:
        url: Its address.
        link: The path of the one-time link; None if somebody has an account.
        start_s: Time from the start of the process until the first answer.
    """

    process: subprocess.Popen[bytes]
    url: str
    link: str | None
    start_s: float
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def start_server(
    data: Path, *options: str, database_url: str = "", certificate: Path | None = None
) -> Iterator[ServerProcess]:
    """Start a server on a free port; it is killed at the end if it still runs.

    ``certificate`` is the one that the server is recognised by, if it has TLS.
    """
    begun = time.monotonic()
    command = [sys.executable, "-m", "medtask", "serve", "--port", "0", "--data", str(data)]
    log, output = data.with_name(f"{data.name}.log"), data.with_name(f"{data.name}.out")
    environment = {**os.environ, "MEDTASK_DB": database_url, "PYTHONUNBUFFERED": "1"}
    with (
        log.open("a") as errors,
        output.open("w") as lines,
        subprocess.Popen(
            [*command, *options], stdout=lines, stderr=errors, env=environment
        ) as process,
    ):
        try:
            while not (url := re.search(r"http\S+", output.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.02)
            _wait_for_health(url[0], certificate)
            start_s = time.monotonic() - begun
            link = re.search(r"/start/\S+", output.read_text())
            yield ServerProcess(process, url[0], link[0] if link else None, start_s, log)
        finally:
            process.kill()


def _wait_for_health(url: str, certificate: Path | None) -> None:
    trusted = True if certificate is None else ssl.create_default_context(cafile=certificate)
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx2.get(f"{url}/health", verify=trusted).raise_for_status()
        except httpx2.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return

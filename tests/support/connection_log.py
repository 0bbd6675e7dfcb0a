"""Records which other machines Python processes try to reach, without a network to reach them."""

from __future__ import annotations

import os
from pathlib import Path

_SITE_MODULE = '''\
"""Loaded by every Python process that starts."""
import os
import sys


def record(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = args[1][0] if isinstance(args[1], tuple) and args[1] else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost", "::1") or str(host).startswith("127."):
        return
    with open(os.environ["CONNECTION_LOG"], "a") as file:
        file.write(f"{event} {host} by {sys.argv}\\n")


sys.addaudithook(record)
'''


class ConnectionLog:
    """A log of the attempts of all processes that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        self.path, self.site = folder / "connections.log", folder / "site"
        self.site.mkdir()
        (self.site / "sitecustomize.py").write_text(_SITE_MODULE)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process, and what makes a process record its attempts."""
        search = os.pathsep.join(filter(None, (str(self.site), os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": search, "CONNECTION_LOG": str(self.path)}

    def read(self) -> list[str]:
        """The attempts, a line for each."""
        return self.path.read_text().splitlines() if self.path.exists() else []

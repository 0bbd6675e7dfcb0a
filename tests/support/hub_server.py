"""A small server with the calls of the Hub's API that create a repository and add files to it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the server was sent.

    Attributes:
        url: Its address.
        private: Whether a repository is private, by name.
        files: The content of each file, by its path in the repository.
        calls: Method and path of each request.
        refuses: Whether it answers every request with 401.
    """

    url: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    refuses: bool = False


@contextmanager
def run_hub() -> Iterator[Hub]:
    """Start the server on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", b"")

        def do_POST(self) -> None:
            self._answer("POST", self.rfile.read(int(self.headers["Content-Length"] or 0)))

        def _answer(self, method: str, body: bytes) -> None:
            hub.calls.append(f"{method} {self.path}")
            status, content = (401, {}) if hub.refuses else answer_call(hub, self.path, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Write no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer_call(hub: Hub, path: str, body: bytes) -> tuple[int, Any]:
    """Status and content of the answer to one call."""
    if path == "/api/repos/create":
        asked = json.loads(body)
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        exists = name in hub.private
        visibility = asked.get("visibility")
        is_private = visibility == "private" if visibility else bool(asked.get("private"))
        hub.private.setdefault(name, is_private)
        content = {"url": f"{hub.url}/{name}", "name": name, "id": name}
        return (409 if exists else 200), content
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    name = "/".join(path.split("/")[3:5])
    if path.endswith("/preupload/main"):
        files = json.loads(body)["files"]
        modes = [{"path": one["path"], "uploadMode": "regular"} for one in files]
        return 200, {"files": [{**one, "shouldIgnore": False, "oid": None} for one in modes]}
    if path.endswith("/commit/main"):
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"{hub.url}/{name}/commit/1", "commitOid": "1", "hookOutput": ""}
    if name not in hub.private:
        return 404, {"error": path}
    return 200, {"id": name, "private": hub.private[name], "sha": "0", "tags": [], "siblings": []}

"""The connection to a server: requests, their repetition while it is busy, and its problems."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medtask.atomic_files import replace_file
from medtask.errors import EngineError, MedtaskError, MissingExtra, UsageError

if TYPE_CHECKING:
    import httpx2

_MAX_WAIT_S = 300.0  # for a server that is busy
_EXIT_CODES = {401: 2, 403: 2, 404: 4, 409: 8, 413: 4, 422: 4}


class ServerProblem(MedtaskError):
    """A server has refused a request, or a job of it has failed.

    Attributes:
        status: The HTTP status; None for a job.
        kind: The type of the problem, such as "urn:medtask:not-valid".
        errors: All faults, if the problem has several.
    """

    def __init__(self, problem: Mapping[str, Any], status: int | None = None) -> None:
        super().__init__(
            str(problem.get("detail") or f"the server answered with the status {status}"),
            fix=str(problem.get("fix") or "look at the log of the server"),
        )
        self.status = status
        self.kind = str(problem.get("type") or "about:blank")
        self.errors: list[Any] = list(problem.get("errors") or ())
        self.exit_code = _EXIT_CODES.get(status or 0, 5 if status and status >= 429 else 4)


class ServerUnreachable(EngineError):
    """The server does not answer."""


class ServerConnection:
    """Sends requests to one server; threads may share it.

    Args:
        url: The address of the server.
        key: The API key; None without one.
        timeout_s: Seconds to wait for a response.

    Raises:
        UsageError: The address is not valid, or would send the key unencrypted over a network.
        MissingExtra: httpx2 is not installed.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float) -> None:
        _check_url(url)
        self.url = url.rstrip("/")
        self._http = _open_connection(self.url, key, timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, method: str, path: str, **options: Any) -> Any:
        """Send a request; waits and repeats it while the server is busy.

        Raises:
            ServerUnreachable: The server does not answer.
            ServerProblem: The server has refused the request.
        """
        with self._open(method, path, **options) as response:
            return response.json() if response.read() else None

    def download(self, path: str, file: Path) -> None:
        """Write the content of a path to a file, once all of it has arrived.

        Raises:
            ServerUnreachable: The server does not answer, or ends the answer early.
            ServerProblem: The server has refused the request.
            StorageError: The file cannot be written.
        """
        with (
            self._open("GET", path) as response,
            replace_file(file) as draft,
            draft.open("wb") as stream,
        ):
            for chunk in response.iter_bytes():
                stream.write(chunk)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Send a JSON document, and yield the events of the answer with their content.

        Raises:
            ServerUnreachable: The server does not answer, or ends the answer early.
            ServerProblem: The server has refused the request.
        """
        with self._open("POST", path, json=body) as response:
            yield from _read_events(response.iter_lines())

    @contextmanager
    def _open(self, method: str, path: str, **options: Any) -> Iterator[httpx2.Response]:
        """A response whose content is read in the block; a busy server is asked again."""
        import httpx2

        until = time.monotonic() + _MAX_WAIT_S
        try:
            while True:
                with self._http.stream(method, path, **options) as response:
                    wait_s = _find_waiting_time(response)
                    if wait_s is None or time.monotonic() + wait_s > until:
                        _check_status(response)
                        yield response
                        return
                time.sleep(wait_s)
        except httpx2.TransportError as error:
            raise ServerUnreachable(
                f"the server at {self.url} does not answer ({type(error).__name__})",
                fix="check that `medtask serve` runs there, and the address",
            ) from error


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{url!r} is not the address of a server", fix="give it as http://127.0.0.1:8000"
        )
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise UsageError(
            f"{url!r} would send the key and all texts unencrypted over the network",
            fix="use https, or a tunnel to an address of this machine",
        )


def _open_connection(url: str, key: str | None, timeout_s: float) -> httpx2.Client:
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise MissingExtra("httpx2 is not installed", fix="pip install 'medtask[http]'") from error
    headers = {"Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    # A proxy of the environment would get the texts, so none is used.
    return httpx2.Client(base_url=url, headers=headers, timeout=timeout_s + 10, trust_env=False)


def _find_waiting_time(response: httpx2.Response) -> float | None:
    """Seconds after which a busy server wants the request again; None if it is not busy."""
    if response.status_code not in (429, 503):
        return None
    after = response.headers.get("Retry-After", "")
    return min(60.0, float(after)) if after.isdecimal() else None


def _check_status(response: httpx2.Response) -> None:
    """Raise ServerProblem if the server has refused the request."""
    if response.is_success:
        return
    response.read()
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"fix": "check the address: this may be no medtask server"}
    raise ServerProblem(problem, response.status_code)


def _read_events(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The events of a stream, by name, with their JSON content."""
    name, data = "message", ""
    for line in lines:
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data += line.removeprefix("data:").removeprefix(" ")
        elif not line and data:
            yield name, json.loads(data)
            name, data = "message", ""

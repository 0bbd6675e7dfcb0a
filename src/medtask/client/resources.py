"""Tasks and tables of a server, and requests to its API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from medtask.client.connection import ServerConnection
from medtask.errors import UsageError

TaskSource = int | str | Path
TableSource = int | str | Path | Iterable[Mapping[str, Any]]


class ServerResources:
    """Requests to the API of a server, and uploads."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON document at a path of the API."""
        return self._connection.send("GET", path, params=query)

    def post(self, path: str, body: object = None) -> Any:
        """Send a JSON document to a path of the API; returns the one that answers it."""
        return self._connection.send("POST", path, json=body)

    def store_task(self, task: TaskSource) -> int:
        """The id of a task of the server; a task file or its folder is uploaded."""
        if isinstance(task, int):
            return task
        path = Path(task)
        file = path / "task.yaml" if path.is_dir() else path
        stored: int = self.post("/api/tasks", {"text": _read_file(file).decode("utf-8")})["id"]
        return stored

    def store_table(self, table: TableSource) -> int:
        """The id of a data set of the server; a file is uploaded, and rows too."""
        if isinstance(table, int):
            return table
        if isinstance(table, str | Path):
            content = _read_file(Path(table))
            file_name = Path(table).name
        else:
            lines = [json.dumps(make_json_row(row)) for row in table]
            content, file_name = "\n".join(lines).encode(), "rows.jsonl"
        stored: int = self._connection.send(
            "POST",
            "/api/datasets",
            params={"file_name": file_name},
            content=content,
            headers={"Content-Type": "application/octet-stream"},
        )["id"]
        return stored


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", fix="give the path of a file"
        ) from error


def drop_missing(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are given, for a request."""
    return {name: value for name, value in values.items() if value is not None}


def make_json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON values; dates and other objects become text."""
    document: dict[str, Any] = json.loads(json.dumps(dict(row), default=str))
    return document

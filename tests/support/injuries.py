"""Notes on injuries with gold, and a task of every kind about them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import medtask
from medtask.tasks.task import Task

# The answer section of a task of each kind, and the gold of two of three and of the other rows.
KINDS: dict[str, tuple[dict[str, object], str, str]] = {
    "label": ({"kind": "label", "labels": ["wound", "burn"]}, "wound", "burn"),
    "labels": ({"kind": "labels", "labels": ["wound", "burn"]}, "wound; burn", "burn"),
    "choice": ({"kind": "choice", "options": ["a", "b"]}, "A", "B"),
    "several": ({"kind": "choice", "options": ["a", "b"], "several": True}, "A; B", "B"),
    "answer": ({"kind": "answer"}, "a wound of the hand", "a burn"),
    "fields": (
        {
            "kind": "fields",
            "schema": {"type": "object", "properties": {"side": {"enum": ["left", "right"]}}},
        },
        '{"side": "left"}',
        '{"side": "right"}',
    ),
}


def make_task(folder: Path, answer: dict[str, object] | None = None, **more: object) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": "injuries",
        "instruction": "Name the injury.",
        "input": "{{ note }}",
        "id": "id",
        "gold": "gold",
        "answer": answer or {"kind": "label", "labels": ["wound", "burn"]},
        **more,
    }
    (folder / "task.json").write_text(json.dumps(content))
    return medtask.load_task(folder)


def write_notes(
    path: Path, rows: int = 40, *, patients: int = 0, kind: str = "label"
) -> list[dict[str, str]]:
    """A table with gold, and with a column of groups if there are patients."""
    _, frequent, rare = KINDS[kind]
    table = [
        {
            "id": f"n{row}",
            "note": f"Injury of finger {row % 5}, seen on day {row}",
            "gold": frequent if row % 3 else rare,
            "a": "left",
            "b": "right",
            **({"patient": f"P{row % patients}"} if patients else {}),
        }
        for row in range(1, rows + 1)
    ]
    write_table(path, table)
    return table


def write_table(path: Path, table: Sequence[dict[str, str]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)

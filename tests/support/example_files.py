"""The tasks and tables of the examples, as they ship."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_NAMES = tuple(sorted(folder.parent.name for folder in EXAMPLES.glob("*/task.yaml")))


def read_example_task(name: str) -> dict[str, Any]:
    task: dict[str, Any] = yaml.safe_load((EXAMPLES / name / "task.yaml").read_text("utf-8"))
    return task


def read_example_table(name: str) -> list[dict[str, str]]:
    return read_rows(EXAMPLES / name / read_example_task(name)["data"])


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def list_example_texts(name: str) -> list[str]:
    """The column that distinguishes rows: the last one that the input names."""
    columns = re.findall(r"\{\{ (\w+) \}\}", read_example_task(name)["input"])
    return [row[columns[-1]] for row in read_example_table(name)]

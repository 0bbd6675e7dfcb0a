"""The packages that pip chooses for requirements, with the versions of constraints.txt."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def resolve_packages(requirements: Sequence[str]) -> list[dict[str, Any]]:
    """An entry of pip's installation report for each package; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
        command += ["--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        command += ["--constraint", str(ROOT / "constraints.txt"), *requirements]
        subprocess.run(command, check=True)
        items: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))["install"]
    return items


def find_core_problems(items: Sequence[dict[str, Any]], max_packages: int) -> list[str]:
    """Why these packages are too many, or would run code of their own when they are installed."""
    problems = []
    if len(items) > max_packages:
        problems.append(f"{len(items)} packages, more than {max_packages}")
    for item in items:
        address = str(item["download_info"]["url"]).partition("#")[0]
        if not address.endswith(".whl"):
            problems.append(f"{item['metadata']['name']} has no wheel: {address}")
    return problems

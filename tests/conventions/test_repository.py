"""The folders of the repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    ".ci",
    ".github",
    "benchmarks",
    "deploy",
    "docs",
    "examples",
    "src",
    "tests",
    "tools",
}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is not a clone")
def test_no_folder_was_added_by_mistake() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True)
    names = {name.partition("/")[0] for name in listed.stdout.decode().splitlines() if "/" in name}
    assert names == FOLDERS

"""Damaged tables of every format: each is read, or refused with the file's name and a remedy.

No file ends the process, raises another exception, takes more than half a minute or 1 GB of memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.file_mutants import mutate, write_sample
from support.mutant_reader import read

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")

FORMATS = ["xlsx", "parquet", "csv", "jsonl", "json"]
# Other compressions and delimiters of the same formats, which the same code reads.
VARIANTS = ["zstd.parquet", "tsv", "csv.gz", "jsonl.gz"]


def read_mutants(folder: Path, suffix: str, first: int, count: int) -> dict[str, int]:
    """The number of mutants that were read and refused; fails if there was another ending."""
    command = [sys.executable, "-m", "support.mutant_reader"]
    done = subprocess.run(
        [*command, str(folder / f"table.{suffix}"), str(first), str(count)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "POLARS_MAX_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == []
    endings: dict[str, int] = found["endings"]
    return endings


@pytest.mark.parametrize("suffix", [*FORMATS, *VARIANTS])
def test_damaged_files_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    endings = read_mutants(tmp_path, suffix, 0, 40)
    assert sum(endings.values()) == 40
    assert min(endings["read"], endings["refused"]) > 0


@pytest.mark.scale
@pytest.mark.parametrize("suffix", FORMATS)
def test_two_thousand_damaged_files_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    assert sum(read_mutants(tmp_path, suffix, 1000, 2000).values()) == 2000


@pytest.mark.scale
@pytest.mark.parametrize("suffix", VARIANTS)
def test_many_damaged_files_of_variants_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    assert sum(read_mutants(tmp_path, suffix, 1000, 150).values()) == 150


@pytest.mark.parametrize("suffix", ["xlsx", "parquet"])
def test_damaged_files_are_refused_in_started_processes_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    write_sample(path)
    data = path.read_bytes()
    endings = set()
    for seed in range(8):
        path.write_bytes(mutate(data, seed, path.suffix))
        endings.add(read(path))
    assert endings <= {"read", "refused"}

"""Durations and time limits use the monotonic clock: the clock of the day can jump, or be wrong."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from support.source_tree import MODULES, parse_module

# Modules that read the clock of the day, each with its reason.
READERS = {
    "engines/files/unpacked_models.py": "drafts of killed processes are removed after a day",
    "engines/http/transport.py": "Retry-After names a date; it is compared with the server's own",
    "engines/tokens/chat_template.py": "a template may show the date",
    "runs/cache_file.py": "the day on which an answer was used, to the day",
    "runs/folder.py": "the name of a run folder",
    "runs/lock.py": "shown to users; the kernel releases locks",
    "runs/manifest.py": "shown to users, and the newest of several equal runs",
    "runs/tracking/mlflow.py": "MLflow's time of a logged value",
    "server/database/base.py": "dates in the database",
    "server/jobs/worker_pool.py": "uploads of killed servers are removed after a day",
}
_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}


def find_reads(tree: ast.AST) -> Iterator[int]:
    """Lines that read the clock of the day, or import a function that does."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (owner, name) in _CLOCKS:
                yield node.lineno
            case ast.ImportFrom(module="time", names=names):
                yield from (node.lineno for one in names if one.name in ("time", "time_ns"))


def test_only_listed_modules_read_the_clock_of_the_day() -> None:
    found = {name for name in MODULES if any(find_reads(parse_module(name)))}
    assert found == READERS.keys()


def test_reads_of_the_clock_are_found() -> None:
    code = "import time\nfrom time import time_ns\nx = time.time()\ny = datetime.now(UTC)\n"
    assert sorted(find_reads(ast.parse(code))) == [2, 3, 4]
    assert not list(find_reads(ast.parse("x = time.monotonic() + obj.time")))

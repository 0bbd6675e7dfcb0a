"""Options of a run as keyword arguments, of functions and commands that answer a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from medtask.engines.load_options import LoadOptionValues


class RunValues(TypedDict, total=False):
    """Options that `medtask.run` and runs in shards have."""

    out: str | Path | None
    limit: int | None
    gold: str | None
    formats: Sequence[str] | None
    max_error_rate: float
    calibrated: bool
    wide: bool
    new_run: bool


class ShardedRunValues(RunValues, LoadOptionValues, total=False):
    """Options of a run in shards, and of loading its model in each process."""

    baselines: bool

"""Runs that are reviewed; each is made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from support.review_runs import make_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run folder of a kind of question."""
    return cache(lambda kind: make_run(kind, tmp_path_factory.mktemp(kind)))

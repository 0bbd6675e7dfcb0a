"""A call in a child process: its result, its errors, and every way in which a process can end."""

from __future__ import annotations

import sys
import time

import pytest

from medtask.errors import TableError
from medtask.isolation import IsolatedCallFailed, ProcessLimits, call_isolated

LIMITS = ProcessLimits(memory_bytes=2**30, cpu_seconds=5)
HERE = "support.isolated_functions"


def test_the_result_is_returned():
    assert call_isolated(f"{HERE}:repeat", "aä", None, limits=LIMITS) == ["aä", None]


def test_an_error_of_medtask_is_raised_with_its_remedy():
    with pytest.raises(TableError, match="not a table") as raised:
        call_isolated(f"{HERE}:refuse", limits=LIMITS)
    assert raised.value.fix == "export it again"


@pytest.mark.parametrize("function", ["abort", "kill", "crash", "leave", "fail"])
def test_a_process_that_ends_is_an_exception(function):
    with pytest.raises(IsolatedCallFailed) as raised:
        call_isolated(f"{HERE}:{function}", limits=LIMITS)
    assert raised.value.reason == ("memory" if function == "kill" else "crash")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_memory_is_limited():
    with pytest.raises(IsolatedCallFailed) as raised:
        call_isolated(f"{HERE}:allocate", str(2**32), limits=LIMITS)
    assert raised.value.reason == "memory"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of CPU time")
def test_time_is_limited():
    started = time.monotonic()
    with pytest.raises(IsolatedCallFailed) as raised:
        call_isolated(f"{HERE}:spin", limits=ProcessLimits(2**30, cpu_seconds=1))
    assert raised.value.reason == "time"
    assert time.monotonic() - started < 60

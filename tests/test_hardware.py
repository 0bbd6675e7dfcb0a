from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medtask.errors import UsageError
from medtask.hardware import count_usable_cores, inspect_machine, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("1.5G", 1_500_000_000),
        ("512MiB", 512 * 2**20),
        ("1048576", 1048576),
        ("2Ti", 2 * 2**40),
    ],
)
def test_amounts_of_memory_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "eight", "-1GB", "8XB", "8 GB now"])
def test_what_is_no_amount_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text)
    assert "8GB" in caught.value.fix


def test_this_machine_is_seen() -> None:
    machine = inspect_machine()
    assert machine.cores == count_usable_cores() >= 1
    assert 0 < machine.available_bytes <= machine.memory_bytes
    assert machine.processor


@pytest.mark.parametrize(("given", "expected"), [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "")])
def test_waiting_threads_do_not_spin_for_long_unless_the_user_says_so(
    given: dict[str, str], expected: str
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    others = {name: value for name, value in os.environ.items() if name not in names}
    script = "import medtask, os; print(os.environ.get('GOMP_SPINCOUNT', ''))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=others | given, capture_output=True, text=True
    )
    assert done.stdout.strip() == expected

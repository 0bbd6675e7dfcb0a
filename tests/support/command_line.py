"""What a test sees of the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandResult:
    code: int
    out: str
    err: str


RunCommand = Callable[..., CommandResult]


def time_signal(
    arguments: Sequence[str], text: str, number: signal.Signals, delay_s: float = 0.0
) -> tuple[int, float]:
    """Start a command, and send it a signal once it has written a text to standard error.

    Returns:
        Its exit code, and the seconds from the signal to its end.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "medtask", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any(text in line for line in process.stderr)
        time.sleep(delay_s)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=60)
        return process.returncode, time.monotonic() - began

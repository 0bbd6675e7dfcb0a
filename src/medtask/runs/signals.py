"""Signals that ask a run to stop, turned into an exception that lets it put its affairs in
order.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# SIGUSR1 is what Slurm can be told to send a few minutes before it ends a job.
_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


class Interrupted(KeyboardInterrupt):
    """No Exception, so that libraries that survive errors of all kinds do not survive this one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = _get_exit_code(number)


def _get_exit_code(number: int) -> int:
    return 130 if number == signal.SIGINT else 143


@dataclass(slots=True)
class SignalState:
    """The first signal that came, if any."""

    number: int | None = None

    @property
    def exit_code(self) -> int:
        """What the process should leave with; 0 where none came."""
        return 0 if self.number is None else _get_exit_code(self.number)

    def raise_if_caught(self) -> None:
        """Raise Interrupted if a signal came. The one that its handler raised can get lost in a
        finalizer.
        """
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def catch_signals(*, raising: bool = True) -> Iterator[SignalState]:
    """Raise Interrupted in the block at the first SIGINT, SIGTERM or SIGUSR1; end the process at
    the second.

    Not ``raising``: the first is only noted, for a block that looks for it where it can stop in
    good order.

    In the main thread only: Python delivers signals to no other, and elsewhere this does nothing.
    """
    state = SignalState()

    def handle(number: int, frame: FrameType | None) -> None:
        if state.number is not None:
            os._exit(_get_exit_code(number))
        state.number = number
        if raising:
            raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    numbers = [getattr(signal, name) for name in _SIGNAL_NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Signals that stop a run, turned into an exception so that it can shut down in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# Slurm can be configured to send SIGUSR1 a few minutes before it ends a job.
_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


class Interrupted(KeyboardInterrupt):
    """Not a subclass of Exception, so that libraries that catch Exception do not swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = _get_exit_code(number)


def _get_exit_code(number: int) -> int:
    return 130 if number == signal.SIGINT else 143


@dataclass(slots=True)
class SignalState:
    """The first signal received, if any."""

    number: int | None = None

    @property
    def exit_code(self) -> int:
        """The exit code for the process; 0 without a signal."""
        return 0 if self.number is None else _get_exit_code(self.number)

    def raise_if_caught(self) -> None:
        """Raise Interrupted after a signal; an exception from the handler can be lost in a
        finalizer.
        """
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def catch_signals(*, raising: bool = True) -> Iterator[SignalState]:
    """Raise Interrupted at the first SIGINT, SIGTERM or SIGUSR1; end the process at the second.

    Without ``raising``, the first signal is only recorded, for blocks that check for it. Outside
    the main thread this does nothing, because Python delivers signals to the main thread only.
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

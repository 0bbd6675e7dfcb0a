"""Signals that stop a command: an orderly end within seconds, and an immediate one on request."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from medtask.errors import MedtaskError

# Slurm can be configured to send SIGUSR1 or SIGUSR2 a few minutes before it ends a job.
_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
SHUTDOWN_SECONDS = 4.0  # commands end within 5 seconds, also on a busy machine
# `timeout` and some shells send one request twice, to the process and to its group.
_REPEAT_SECONDS = 0.1
_STOPPED_TEXT = (
    "stopped in the middle of a computation; what was saved before is kept: run the same command "
    "again to continue"
)


class Interrupted(KeyboardInterrupt):
    """Not a subclass of Exception, so that libraries that catch Exception do not swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = _get_exit_code(number)


def _get_exit_code(number: int) -> int:
    return 130 if number == signal.SIGINT else 143


@dataclass(slots=True)
class SignalState:
    """The first signal received, if any, and when it was received by `time.monotonic`."""

    number: int | None = None
    received: float = 0.0

    @property
    def exit_code(self) -> int:
        """The exit code for the process; 0 without a signal."""
        return 0 if self.number is None else _get_exit_code(self.number)

    def find_exit_code(self, error: BaseException) -> int:
        """The exit code if ``error`` comes from a signal, otherwise 0.

        Libraries turn a signal into other errors: an interrupted import into ImportError.
        """
        if isinstance(error, Interrupted):
            return error.exit_code
        return 0 if isinstance(error, MedtaskError) else self.exit_code

    def raise_if_caught(self) -> None:
        """Raise Interrupted after a signal; an exception from the handler can be lost in a
        finalizer.
        """
        if self.number is not None:
            raise Interrupted(self.number)

    def add(self, number: int) -> bool:
        """Record a signal; returns whether it is a second request to stop."""
        now = time.monotonic()
        if self.number is None:
            self.number, self.received = number, now
            return False
        return now - self.received > _REPEAT_SECONDS


@contextmanager
def catch_signals(*, raising: bool = True) -> Iterator[SignalState]:
    """Raise Interrupted at the first signal that asks the process to stop, and at later ones.

    Without ``raising``, the first signal is only recorded, for blocks that check for it. Outside
    the main thread this does nothing, because Python delivers signals to the main thread only.
    """
    state = SignalState()

    def handle(number: int, frame: FrameType | None) -> None:
        first = state.number is None
        if state.add(number) or (first and raising):
            raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = {number: signal.signal(number, handle) for number in _list_signals()}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class TimeLimitReached(BaseException):
    """Not a subclass of Exception, so that libraries that catch Exception do not swallow it."""


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """Raise TimeLimitReached in the block after some seconds, unless it has ended.

    The exception can be raised at any place of the block, as after a signal. Outside the main
    thread and on systems without timers there is no limit.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeLimitReached

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    try:
        # It is raised again until the block ends: an exception in a finalizer is lost.
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _list_signals() -> list[int]:
    return [getattr(signal, name) for name in _SIGNAL_NAMES if hasattr(signal, name)]


@dataclass(slots=True)
class _ShutdownWatch:
    """Ends the process from another thread: at the second signal, or after a limit.

    Python runs signal handlers in the main thread, and only after the C function that it executes
    has returned: a fit or a matrix product can take minutes. The interpreter writes the number of
    each signal to the wakeup socket at once.
    """

    limit_s: float
    state: SignalState = field(default_factory=SignalState)

    def watch(self, receiver: socket.socket) -> None:
        """Wait for signals until the other end of the socket is closed."""
        watched = set(_list_signals())
        with receiver:
            while numbers := self._receive(receiver):
                for number in numbers:
                    if number in watched and self.state.add(number):
                        _end_process(_get_exit_code(number))

    def _receive(self, receiver: socket.socket) -> bytes:
        while True:
            remaining = None
            if self.state.number is not None:
                remaining = self.state.received + self.limit_s - time.monotonic()
                if remaining <= 0:
                    _end_process(self.state.exit_code, _STOPPED_TEXT)
            if select.select([receiver], [], [], remaining)[0]:
                return receiver.recv(64)


def _end_process(exit_code: int, text: str = "") -> None:
    # The main thread may hold the locks of sys.stderr, so that the file is written directly.
    with suppress(OSError, ValueError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
        if text:
            os.write(2, f"{text}\n".encode())
    os._exit(exit_code)


_active_watches: list[_ShutdownWatch] = []


@contextmanager
def limit_shutdown(limit_s: float = SHUTDOWN_SECONDS) -> Iterator[SignalState]:
    """End the process at a second signal, or if it still runs ``limit_s`` after the first one.

    Yields the signals that were received.

    For processes that belong to one command. What must survive is written to disk before: ledgers,
    checkpoints, and files that are replaced atomically.
    """
    if threading.current_thread() is not threading.main_thread():
        yield SignalState()
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_stop_reporting_signals)
    watch = _ShutdownWatch(limit_s)
    _active_watches.append(watch)
    threading.Thread(target=watch.watch, args=(receiver,), daemon=True).start()
    try:
        yield watch.state
    finally:
        # After a signal, the end of the interpreter is limited too.
        if watch.state.number is None:
            signal.set_wakeup_fd(before)
            sender.close()
            _active_watches.remove(watch)


def _stop_reporting_signals() -> None:
    """A forked child must not report its signals to this process."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)


def extend_shutdown(limit_s: float) -> None:
    """Let a command whose processes and connections need longer end within ``limit_s`` seconds."""
    for watch in _active_watches:
        watch.limit_s = limit_s


def resume_after_signal() -> None:
    """Forget a signal that did not ask the command to stop, such as Ctrl-C at a prompt."""
    for watch in _active_watches:
        watch.state.number = None

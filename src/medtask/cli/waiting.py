"""Lines on standard error while a command works and prints nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medtask.cli import console as show
from medtask.display import format_clock

FIRST_LINE_S = 0.8
"""Silence after which the activity is named for the first time."""

LINE_INTERVAL_S = 10.0
"""Silence after which a line says that the activity goes on."""

Activity = str | Callable[[], str]


class _Current:
    """What the command does; None if it shows its progress by itself."""

    activity: Activity | None = None
    since = 0.0
    is_named = False


_lock = threading.Lock()


def set_activity(activity: Activity | None, *, is_printed: bool = False) -> None:
    """Name what is done from here on.

    Args:
        activity: A text such as "Loading minilm", or a function that returns a line on the
            progress; None if there is other output.
        is_printed: Whether the text has been printed, so that it need not be named.
    """
    with _lock:
        _Current.activity, _Current.is_named = activity, is_printed
        _Current.since = time.monotonic()


@contextmanager
def name_activity(activity: Activity) -> Iterator[None]:
    """Name what is done in a block."""
    before = _Current.activity
    set_activity(activity)
    try:
        yield
    finally:
        set_activity(before)


@contextmanager
def print_waiting_lines(activity: str) -> Iterator[None]:
    """Print what is done whenever nothing else has been printed for some seconds."""
    set_activity(activity)
    show.mark_output()
    ended = threading.Event()
    thread = threading.Thread(target=_print_lines, args=[ended], daemon=True, name="waiting")
    thread.start()
    try:
        yield
    finally:
        set_activity(None)
        ended.set()
        thread.join()


def _print_lines(ended: threading.Event) -> None:
    while not ended.wait(0.1):
        with _lock:
            activity = _Current.activity
            is_named, since = _Current.is_named, _Current.since
            limit = LINE_INTERVAL_S if is_named else FIRST_LINE_S
            is_due = time.monotonic() - max(show.last_output(), since) >= limit
            if activity is None or not is_due:
                continue
            _Current.is_named = True
        if callable(activity):
            line = activity()
        elif is_named:
            line = f"{activity}: {format_clock(time.monotonic() - since)} so far"
        else:
            line = activity
        show.print_line(line, stderr=True)

from __future__ import annotations

import signal
import threading
from contextlib import suppress

import pytest

from medtask.runs.signals import Interrupted, catch_signals


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_a_signal_is_raised_where_the_run_is(number: signal.Signals, exit_code: int) -> None:
    with pytest.raises(Interrupted) as stop, catch_signals():
        signal.raise_signal(number)
    assert stop.value.exit_code == exit_code


def test_a_library_that_survives_all_errors_does_not_survive_it() -> None:
    with pytest.raises(Interrupted), catch_signals(), suppress(Exception):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_was_swallowed_is_still_known() -> None:
    with catch_signals() as signals:
        signals.raise_if_caught()
        with suppress(BaseException):  # as Python does in finalizers
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            signals.raise_if_caught()


def test_handlers_are_put_back() -> None:
    before = [
        signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    ]
    with catch_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [
        signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    ] == before


def test_other_threads_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with catch_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]

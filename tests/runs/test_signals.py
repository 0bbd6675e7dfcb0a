from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from medtask.runs.signals import (
    Interrupted,
    TimeLimitReached,
    catch_signals,
    limit_shutdown,
    limit_time,
)


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGUSR2, 143)],
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


def test_a_second_signal_is_raised_again_and_a_repetition_of_the_first_is_not() -> None:
    with catch_signals(raising=False) as signals:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # as `timeout` sends it, to a process and its group
        assert signals.exit_code == 130
        time.sleep(0.15)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


# A function in C that runs for minutes, does not hold the interpreter's lock, and is not
# interrupted by signals, as a fit or a matrix product.
# SIGINT is ignored in processes that were started in the background.
_STUCK = """
import hashlib, signal, sys
from medtask.runs.signals import catch_signals, limit_shutdown
signal.signal(signal.SIGINT, signal.default_int_handler)
with limit_shutdown(float(sys.argv[1])), {block}:
    print("started", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
"""
BLOCKS = [
    "catch_signals()",
    "catch_signals(raising=False)",
    "__import__('contextlib').nullcontext()",
]


def start_stuck_process(block: str, limit_s: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _STUCK.format(block=block), str(limit_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)  # until it is inside the function
    return process


@pytest.mark.parametrize("block", BLOCKS)
def test_a_computation_that_does_not_return_is_ended_within_the_limit(block: str) -> None:
    with start_stuck_process(block, limit_s=1.0) as process:
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert 0.9 < time.monotonic() - began < 10
    assert "run the same command again" in errors


@pytest.mark.parametrize("block", BLOCKS[:2])
def test_a_second_signal_ends_a_computation_at_once(block: str) -> None:
    with start_stuck_process(block, limit_s=60.0) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 5


def test_without_a_signal_nothing_is_ended() -> None:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with limit_shutdown(0.05):
        time.sleep(0.2)
    assert signal.set_wakeup_fd(before) == before


def test_a_signal_that_was_answered_does_not_end_the_process_later() -> None:
    script = """
import signal, time
from medtask.runs.signals import limit_shutdown, resume_after_signal
signal.signal(signal.SIGINT, signal.default_int_handler)
with limit_shutdown(0.3):
    for _ in range(3):
        try:
            signal.raise_signal(signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            time.sleep(0.05)
            resume_after_signal()
        time.sleep(0.4)
print("goes on")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_a_forked_child_does_not_report_its_signals_to_the_parent() -> None:
    script = """
import os, signal, time
from medtask.runs.signals import limit_shutdown
signal.signal(signal.SIGINT, signal.default_int_handler)
ready, started = os.pipe()
with limit_shutdown(0.2):
    child = os.fork()
    if child == 0:
        try:
            os.write(started, b"1")
            time.sleep(5)
        except KeyboardInterrupt:
            os._exit(7)
    os.read(ready, 1)
    os.kill(child, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    time.sleep(0.5)
print("goes on")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_a_block_ends_at_its_time_limit_even_if_an_exception_is_lost() -> None:
    before, start = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(TimeLimitReached), limit_time(0.05):
        with suppress(BaseException):  # as Python does in finalizers
            time.sleep(30)
        time.sleep(30)
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_block_within_its_time_limit_is_not_disturbed() -> None:
    with limit_time(0.2):
        pass
    time.sleep(0.3)


def test_a_thread_has_no_time_limit() -> None:
    def work() -> None:
        with limit_time(0.01):
            time.sleep(0.05)
        ended.append(True)

    ended: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from medtask.privacy import (
    OFFLINE_VARIABLES,
    TELEMETRY_VARIABLES,
    EgressError,
    block_network,
    disable_telemetry,
    find_unset_variables,
    is_offline,
)


def test_importing_medtask_sets_every_switch_over_what_the_environment_says() -> None:
    program = (
        "import medtask, os, sys; from medtask.privacy import TELEMETRY_VARIABLES; "
        "print(all(os.environ[n] == v for n, v in TELEMETRY_VARIABLES.items()))"
    )
    opened = dict.fromkeys(TELEMETRY_VARIABLES, "open")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **opened},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "True"


def test_an_open_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    disable_telemetry()
    assert find_unset_variables() == ()
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    assert find_unset_variables() == ("VLLM_NO_USAGE_STATS",)


@pytest.mark.parametrize("variable", OFFLINE_VARIABLES)
def test_each_offline_switch_counts(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not is_offline()
    monkeypatch.setenv(variable, "yes")
    assert is_offline()


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(("192.0.2.1", 9), timeout=1),
        lambda: socket.getaddrinfo("example.invalid", 443),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 9)),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_the_guard_refuses_and_counts_what_would_leave(reach) -> None:
    with block_network() as guard, pytest.raises(EgressError):
        reach()
    assert guard.attempts == 1


def test_the_guard_lets_the_machine_talk_to_itself() -> None:
    with block_network() as guard, socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        socket.getaddrinfo("localhost", 80)
    assert guard.attempts == 0


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_only_the_allowed_address_can_be_reached_and_no_name_looked_up() -> None:
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with far, block_network(["192.0.2.1", "2001:db8::1"]) as guard:
        with contextlib.suppress(
            OSError
        ):  # nothing routes there; what counts is that the guard does not mind
            far.connect(("192.0.2.1", 9))
        socket.getaddrinfo("192.0.2.1", 443)
        assert guard.attempts == 0
        for reach in (
            lambda: far.connect(("192.0.2.2", 9)),
            lambda: socket.getaddrinfo("example.invalid", 443),
        ):
            with pytest.raises(EgressError):
                reach()
    assert guard.attempts == 2


def test_an_inner_guard_does_not_open_what_an_outer_one_closes() -> None:
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with (
        far,
        block_network() as outer,
        block_network(["192.0.2.1"]) as inner,
        pytest.raises(EgressError),
    ):
        far.connect(("192.0.2.1", 9))
    assert (outer.attempts, inner.attempts) == (1, 0)


def test_the_guard_ends_with_its_block() -> None:
    with block_network() as guard:
        pass
    with pytest.raises(OSError):
        socket.getaddrinfo("name.invalid", 443)
    assert guard.attempts == 0

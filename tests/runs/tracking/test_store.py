"""The address of a tracking server, and whether anything may be sent to it."""

from __future__ import annotations

import pytest

from medtask.errors import UsageError
from medtask.runs.tracking.store import find_tracking_store


def refuse_look_up(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000", "http://[::1]:5000/mlflow/"])
def test_this_machine_is_fine(url: str) -> None:
    index = find_tracking_store(url, allow_remote=False, resolve=refuse_look_up)
    assert not index.remote
    assert index.display_name == url.rstrip("/")


def test_localhost_is_what_its_addresses_are() -> None:
    assert not find_tracking_store(
        "http://localhost:5000", allow_remote=False, resolve=lambda *_: ["127.0.0.1", "::1"]
    ).remote
    with pytest.raises(UsageError, match="another machine"):
        find_tracking_store(
            "http://localhost:5000", allow_remote=False, resolve=lambda *_: ["10.0.0.1"]
        )


@pytest.mark.parametrize(
    "url", ["http://10.0.0.5:5000", "https://mlflow.example.org", "http://trial:5000"]
)
def test_another_machine_needs_a_word_before_its_name_is_looked_up(url: str) -> None:
    with pytest.raises(UsageError, match="another machine") as caught:
        find_tracking_store(url, allow_remote=False, resolve=refuse_look_up)
    assert "--allow-remote" in caught.value.fix


def test_another_machine_that_is_allowed_is_known_by_its_addresses() -> None:
    index = find_tracking_store(
        "https://mlflow.example.org/x", allow_remote=True, resolve=lambda *_: ["10.0.0.5"]
    )
    assert (index.remote, index.addresses, index.by_host_name) == (True, ("10.0.0.5",), True)


def test_a_password_is_not_shown() -> None:
    index = find_tracking_store("http://me:secret@127.0.0.1:5000", allow_remote=False)
    assert "secret" not in repr(index)


@pytest.mark.parametrize(
    ("url", "resolve"),
    [
        ("http://169.254.169.254", refuse_look_up),
        ("http://metadata:80", lambda *_: ["169.254.169.254"]),
        ("http://0.0.0.0:5000", refuse_look_up),
        ("http://nowhere:80", lambda *_: []),
        ("http://8.8.8.8:5000", refuse_look_up),  # in clear text over the internet
        ("ftp://127.0.0.1", refuse_look_up),
        ("http://", refuse_look_up),
        ("http://127.0.0.1:99999", refuse_look_up),
    ],
)
def test_what_can_be_no_server_is_refused_whatever_is_allowed(url: str, resolve: object) -> None:
    with pytest.raises(UsageError):
        find_tracking_store(url, allow_remote=True, resolve=resolve)  # type: ignore[arg-type]

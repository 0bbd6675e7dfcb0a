"""`medtask serve` as a process: start, addresses, files, log, and its end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from medtask.errors import InputError, UsageError
from medtask.server.settings import ServerSettings, check_settings
from support.command_line import RunCommand
from support.server_process import ServerProcess, start_server

PASSWORD = "seven quiet lanterns"
CANARY = "Zystektomie bei Canary"


@contextmanager
def sign_in(server: ServerProcess) -> Iterator[httpx2.Client]:
    """Use the one-time link as a browser does."""
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        chosen = {"name": "Ada", "password": PASSWORD, "repeated": PASSWORD}
        assert server.link is not None
        assert client.post(server.link, data=chosen).status_code == 303
        page = client.get("/docs").text
        client.headers["X-CSRF-Token"] = page.split('name="csrf-token" content="')[1].split('"')[0]
        yield client


def use_server(server: ServerProcess) -> None:
    """Send requests with a text that must not be written anywhere."""
    with sign_in(server) as client:
        refused = client.post("/api/accounts", json={"name": CANARY, "role": CANARY})
        assert refused.status_code == 422
        for path in (f"/api/{CANARY}", f"/start/{CANARY}", f"/health?text={CANARY}"):
            client.get(path)
        metrics = client.get("/metrics").text
        assert 'medtask_requests_total{method="GET",route="/health",status="200"}' in metrics
        assert "Canary" not in metrics


def list_modes(folder: Path) -> dict[str, int]:
    """The modes of a folder and all that is in it."""
    return {
        str(path.relative_to(folder.parent)): stat.S_IMODE(path.lstat().st_mode)
        for path in [folder, *folder.rglob("*")]
    }


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "hospital.example"])
def test_an_open_address_without_encryption_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="loopback"):
        check_settings(ServerSettings(tmp_path, host=host))
    check_settings(ServerSettings(tmp_path, host=host, behind_proxy=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_a_loopback_address_needs_no_encryption(tmp_path: Path, host: str) -> None:
    check_settings(ServerSettings(tmp_path, host=host))


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="key"):
        check_settings(ServerSettings(tmp_path, tls_certificate=tmp_path / "cert.pem"))
    both = ServerSettings(tmp_path, tls_certificate=tmp_path / "c", tls_key=tmp_path / "k")
    with pytest.raises(InputError, match="not a file"):
        check_settings(both)


def test_the_command_refuses_an_open_address_with_its_exit_code(
    tmp_path: Path, medtask: RunCommand
) -> None:
    shown = medtask("serve", "--host", "0.0.0.0", "--data", tmp_path / "d")
    assert shown.code == 2
    assert "--behind-proxy" in shown.err
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_a_server_from_its_first_start_to_its_end(
    tmp_path: Path, database_url: str, medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    before = os.umask(0o022)
    try:
        with start_server(data, "--workers", "0", database_url=database_url) as server:
            listening = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True).stdout
            own = [line.split()[3] for line in listening.splitlines() if f":{server.port} " in line]
            assert own == [f"127.0.0.1:{server.port}"]
            # Generous: the tests share the machine.
            assert server.start_s < 20

            use_server(server)
            process = server.process
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 143
            assert time.monotonic() - begun < 10
            log = server.log.read_text()
            for secret in ("Canary", PASSWORD, str(server.link).rsplit("/", 1)[1]):
                assert secret not in log

        modes = list_modes(data)
        assert {name for name, mode in modes.items() if mode not in {0o600, 0o700}} == set()

        with start_server(data, "--workers", "0", database_url=database_url) as again:
            assert again.link is None
    finally:
        os.umask(before)
    verify = ("serve", "--verify-audit", "--data", data)
    monkeypatch.setenv("MEDTASK_DB", database_url)
    shown = medtask(*verify)
    assert (shown.code, shown.out) == (0, "The audit log is complete: 4 entries.\n")
    if not database_url:
        with sqlite3.connect(data / "medtask.db") as database:
            database.execute("UPDATE audit_entries SET outcome = 'refused' WHERE number = 2")
        shown = medtask(*verify)
        assert (shown.code, shown.out) == (4, "entry 2 was changed\n")


@pytest.mark.slow
def test_a_port_in_use_is_reported(tmp_path: Path, medtask: RunCommand) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        shown = medtask("serve", "--data", tmp_path / "data", "--port", port)
    assert shown.code == 2
    assert "--port" in shown.err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_server_with_a_certificate_answers_over_tls_only(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext"
    files = ["subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--workers", "0")
    with start_server(tmp_path / "data", *options, certificate=certificate) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=certificate)
        with httpx2.Client(base_url=server.url, verify=trusted, timeout=30) as client:
            chosen = {"name": "Ada", "password": PASSWORD, "repeated": PASSWORD}
            assert server.link is not None
            cookie = client.post(server.link, data=chosen).headers["set-cookie"]
            assert "; Secure" in cookie
            assert client.get("/account").status_code == 200
        with pytest.raises(httpx2.ConnectError):  # nobody vouches for this certificate
            httpx2.get(f"{server.url}/health")
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://127.0.0.1:{server.port}/health")


def test_a_file_that_is_not_a_certificate_is_reported(tmp_path: Path, medtask: RunCommand) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("not a certificate")
    files = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    shown = medtask("serve", "--data", tmp_path / "data", *files, "--port", 0)
    assert shown.code == 4, shown.err
    assert "are not a certificate and its key" in shown.err

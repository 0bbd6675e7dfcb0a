"""The files of deploy/ have the form that their programs read, and keep what they promise.

compose-spec.json is the schema of https://github.com/compose-spec/compose-spec (Apache-2.0), commit
170098ba07d9f53c383a41bfd4c5166b0a4529a6.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCHEMA = Path(__file__).parent / "compose-spec.json"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return document


def test_the_compose_file_follows_the_specification(compose: dict[str, Any]) -> None:
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    import json

    validator = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text("utf-8")))
    assert [str(error) for error in validator.iter_errors(compose)] == []
    assert not validator.is_valid({**compose, "services": {"web": {"imagee": "x"}}})


def test_names_in_the_compose_file_exist(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"web", "worker", "db", "ollama", "model"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert set(service["networks"]) <= set(compose["networks"])
        volumes = {volume.split(":")[0] for volume in service.get("volumes", [])}
        named = {name for name in volumes if not name.startswith((".", "$"))}
        assert named <= set(compose["volumes"])
        for needed, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]


def test_only_the_server_is_reachable_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    published = {name: one["ports"] for name, one in compose["services"].items() if "ports" in one}
    assert list(published) == ["web"]
    assert all(port.startswith("127.0.0.1:") for port in published["web"])
    assert compose["networks"]["inside"] == {"internal": True}
    outside = [name for name, one in compose["services"].items() if one["networks"] != ["inside"]]
    assert outside == ["web"]


def test_no_password_is_in_the_files() -> None:
    for path in DEPLOY.iterdir():
        for name, value in re.findall(r"(\w*PASSWORD\w*)[:=] *([^\s\']+)", path.read_text("utf-8")):
            assert value.startswith(("$", "%s")), (path.name, name)
    assert ".env" in (DEPLOY / ".gitignore").read_text("utf-8").split()


def test_the_programs_of_the_server_run_without_privileges(compose: dict[str, Any]) -> None:
    for name in ("web", "worker"):
        service = compose["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "10001:10001"
        assert "no-new-privileges:true" in service["security_opt"]


def test_the_commands_of_the_compose_file_are_those_of_medtask(compose: dict[str, Any]) -> None:
    from typer.main import get_command

    from medtask.cli.main import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name in ("web", "worker"):
        verb, *options = compose["services"][name]["command"]
        known = {option for parameter in commands[verb].params for option in parameter.opts}
        assert {option.partition("=")[0] for option in options} <= known
    unit = (DEPLOY / "medtask.service").read_text("utf-8")
    verb, *words = re.findall(r"^ExecStart=\S+ (.*)$", unit, flags=re.MULTILINE)[0].split()
    known = {option for parameter in commands[verb].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "medtask.service"
    text = (DEPLOY / "medtask.service").read_text("utf-8")
    unit.write_text(text.replace("/opt/medtask/bin/medtask", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert "medtask.service" not in verified.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True, text=True
    )
    found = re.search(r"exposure level for medtask.service: ([\d.]+)", rated.stdout)
    if found is None:
        pytest.skip("this systemd-analyze does not rate files")
    assert float(found[1]) < 2.0


def test_the_script_names_its_commands_and_is_valid(tmp_path: Path) -> None:
    script = DEPLOY / "medtask.sh"
    assert subprocess.run(["sh", "-n", script]).returncode == 0
    shown = subprocess.run([script], capture_output=True, text=True)
    assert shown.returncode == 2
    assert all(f"medtask.sh {verb}" in shown.stderr for verb in ("up", "down", "test"))


def test_up_writes_a_password_that_only_its_owner_reads(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns(".env", "models"))
    recorder = tmp_path / "compose"
    recorder.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    recorder.chmod(0o755)
    for _ in range(2):
        shown = subprocess.run(
            [folder / "medtask.sh", "up"],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "MEDTASK_COMPOSE": str(recorder)},
        )
        assert shown.returncode == 0, shown.stderr
    lines = (folder / ".env").read_text().splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"MEDTASK_DB_PASSWORD=[0-9a-f]{48}", lines[0])
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    assert "up --detach --build --wait web worker db ollama" in (tmp_path / "calls").read_text()

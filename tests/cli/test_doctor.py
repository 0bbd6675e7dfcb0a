from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medtask.cli import environment as machine
from medtask.engines.fake import FakeEngine
from support.command_line import RunCommand


def test_a_sound_machine_is_found_well(medtask: RunCommand) -> None:
    outcome = medtask("doctor", "--json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["ok"] is True
    names = {finding["name"] for finding in document["findings"]}
    assert names >= {"python", "machine", "packages", "engine hf", "privacy", "downloads", "cache"}


def test_findings_are_reported_in_lines(medtask: RunCommand) -> None:
    outcome = medtask("doctor")
    assert outcome.code == 0
    assert "ok    privacy    all " in outcome.out
    assert outcome.out.endswith("Everything that a run needs is installed.\n")


def test_a_missing_package_is_bad_and_has_its_remedy(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = machine._find_version
    monkeypatch.setattr(
        machine, "_find_version", lambda package: None if package == "torch" else version(package)
    )
    outcome = medtask("doctor")
    assert outcome.code == 5
    assert "bad   engine hf  torch not installed\n" in outcome.out
    assert "fix: pip install 'medtask[hf]'" in outcome.out


def test_an_opened_telemetry_switch_is_bad(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    outcome = medtask("doctor")
    assert outcome.code == 5
    assert "telemetry is enabled by: DO_NOT_TRACK" in outcome.out


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="needs a user whom file modes bind"
)
def test_a_cache_that_cannot_be_written_is_bad(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    outcome = medtask("doctor")
    assert outcome.code == 5
    assert "set XDG_CACHE_HOME" in outcome.out


def test_a_model_is_loaded_and_tried(medtask: RunCommand) -> None:
    outcome = medtask("doctor", "--model", "fake:")
    assert outcome.code == 0
    assert "ok    score      the probabilities of 3 labels sum to 1.000000\n" in outcome.out


def test_a_model_whose_probabilities_are_no_numbers_is_bad(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtask.engines.fake.load_fake", lambda *_, **__: FakeEngine(nan=["1"]))
    outcome = medtask("doctor", "--model", "fake:")
    assert outcome.code == 5
    assert "bad   score      the probabilities of 3 labels sum to nan\n" in outcome.out


def test_a_missing_model_is_reported_with_the_remedy(medtask: RunCommand) -> None:
    outcome = medtask("doctor", "--model", "no/such/model")
    assert outcome.code == 5
    assert "bad   load       " in outcome.out

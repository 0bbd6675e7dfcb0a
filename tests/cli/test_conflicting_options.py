"""Options that would have no effect beside others are refused, with a remedy."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from support.command_line import RunCommand


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("check", "surgery", "--row", "2", "--id", "A1"), "--row and --id"),
        (("doctor", "--run", "out", "--model", "fake:"), "--model"),
        (("evaluate", "out", "--by-class"), "--by-class"),
        (("evaluate", "out", "--level", "0.9"), "--level"),
        (("evaluate", "out", "--to", "xlsx"), "--to"),
        (("evaluate", "out", "--kind", "labels"), "--kind"),
        (("export", "merged", "--verify", "merged"), "--verify"),
        (("export", "--check", "a", "b", "--out", "c"), "--check"),
        (("export", "--check", "a", "b", "--verify", "c"), "--verify"),
        (("export", "a", "--to", "merged", "--out", "b", "--public"), "--public"),
        (("export", "a", "--to", "gguf", "--out", "b", "--register", "c"), "--register"),
    ],
    ids=lambda value: "_".join(value[:1] + value[-2:]) if isinstance(value, tuple) else "",
)
def test_an_option_without_effect_is_refused(
    medtask: RunCommand, project_folder: Path, words: tuple[str, ...], problem: str
) -> None:
    assert medtask("run", "surgery", "--model", "fake:", "--out", "out", "-q").code == 0
    outcome = medtask(*words)
    assert outcome.code == 2, outcome
    assert problem in outcome.err and "fix: " in outcome.err


def test_a_run_on_ray_cannot_read_standard_input(
    medtask: RunCommand, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Path("procedures.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table)))
    outcome = medtask("run", "surgery", "-", "--model", "fake:", "--ray", "local")
    assert outcome.code == 2
    assert "standard input" in outcome.err


def test_a_dry_run_of_a_training_is_one_json_document(
    medtask: RunCommand, project_folder: Path
) -> None:
    rows = [f"B{row},operation {row},{('curative', 'staging')[row % 2]}" for row in range(30)]
    with Path("procedures.csv").open("a") as table:
        table.write("\n".join(rows))
    outcome = medtask("train", "surgery", "--method", "linear", "--dry-run", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["dry_run"]

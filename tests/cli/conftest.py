"""A user's folder with a table and a task."""

from __future__ import annotations

from pathlib import Path

import pytest

PROCEDURES_CSV = """\
case_id,procedure,purpose
A1,Total gastrectomy,curative
A2,Biliary stent,palliative
A3,,curative
A4,Biliary stent,palliative
A5,Laparoscopic staging biopsy,staging
"""
SURGERY_TASK = """\
name: surgery
instruction: Decide the main purpose of the operation.
data: ../procedures.csv
id: case_id
input: "{{ procedure }}"
gold: purpose
answer:
  kind: label
  labels:
    curative: removes the tumour with intent to cure
    palliative: relieves symptoms
    staging: finds out how far the tumour has spread
"""


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: procedures.csv, and surgery/task.yaml that names it."""
    monkeypatch.chdir(tmp_path)
    Path("procedures.csv").write_text(PROCEDURES_CSV)
    Path("surgery").mkdir()
    Path("surgery/task.yaml").write_text(SURGERY_TASK)
    return tmp_path

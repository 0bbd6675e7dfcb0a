"""Every kind of question with real forward passes: tiny random models, one of whose chat templates
refuses a system turn, and one through llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask.engines.base import Engine, EngineInfo
from medtask.engines.hf.engine import HfEngine
from medtask.engines.packed_engine import PackedEngine
from medtask.engines.registry import load_model
from medtask.errors import InputError
from medtask.exporting.export import export
from medtask.prediction.predictor import predict_uncalibrated
from medtask.records import Status
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from support.tiny_models import make_model, make_tokenizer, save_model

ROWS: list[dict[str, object]] = [
    {"text": "CT of the brain after a fall", "options": {"A": "brain", "B": "knee"}},
    {"text": "MRI of the left knee", "options": ["liver", "knee", "nose"]},
    {"text": "pain in the right wrist, no fever", "options": "A) wrist B) ear C) eye D) liver"},
]
LABELS = {"kind": "labels", "labels": ["brain", "knee", "wrist"], "at_least_one": "true"}


FAMILIES = [("llama", "chatml"), ("gemma3", "gemma"), ("qwen3", "thinking"), ("llamacpp", "")]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda param: param[0])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    family, template = request.param
    tiny = (make_model(family), make_tokenizer(template)) if template else None
    engine = (
        HfEngine(*tiny, EngineInfo("hf", family, {}), budget_tokens=256)
        if tiny
        else open_llamacpp(tmp_path_factory.mktemp("llamacpp"))
    )
    yield engine
    engine.close()


def open_llamacpp(folder: Path) -> Engine:
    pytest.importorskip("llama_cpp", reason="the llamacpp engine is not installed")
    export(
        save_model(folder / "llama", "llama"),
        to="gguf",
        quant="f16",
        out=folder / "llama.gguf",
        check=False,
    )
    engine = load_model(f"llamacpp:{folder / 'llama.gguf'}")
    assert isinstance(engine, PackedEngine)
    engine.max_input_tokens = engine.context_tokens = 512  # as that of the other models
    return engine


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Task]:
    def write_and_load(answer: dict[str, Any], **more: Any) -> Task:
        task = {"instruction": "Decide.", "input": "{{ text }}", "answer": answer, **more}
        (tmp_path / "task.json").write_text(json.dumps(task))
        return load_task(tmp_path)

    return write_and_load


@pytest.mark.parametrize(
    "reasoning", [{}, {"reasoning": {"budget": "12"}}], ids=["at once", "after thinking"]
)
@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "label", "labels": ["brain", "knee", "wrist"]},
        LABELS,
        {"kind": "choice", "options": "options"},
        {"kind": "choice", "options": "options", "readout": "text"},
        {"kind": "choice", "options": "options", "several": "true"},
    ],
    ids=lambda answer: "-".join([answer["kind"], *list(answer)[2:]]),
)
def test_what_is_scored_is_always_in_the_set(
    model: Engine, make_task: Callable[..., Task], answer: dict[str, Any], reasoning: dict[str, Any]
) -> None:
    task = make_task(answer, **reasoning)
    for given, allowed in zip(
        predict_uncalibrated(task, model, ROWS), ("AB", "ABC", "ABCD"), strict=True
    ):
        names = list(allowed) if task.kind == "choice" else [label.name for label in task.labels]
        assert given.status in (Status.OK, Status.REVIEW)
        assert set(given.value if isinstance(given.value, tuple) else [given.value]) <= set(names)
        assert given.probabilities is not None
        assert list(given.probabilities) == names
        assert (given.thoughts is None) == (task.reasoning is None)


def test_every_order_of_the_options_is_asked_and_averaged(
    model: Engine, make_task: Callable[..., Task]
) -> None:
    task = make_task({"kind": "choice", "options": "options", "debias": "permute"})
    rows = [
        {"text": "which?", "options": ["brain", "knee", "nose"]},
        {"text": "which?", "options": ["knee", "nose", "brain"]},
    ]
    one, other = (answer.probabilities or {} for answer in predict_uncalibrated(task, model, rows))
    # The same options in another order: each keeps its probability, whatever its letter. llama.cpp
    # computes in float16.
    for letter, moved in zip("ABC", "CAB", strict=True):
        assert one[letter] == pytest.approx(
            other[moved], abs=1e-4 if isinstance(model, HfEngine) else 0.02
        )


def test_text_ends_and_sections_are_taken_apart(
    model: Engine, make_task: Callable[..., Task]
) -> None:
    for sections in ("false", "true"):
        for given in predict_uncalibrated(
            make_task({"kind": "answer", "max_tokens": "12", "sections": sections}), model, ROWS
        ):
            assert given.status in (Status.OK, Status.TRUNCATED, Status.UNPARSABLE)
            assert given.text is not None
            assert given.text.startswith("<analysis>") == (sections == "true")


def test_fields_satisfy_their_schema_and_quotes_are_in_the_text(
    model: Engine, make_task: Callable[..., Task]
) -> None:
    properties = {
        "side": {"enum": ["left", "right", "both"], "quote": "true"},
        "seen": {"type": "boolean"},
        "part": {"type": "object", "properties": {"kind": {"enum": ["bone", "organ"]}}},
    }
    task = make_task(
        {
            "kind": "fields",
            "schema": {"type": "object", "properties": properties},
            "max_tokens": "100",
        }
    )
    for row, given in zip(ROWS, predict_uncalibrated(task, model, ROWS), strict=True):
        assert given.status in (Status.OK, Status.REVIEW)
        assert isinstance(given.value, dict)
        assert list(given.value) == ["side", "seen", "part"]
        assert given.value["side"] in ("left", "right", "both")
        assert given.probabilities is not None
        for field, outcomes in (("side", 3), ("seen", 2), ("part.kind", 2)):
            shares = [
                share for name, share in given.probabilities.items() if name.startswith(f"{field}=")
            ]
            assert len(shares) == outcomes
            assert sum(shares) == pytest.approx(1)
        for quote in (given.quotes or {}).values():
            assert quote.column is not None
            assert str(row[quote.column])[quote.start : quote.end] == quote.text


@pytest.mark.parametrize(
    ("gate", "reason"),
    [("head_tail", "only its beginning and its end were read"), ("chunk", "overlapping parts")],
)
def test_a_record_longer_than_the_context_is_answered_and_reports_it(
    model: Engine, make_task: Callable[..., Task], gate: str, reason: str
) -> None:
    long = " ".join(
        f"The patient was seen for pain in the left wrist on day {day}." for day in range(60)
    )
    task = make_task(LABELS, gate={"too_long": gate})
    short, given = predict_uncalibrated(task, model, [ROWS[0], {"text": long}])
    assert short.reason is None or reason not in short.reason
    assert given.reason is not None
    assert reason in given.reason
    assert isinstance(given.value, tuple)
    (refused,) = predict_uncalibrated(make_task(LABELS), model, [{"text": long}])
    assert refused.status is Status.TOO_LONG


def test_examples_that_each_row_chooses_share_what_they_can(
    model: Engine, make_task: Callable[..., Task], tmp_path: Path
) -> None:
    pool = [
        {"text": f"{word} {number}", "answer": word}
        for number in range(6)
        for word in ("brain", "knee", "wrist")
    ]
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, pool)))
    task = make_task(
        {"kind": "label", "labels": ["brain", "knee", "wrist"]},
        examples={"file": "gold.jsonl", "select": "nearest", "k": "2"},
    )
    answers = list(
        predict_uncalibrated(
            task,
            model,
            [{"text": f"the {word} {number}"} for number in range(4) for word in ("brain", "knee")],
        )
    )
    assert {answer.value for answer in answers} <= {"brain", "knee", "wrist"}
    assert sum(answer.tokens_reused for answer in answers) > 0


def test_a_budget_beyond_the_context_is_refused_before_anything_is_read(
    model: Engine, make_task: Callable[..., Task]
) -> None:
    with pytest.raises(
        InputError, match="budget under reasoning is 512 tokens, and the model's whole context 512"
    ):
        next(predict_uncalibrated(make_task(LABELS, reasoning={"budget": "512"}), model, ROWS))

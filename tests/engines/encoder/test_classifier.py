"""Encoders with a trained head: small ones that have learned something, asked through whole
tasks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the hf engine is not installed")

import medtask
from medtask.engines.encoder.classifier import EncoderClassifier
from medtask.engines.encoder.engine import EncoderEngine
from medtask.engines.encoder.load import load_encoder
from medtask.engines.model_metadata import ModelMetadata, write_model_metadata
from medtask.errors import EngineError, InputError
from medtask.records import Branch, Description, Fault, Prompt, Scores, Status
from support.tiny_encoders import save_classifier

PARTS = ("knee", "wrist", "brain")
TAGS = ("knee", "wrist", "fall")
TEXTS = [
    f"{way} of the {side} {part}{after}"
    for part in PARTS
    for way in ("MRI", "CT")
    for side in ("left", "right")
    for after in ("", " after a fall")
]
NEW_TEXTS = [
    "CT of the knee",
    "the wrist, after a fall",
    "brain",
    "MRI of the left knee and the right wrist after a fall",
]

PredictRows = Callable[..., list[medtask.Answer]]


@pytest.fixture(scope="module")
def single_label_model(tmp_path_factory: pytest.TempPathFactory) -> EncoderEngine:
    table = [[float(part in text) for part in PARTS] for text in TEXTS]
    folder = save_classifier(tmp_path_factory.mktemp("parts"), TEXTS, table, PARTS, several=False)
    write_model_metadata(folder, ModelMetadata("encoder", "label", PARTS, abstain="unclear"))
    return load_encoder(str(folder))


@pytest.fixture(scope="module")
def multi_label_model(tmp_path_factory: pytest.TempPathFactory) -> EncoderEngine:
    table = [[float(tag in text) for tag in TAGS] for text in TEXTS]
    folder = save_classifier(tmp_path_factory.mktemp("tags"), TEXTS, table, TAGS, several=True)
    write_model_metadata(folder, ModelMetadata("encoder", "labels", TAGS))
    return load_encoder(str(folder))


@pytest.fixture
def answer_rows(tmp_path: Path) -> PredictRows:
    def predict_rows(
        model: EncoderEngine, rows: list[dict[str, object]], gate: str = "error", **form: Any
    ) -> list[medtask.Answer]:
        task = {
            "instruction": "Decide.",
            "input": "{{ text }}",
            "answer": form,
            "gate": {"too_long": gate},
        }
        (tmp_path / "task.json").write_text(json.dumps(task))
        return list(medtask.predict(medtask.load_task(tmp_path), model, rows))

    return predict_rows


def make_prompts(texts: Sequence[str], *branches: Branch) -> list[Prompt]:
    return [Prompt(f"r{row}", (), branches, text) for row, text in enumerate(texts)]


def make_label_branch(names: Sequence[str]) -> Branch:
    return Branch("", tuple(names), descriptions=tuple(map(Description, names)))


def make_yes_no_branches(names: Sequence[str]) -> list[Branch]:
    return [Branch(f"{name}: ", ("yes", "no"), descriptions=(Description(name),)) for name in names]


def compute_reference_logits(engine: EncoderEngine, texts: Sequence[str]) -> Any:
    """Each text by itself, as transformers does it."""
    import torch

    reader = engine.scorer
    assert isinstance(reader, EncoderClassifier)
    with torch.inference_mode():
        rows = [
            reader.model(**reader.tokenizer(text, return_tensors="pt")).logits[0].double().numpy()
            for text in texts
        ]
    return np.stack(rows)


def test_one_label_has_its_share_of_the_softmax(single_label_model: EncoderEngine) -> None:
    weights = np.exp(compute_reference_logits(single_label_model, NEW_TEXTS))
    shares = weights / weights.sum(axis=1, keepdims=True)
    found = {
        result.record_id: result
        for result in single_label_model.score(make_prompts(NEW_TEXTS, make_label_branch(PARTS)))
    }
    some = {
        result.record_id: result
        for result in single_label_model.score(
            make_prompts(NEW_TEXTS, make_label_branch(["brain", "unclear", "knee"]))
        )
    }
    for row, (knee, wrist, brain) in enumerate(shares):
        full, part = found[f"r{row}"], some[f"r{row}"]
        assert isinstance(full, Scores)
        assert isinstance(part, Scores)
        assert np.exp(full.branches[0].logprobs) == pytest.approx([knee, wrist, brain], abs=1e-5)
        assert full.branches[0].off_set == pytest.approx(0, abs=1e-9)
        assert np.exp(part.branches[0].logprobs) == pytest.approx(
            [brain / (brain + knee), 0, knee / (brain + knee)], abs=1e-4
        )
        assert part.branches[0].off_set == pytest.approx(wrist, abs=1e-5)


def test_each_of_several_labels_has_a_probability_of_its_own(
    multi_label_model: EncoderEngine,
) -> None:
    logits = compute_reference_logits(multi_label_model, NEW_TEXTS)
    for result in multi_label_model.score(
        make_prompts(NEW_TEXTS, *make_yes_no_branches(["fall", "knee"]))
    ):
        assert isinstance(result, Scores)
        knee, _, fall = logits[int(result.record_id[1:])]
        assert [branch.logprobs[0] for branch in result.branches] == pytest.approx(
            [-np.log1p(np.exp(-fall)), -np.log1p(np.exp(-knee))], abs=1e-4
        )
        assert all(sum(np.exp(branch.logprobs)) == pytest.approx(1) for branch in result.branches)


def test_known_rows_leave_the_numbers_of_the_others_as_they_were(
    multi_label_model: EncoderEngine,
) -> None:
    prompts = make_prompts(TEXTS, *make_yes_no_branches(TAGS))
    engine = EncoderEngine(multi_label_model.scorer, multi_label_model.info, budget_tokens=48)
    full = {
        result.record_id: result.branches
        for result in engine.score(prompts)
        if isinstance(result, Scores)
    }
    rest = {
        result.record_id: result.branches
        for result in engine.score(prompts, ["r0", "r5"])
        if isinstance(result, Scores)
    }
    assert len(full) == len(TEXTS)
    assert rest == {name: branches for name, branches in full.items() if name not in {"r0", "r5"}}


def test_it_answers_a_task_of_its_kind(
    single_label_model: EncoderEngine, multi_label_model: EncoderEngine, answer_rows: PredictRows
) -> None:
    rows: list[dict[str, object]] = [
        {"text": "MRI of the left wrist after a fall"},
        {"text": "CT of the right brain"},
    ]
    found = answer_rows(
        single_label_model, rows, kind="label", labels=["brain", "wrist", "knee"], abstain="unclear"
    )
    assert [result.value for result in found] == ["wrist", "brain"]
    assert all(result.status is Status.OK for result in found)
    found = answer_rows(multi_label_model, rows, kind="labels", labels=["fall", "wrist", "knee"])
    assert [result.value for result in found] == [("fall", "wrist"), ()]


def test_a_record_beyond_the_context_is_too_long_unless_the_task_sets_too_long(
    single_label_model: EncoderEngine, answer_rows: PredictRows
) -> None:
    rows: list[dict[str, object]] = [{"text": "MRI of the left knee after a fall " * 20}]
    (refused,) = answer_rows(single_label_model, rows, kind="label", labels=list(PARTS))
    assert refused.status is Status.TOO_LONG
    (given,) = answer_rows(
        single_label_model, rows, gate="head_tail", kind="label", labels=list(PARTS)
    )
    assert given.value in PARTS
    (fault,) = single_label_model.score(make_prompts(["knee " * 200], make_label_branch(PARTS)))
    assert fault == Fault("r0", Status.TOO_LONG, "202 tokens; the model reads at most 64")


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        (
            {"kind": "label", "labels": ["knee", "elbow"]},
            InputError,
            'was not trained on "elbow"; it knows "knee", "wrist", "brain"',
        ),
        (
            {"kind": "label", "labels": ["knee", "wrist"], "abstain": "no idea"},
            InputError,
            'was not trained on "no idea"',
        ),
        (
            {"kind": "labels", "labels": ["knee", "wrist"]},
            InputError,
            "trained for tasks of kind 'label'; this one has the kind 'labels'",
        ),
        (
            {"kind": "choice", "options": "options"},
            EngineError,
            "cannot answer questions with their own options",
        ),
        (
            {"kind": "choice", "options": "options", "several": "true"},
            EngineError,
            "with their own options",
        ),
        ({"kind": "answer"}, EngineError, "cannot write text"),
    ],
)
def test_what_the_model_was_not_trained_for_is_refused(
    single_label_model: EncoderEngine,
    answer_rows: PredictRows,
    form: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as refused:
        answer_rows(
            single_label_model, [{"text": "CT of the knee", "options": ["secret", "knee"]}], **form
        )
    assert "secret" not in str(refused.value)


def test_numbers_that_are_none_end_the_loading(
    single_label_model: EncoderEngine, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(single_label_model.info.identity["model"], tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors["classifier.bias"] += float("nan")
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    write_model_metadata(tmp_path / "broken", ModelMetadata("encoder", "label", PARTS))
    with pytest.raises(EngineError, match="1 tensor is not finite"):
        load_encoder(str(tmp_path / "broken"))


def test_it_shows_what_it_reads(single_label_model: EncoderEngine) -> None:
    (prompt,) = make_prompts(["CT of the knee"], make_label_branch(["knee", "unclear"]))
    rendering = single_label_model.render(prompt)
    assert (rendering.prompt, rendering.candidates, len(rendering.prompt_tokens)) == (
        "CT of the knee",
        ("knee", ""),
        6,
    )

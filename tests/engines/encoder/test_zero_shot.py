"""Encoders without training: similarities in the shape of probabilities, for every kind of question
that is scored.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the hf engine is not installed")

import medtask
from medtask.engines.base import EngineInfo
from medtask.engines.encoder.engine import EncoderEngine
from medtask.engines.encoder.load import load_encoder
from medtask.engines.encoder.zero_shot import (
    TEMPERATURE,
    YES_NO_MIDPOINT,
    YES_NO_SCALE,
    ZeroShotScorer,
)
from medtask.errors import EngineError
from medtask.records import Branch, Description, Fault, Prompt, Scores, Status
from medtask.similarity import find_minilm, load_sentence_encoder
from support.tiny_encoders import save_sentence_encoder

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
TEXTS = [
    "MRI of the left knee",
    "CT of the brain after a fall",
    "wrist",
    "the knee of the brain, and the left wrist",
]
LABELS = [Description("knee", "the joint of the leg"), Description("brain"), Description("wrist")]
ROWS: list[dict[str, object]] = [
    {"text": "CT of the brain after a fall", "options": {"A": "brain", "B": "knee"}},
    {"text": "MRI of the left knee", "options": ["liver", "knee", "nose"]},
]

LoadTask = Callable[..., medtask.Task]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EncoderEngine:
    folder = save_sentence_encoder(tmp_path_factory.mktemp("plain"), TEXTS)
    return EncoderEngine(
        ZeroShotScorer(load_sentence_encoder(folder), "tiny"),
        EngineInfo("encoder", "tiny", {}),
        budget_tokens=40,
    )


@pytest.fixture
def make_task(tmp_path: Path) -> LoadTask:
    def write_and_load(answer: dict[str, Any], **more: Any) -> medtask.Task:
        task = {"instruction": "Decide.", "input": "{{ text }}", "answer": answer, **more}
        (tmp_path / "task.json").write_text(json.dumps(task))
        return medtask.load_task(tmp_path)

    return write_and_load


def make_prompts(texts: Sequence[str], *branches: Branch) -> list[Prompt]:
    return [Prompt(f"r{row}", (), branches, text) for row, text in enumerate(texts)]


def make_label_branch(descriptions: Sequence[Description]) -> Branch:
    return Branch(
        "", tuple(f" {meaning.name}" for meaning in descriptions), descriptions=tuple(descriptions)
    )


def compute_similarities(
    engine: EncoderEngine, texts: Sequence[str], candidates: Sequence[str]
) -> Any:
    reader = engine.scorer
    assert isinstance(reader, ZeroShotScorer)
    one, other = (
        np.concatenate([reader.encoder.embed([row]) for row in reader.encoder.tokenize(part)])
        for part in (texts, candidates)
    )
    return one @ other.T


def test_probabilities_are_similarities_spread_by_the_stated_constants(
    engine: EncoderEngine,
) -> None:
    yes_no = [
        Branch(f"{meaning.name}: ", ("yes", "no"), descriptions=(meaning,)) for meaning in LABELS
    ]
    near = compute_similarities(engine, TEXTS, ["knee: the joint of the leg", "brain", "wrist"])
    weights = np.exp(near / TEMPERATURE)
    found = {
        result.record_id: result
        for result in engine.score(make_prompts(TEXTS, make_label_branch(LABELS), *yes_no))
    }
    for row, (text, shares) in enumerate(
        zip(TEXTS, weights / weights.sum(axis=1, keepdims=True), strict=True)
    ):
        result = found[f"r{row}"]
        assert isinstance(result, Scores)
        assert result.tokens_read == len(text.replace(",", " ,").split()) + 2
        first, *rest = result.branches
        assert np.exp(first.logprobs) == pytest.approx(shares, abs=1e-4)
        for branch, likeness in zip(rest, near[row], strict=True):
            yes, no = np.exp(branch.logprobs)
            assert yes == pytest.approx(
                1 / (1 + math.exp(-(likeness - YES_NO_MIDPOINT) / YES_NO_SCALE)), abs=1e-4
            )
            assert yes + no == pytest.approx(1)


def test_known_rows_leave_the_numbers_of_the_others_as_they_were(engine: EncoderEngine) -> None:
    prompts = make_prompts(TEXTS, make_label_branch(LABELS))
    full = {
        result.record_id: result.branches
        for result in engine.score(prompts)
        if isinstance(result, Scores)
    }
    for known in (["r0"], ["r1", "r3"], list(full)):
        rest = {
            result.record_id: result.branches
            for result in engine.score(prompts, known)
            if isinstance(result, Scores)
        }
        assert rest == {name: branches for name, branches in full.items() if name not in known}


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (
            {"kind": "label", "labels": {"brain": "the head", "knee": None}, "abstain": "unclear"},
            {"brain", "knee", "unclear"},
        ),
        (
            {"kind": "labels", "labels": ["brain", "knee"], "at_least_one": "true"},
            {"brain", "knee"},
        ),
        ({"kind": "choice", "options": "options"}, None),
        ({"kind": "choice", "options": "options", "debias": "permute"}, None),
        ({"kind": "choice", "options": "options", "several": "true"}, None),
    ],
    ids=["label", "labels", "choice", "permuted", "several"],
)
def test_every_kind_that_is_scored_is_answered(
    engine: EncoderEngine, make_task: LoadTask, answer: dict[str, Any], names: set[str] | None
) -> None:
    for given, letters in zip(
        medtask.predict(make_task(answer), engine, ROWS), ("AB", "ABC"), strict=True
    ):
        assert given.status in (Status.OK, Status.REVIEW, Status.ABSTAINED)
        assert given.probabilities is not None
        assert set(given.probabilities) == (names or set(letters))


def test_the_order_of_options_does_not_matter(engine: EncoderEngine, make_task: LoadTask) -> None:
    task = make_task({"kind": "choice", "options": "options", "debias": "permute"})
    plain = make_task({"kind": "choice", "options": "options"})
    for one, other in zip(
        medtask.predict(task, engine, ROWS), medtask.predict(plain, engine, ROWS), strict=True
    ):
        assert one.value == other.value
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            {"kind": "choice", "options": "options", "readout": "text"},
            "does not compute the likelihood",
        ),
        ({"kind": "answer"}, "cannot write text"),
        (
            {
                "kind": "fields",
                "schema": {"type": "object", "properties": {"side": {"enum": ["left", "right"]}}},
            },
            "cannot write text",
        ),
    ],
)
def test_what_an_encoder_cannot_do_is_refused_with_a_remedy(
    engine: EncoderEngine, make_task: LoadTask, answer: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message) as refused:
        list(medtask.predict(make_task(answer), engine, ROWS))
    assert refused.value.fix


def test_candidates_without_meaning_are_refused_with_engines_that_can(
    engine: EncoderEngine,
) -> None:
    with pytest.raises(
        EngineError, match="does not know what the candidates of this question mean"
    ) as refused:
        list(engine.score(make_prompts(TEXTS, Branch("", ("yes", "no")))))
    assert "hf" in refused.value.fix
    assert list(engine.score(make_prompts(["knee"]))) == [Scores("r0", ())]


def test_a_text_or_a_candidate_beyond_the_context_is_too_long(engine: EncoderEngine) -> None:
    (text,) = engine.score(make_prompts(["knee " * 63], make_label_branch(LABELS)))
    (candidate,) = engine.score(
        make_prompts(["knee"], make_label_branch([Description("knee"), Description("of " * 80)]))
    )
    assert text == Fault("r0", Status.TOO_LONG, "65 tokens; the model reads at most 64")
    assert candidate == Fault(
        "r0", Status.TOO_LONG, "a candidate has 82 tokens; the model reads at most 64"
    )
    assert (
        list(engine.score(make_prompts(["knee " * 63], make_label_branch(LABELS)), cached=["r0"]))
        == []
    )
    (full,) = engine.score(make_prompts(["knee " * 62], make_label_branch(LABELS)))
    assert isinstance(full, Scores)


@pytest.mark.parametrize(
    ("gate", "reason"),
    [("head_tail", "its beginning and its end"), ("chunk", r"read in \d+ overlapping parts")],
)
def test_a_long_record_is_read_in_parts_whatever_the_instruction_takes(
    engine: EncoderEngine, make_task: LoadTask, gate: str, reason: str
) -> None:
    answer = {"kind": "label", "labels": ["knee", "brain"]}
    task = make_task(answer, gate={"too_long": gate}, instruction="Decide with great care. " * 40)
    (given,) = medtask.predict(
        task, engine, [{"text": "the left knee and the brain after a fall " * 30}]
    )
    assert given.status in (Status.OK, Status.REVIEW)
    assert given.reason is not None
    assert re.search(reason, given.reason)
    # What was read fills the model's context, as far as a text can be cut by its characters.
    parts = 1 if gate == "head_tail" else int(given.reason.split(" overlapping")[0].split()[-1])
    assert 40 <= given.tokens_read / parts <= 64


def test_it_shows_what_it_reads_and_counts_its_tokens(engine: EncoderEngine) -> None:
    (prompt,) = make_prompts(["MRI of the knee"], make_label_branch(LABELS))
    rendering = engine.render(prompt)
    assert (rendering.prompt, rendering.candidates) == (
        "MRI of the knee",
        ("knee: the joint of the leg", "brain", "wrist"),
    )
    assert len(rendering.prompt_tokens) == 6
    plan = engine.plan([prompt])
    assert (plan.shared_tokens, plan.own_tokens, plan.max_input_tokens, plan.text_only) == (
        0,
        (6,),
        64,
        True,
    )
    (asked,) = make_prompts(["knee"], Branch("knee: ", ("yes", "no"), descriptions=(LABELS[0],)))
    assert engine.render(asked).candidates == ("knee: the joint of the leg", "")


@pytest.mark.slow
@pytest.mark.skipif(
    find_minilm() is None or not DATA.is_dir(), reason="MiniLM or the public sets are not here"
)
def test_minilm_reaches_the_documented_accuracy_on_real_titles(make_task: LoadTask) -> None:
    with gzip.open(DATA / "icd9_procedures" / "dev.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    task = make_task(
        {
            "kind": "label",
            "labels": json.loads((DATA / "icd9_procedures" / "labels.json").read_text()),
        }
    )
    answers = list(medtask.predict(task, load_encoder("minilm"), rows))
    right = sum(answer.value == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(0.361, abs=0.005)

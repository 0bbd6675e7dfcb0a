"""Texts on both sides of LongRoPE's limit get the numbers of separate passes."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch
import transformers as t

from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.hf.reference import generate_reference
from medtask.engines.load_options import LoadOptions
from medtask.records import Branch, Generated, Limits, Message, Prompt
from support.reference_scores import assert_scores_exact
from support.tiny_models import make_model, make_tokenizer

LIMIT = 100
LABELS = ("CT Brain", "CT Brain/Neck", "MRI knee", "MRI knee joint", "none")
SHORT, LONG = "headache after a fall", "The patient was seen for pain in the left wrist. " * 6
# In both orders: a prefix that was read for one kind of text must not be used for the other.
PROMPTS = [
    Prompt(
        str(row),
        (Message("user", f"Choose exactly one of these labels: {'; '.join(LABELS)}. {text}"),),
        (Branch("", LABELS),),
        text,
    )
    for row, text in enumerate((SHORT, LONG, "x", LONG[:-30], "MRI knee"))
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> HfEngine:
    folder = tmp_path_factory.mktemp("phi3")
    shape = make_model("llama").config.to_dict()
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0, 1.0, 1.5, 2.0],
        "long_factor": [3.0, 4.0, 6.0, 8.0],
        "original_max_position_embeddings": LIMIT,
    }
    names = ("architectures", "model_type", "rope_parameters", "head_dim")
    kept = {name: value for name, value in shape.items() if name not in names}
    config = t.Phi3Config(**kept, original_max_position_embeddings=LIMIT, rope_parameters=rope)
    torch.manual_seed(7)
    t.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    make_tokenizer("chatml").save_pretrained(folder)
    return load_hf(str(folder), LoadOptions(dtype="float32", device="cpu"))


def test_scores_are_those_of_one_plain_pass_per_label(engine: HfEngine) -> None:
    assert engine.packed
    lengths = [request.max_sequence_tokens for request in engine.tokenize_prompts(PROMPTS)]
    assert min(lengths) < LIMIT < max(lengths)
    assert_scores_exact(engine, PROMPTS)
    for prompt in PROMPTS:
        assert_scores_exact(engine, [prompt])


@pytest.mark.parametrize("budget_tokens", [64, 1024])
def test_texts_are_those_of_transformers(engine: HfEngine, budget_tokens: int) -> None:
    limits = Limits(max_tokens=12)
    expected = {}
    engine.model.set_attn_implementation("eager")
    for seq in engine.create_sequences(PROMPTS, limits):
        generate_reference(engine.model, seq, limits.max_tokens, lambda seq: None)
        expected[seq.record_id] = seq.get_text()
    engine.model.set_attn_implementation("medtask_packed")
    before, engine.budget_tokens = engine.budget_tokens, budget_tokens
    results = list(engine.generate(PROMPTS, limits))
    engine.budget_tokens = before
    assert all(isinstance(one, Generated) for one in results)
    assert {one.record_id: one.text for one in results} == expected

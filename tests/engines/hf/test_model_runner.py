"""Prefixes and label nodes that are read once: how many passes and tokens rows cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask.engines.hf import model_runner
from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.records import Branch, Message, Prompt, Scores
from support.tiny_models import save_model

FEW_LABELS = ("CT Brain", "CT Brain/Neck", "MRI knee")
MANY_LABELS = tuple(f"code {number}" for number in range(2000))
TEXTS = (
    "headache after a fall",
    "Ultrasound of the liver",
    "pain in the left wrist, seen on Monday",
    "MRI knee",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def load_engine(folder: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> HfEngine:
    """An engine without a cached prefix."""
    engine: HfEngine = load_hf(str(folder), LoadOptions(dtype=dtype, device="cpu"))
    engine.runner.clear_prefix()
    return engine


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each forward pass."""
    counts: list[int] = []
    run_forward_pass = model_runner.run_forward_pass

    def count_tokens(decoder: Any, forward_pass: Any) -> Any:
        counts.append(len(forward_pass.tokens))
        return run_forward_pass(decoder, forward_pass)

    monkeypatch.setattr(model_runner, "run_forward_pass", count_tokens)
    return counts


def make_prompt(text: str, labels: tuple[str, ...] = FEW_LABELS) -> Prompt:
    question = "Choose exactly one of these labels for the examination of the patient: "
    question += "; ".join(labels[:5]) + "\n\nText: "
    return Prompt(text, (Message("user", question + text),), (Branch("", labels),), text)


def score_one(engine: HfEngine, prompt: Prompt) -> Scores:
    (scores,) = engine.score([prompt])
    assert isinstance(scores, Scores)
    return scores


def test_a_single_row_after_others_of_its_task_reads_its_own_tokens_in_one_pass(
    folder: Path, passes: list[int]
) -> None:
    engine = load_engine(folder)
    expected = {
        scores.record_id: np.exp(scores.branches[0].logprobs)
        for scores in engine.score([make_prompt(text) for text in TEXTS])
    }
    engine.runner.clear_prefix()
    for number, text in enumerate(TEXTS):
        passes.clear()
        scores = score_one(engine, make_prompt(text))
        assert np.abs(np.exp(scores.branches[0].logprobs) - expected[text]).max() < 1e-4
        assert scores.tokens_read == sum(passes)
        if number >= 2:  # two rows show what rows of the task share
            assert len(passes) == 1
            assert scores.tokens_read < 48 < len(engine.render(make_prompt(text)).prompt_tokens)


def test_a_single_row_uses_the_prefix_of_a_batch(folder: Path, passes: list[int]) -> None:
    engine = load_engine(folder)
    list(engine.score([make_prompt(text) for text in TEXTS[:3]]))
    passes.clear()
    assert score_one(engine, make_prompt(TEXTS[3])).tokens_read < 48
    assert len(passes) == 1


def test_a_batch_uses_the_start_of_a_longer_prefix(folder: Path, passes: list[int]) -> None:
    engine = load_engine(folder)
    for _ in range(2):
        score_one(engine, make_prompt(TEXTS[0]))
    passes.clear()
    prompts = [make_prompt(text) for text in TEXTS]
    found = {
        scores.record_id: np.exp(scores.branches[0].logprobs) for scores in engine.score(prompts)
    }
    assert len(passes) == 1
    engine.runner.clear_prefix()
    for scores in engine.score(prompts):
        gap = np.abs(np.exp(scores.branches[0].logprobs) - found[scores.record_id])
        assert gap.max() < 1e-4


def test_a_prefix_of_another_task_is_replaced(folder: Path, passes: list[int]) -> None:
    engine = load_engine(folder)
    list(engine.score([make_prompt(text) for text in TEXTS]))
    for text in TEXTS:
        passes.clear()
        score_one(engine, make_prompt(text, MANY_LABELS[:3]))
    assert len(passes) == 1
    assert passes[0] < 48


def test_many_labels_are_read_only_as_far_as_they_matter(folder: Path, passes: list[int]) -> None:
    engine = load_engine(folder)
    passes.clear()
    scores = score_one(engine, make_prompt(TEXTS[0], MANY_LABELS))
    assert len(passes) > 1
    assert scores.branches[0].slack <= 1e-4


def test_in_bfloat16_the_rows_before_do_not_change_a_digit(folder: Path) -> None:
    engine = load_engine(folder, "bfloat16")
    first = score_one(engine, make_prompt(TEXTS[0])).branches
    for text in TEXTS[1:]:
        score_one(engine, make_prompt(text))
    assert score_one(engine, make_prompt(TEXTS[0])).branches == first

"""Scores from next-token logits against plain passes of a real architecture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch

from medtask.engines.hf.reference import score_branch_reference
from medtask.engines.tokens.chat import TokenizedBranch, tokenize_branches
from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.engines.tokens.trie import TOLERANCE
from medtask.engines.tokens.trie_scoring import Logits, LogprobQuery, score_branches
from medtask.records import BranchScores, Message, Prompt
from support.branches import BRANCHES
from support.tiny_models import make_model, make_tokenizer

TEXTS = ("headache after a fall", "x", "The patient was seen for pain in the left wrist.")


class SequentialReader:
    """Reads each sequence by itself, and remembers what it was asked."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.calls: list[Sequence[LogprobQuery]] = []

    @torch.inference_mode()
    def __call__(self, readings: Sequence[LogprobQuery]) -> list[Logits]:
        self.calls.append(readings)
        return [
            self.model(torch.tensor([reading.tokens])).logits[0, -reading.logits_to_keep :].numpy()
            for reading in readings
        ]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return make_model("llama")


@pytest.fixture(scope="module")
def questions() -> list[TokenizedBranch]:
    chat = detect_chat_format(HfTokenizer(make_tokenizer("chatml")))
    prompts = [
        Prompt(text, (Message("user", f"What is it?\n\nText: {text}"),), (), text) for text in TEXTS
    ]
    return tokenize_branches(chat, [(prompt, branch) for prompt in prompts for branch in BRANCHES])


def assert_close(found: BranchScores, plain: BranchScores) -> None:
    assert np.exp(found.logprobs) == pytest.approx(np.exp(plain.logprobs), abs=TOLERANCE + 1e-5)
    assert found.off_set == pytest.approx(plain.off_set, abs=1e-5)
    assert np.abs(np.exp(found.logprobs) - np.exp(plain.logprobs)).max() <= found.slack + 1e-5


def test_questions_read_together_score_as_plain_passes_do(
    model: torch.nn.Module, questions: list[TokenizedBranch]
) -> None:
    read = SequentialReader(model)
    for question, found in zip(questions, score_branches(questions, read), strict=True):
        assert_close(found, score_branch_reference(model, question)[0])
    assert len(read.calls) > 1, (
        "no branching below the first one was read: the descent is not tested"
    )


def test_each_level_goes_on_where_an_earlier_one_ended(
    model: torch.nn.Module, questions: list[TokenizedBranch]
) -> None:
    read = SequentialReader(model)
    score_branches(questions, read)
    seen: set[tuple[int, ...]] = set()
    for readings in read.calls:
        assert all(
            not reading.parent_length or reading.tokens[: reading.parent_length] in seen
            for reading in readings
        )
        assert all(
            0 < reading.logits_to_keep <= len(reading.tokens) - reading.parent_length
            for reading in readings
        )
        seen.update(reading.tokens for reading in readings)


def test_a_branching_that_cannot_matter_is_not_read(questions: list[TokenizedBranch]) -> None:
    def read(readings: Sequence[LogprobQuery]) -> list[Logits]:
        """All the mass is on the first token of the last label."""
        logits = [
            np.full((reading.logits_to_keep, 420), -30.0, dtype=np.float32) for reading in readings
        ]
        for row in logits:
            row[:, questions[0].trie.tokens[-1]] = 0  # type: ignore[union-attr]
        calls.append(len(readings))
        return logits

    calls: list[int] = []
    (scores,) = score_branches(questions[:1], read)
    assert calls == [1]
    assert np.exp(scores.logprobs).sum() == pytest.approx(1)
    assert 0 < scores.slack < TOLERANCE


def test_numbers_that_are_none_stay_none(questions: list[TokenizedBranch]) -> None:
    nothing = np.full((64, 420), np.nan, dtype=np.float32)
    found = score_branches(
        questions[:4], lambda readings: [nothing[: reading.logits_to_keep] for reading in readings]
    )
    assert all(np.isnan(scores.off_set) and np.isnan(scores.logprobs).any() for scores in found)

from __future__ import annotations

import math

import numpy as np
import pytest

from medtask.engines.decoding.constraints import GrammarConstraint
from medtask.engines.decoding.sequence import DecodingSequence, StopConditions
from medtask.engines.decoding.token_selection import NumpyLogits, advance_sequences
from medtask.records import Fault, Generated, Limits, Message, Prompt

LOGITS = np.array([2.0, 1.0, 0.0, -1.0, -30.0, -np.inf], dtype=np.float32)


class LetterTokenizer:
    """Token 0 is written "a", token 1 "b", and so on."""

    def decode(self, tokens: list[int], *, keep_special_tokens: bool = False) -> str:
        return "".join(chr(ord("a") + token) for token in tokens)


class FixedMask:
    """Replaces llguidance: always allows the tokens whose bits are set."""

    def __init__(self, *tokens: int) -> None:
        self.bits = sum(1 << token for token in tokens)

    def is_stopped(self) -> bool:
        return False

    def is_error(self) -> bool:
        return False

    def consume_token(self, token: int) -> None:
        assert self.bits >> token & 1

    def unsafe_compute_mask_ptr(self, pointer: int, size: int) -> None:
        import ctypes

        ctypes.memmove(pointer, self.bits.to_bytes(size, "little"), size)


def make_draft(row: str = "1", mask: FixedMask | None = None, **limits: object) -> DecodingSequence:
    prompt = Prompt(row, (Message("user", "?"),), (), "")
    draft = DecodingSequence(
        prompt, (9,), Limits(1, **limits), StopConditions(frozenset({3}), ()), LetterTokenizer()
    )  # type: ignore[arg-type]
    if mask:
        draft.set_constraint(GrammarConstraint(mask, len(LOGITS)))
    return draft


def finish_draft(draft: DecodingSequence) -> Generated:
    result = draft.to_result()
    assert isinstance(result, Generated)
    return result


def test_the_likeliest_token_is_taken_with_its_probability_over_the_whole_vocabulary() -> None:
    drafts = [make_draft(), make_draft()]
    advance_sequences(drafts, NumpyLogits(np.stack((LOGITS, LOGITS[::-1] + 100))))
    full = math.log(sum(math.exp(value) for value in LOGITS))
    assert [finish_draft(draft).text for draft in drafts] == ["a", "f"]
    assert [finish_draft(draft).logprob for draft in drafts] == pytest.approx(
        [2 - full] * 2, abs=1e-5
    )


def test_a_constraint_moves_the_choice_and_not_the_probability() -> None:
    drafts = [make_draft(mask=FixedMask(1, 2)), make_draft(mask=FixedMask(4))]
    advance_sequences(drafts, NumpyLogits(np.stack((LOGITS, LOGITS))))
    full = math.log(sum(math.exp(value) for value in LOGITS))
    assert [finish_draft(draft).text for draft in drafts] == ["b", "e"]
    assert [finish_draft(draft).logprob for draft in drafts] == pytest.approx(
        [1 - full, -30 - full], abs=1e-5
    )


def test_tokens_are_drawn_among_those_that_are_allowed_and_repeatably() -> None:
    def draw(seed: int, only: FixedMask | None) -> str:
        draft = make_draft(mask=only, temperature=1.0, seed=seed)
        advance_sequences([draft], NumpyLogits(LOGITS[None]))
        return finish_draft(draft).text

    free = [draw(seed, None) for seed in range(60)]
    assert free == [draw(seed, None) for seed in range(60)]
    assert {"a", "b", "c"} <= set(free)
    assert {draw(seed, FixedMask(1, 2)) for seed in range(60)} == {"b", "c"}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_numbers_that_are_none_fail_the_row_alone(broken: float) -> None:
    logits = np.stack((LOGITS, LOGITS))
    logits[0, 2] = broken
    drafts = [make_draft(), make_draft()]
    advance_sequences(drafts, NumpyLogits(logits))
    assert isinstance(drafts[0].to_result(), Fault)
    assert finish_draft(drafts[1]).text == "a"

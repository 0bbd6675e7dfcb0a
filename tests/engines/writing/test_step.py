from __future__ import annotations

import math

import numpy as np
import pytest

from medtask.engines.writing.constrain import Constraint
from medtask.engines.writing.draft import Draft, Ends
from medtask.engines.writing.step import go_on
from medtask.records import Fault, Generated, Limits, Message, Prompt

LOGITS = np.array([2.0, 1.0, 0.0, -1.0, -30.0, -np.inf], dtype=np.float32)


class Letters:
    """Token 0 is written "a", token 1 "b", and so on."""

    def decode(self, tokens: list[int], *, specials: bool = False) -> str:
        return "".join(chr(ord("a") + token) for token in tokens)


class Only:
    """Stands in for llguidance: allows the tokens whose bits are set, for ever."""

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


def begin(row: str = "1", only: Only | None = None, **limits: object) -> Draft:
    prompt = Prompt(row, (Message("user", "?"),), (), "")
    draft = Draft(prompt, (9,), Limits(1, **limits), Ends(frozenset({3}), ()), Letters())  # type: ignore[arg-type]
    if only:
        draft.hold_to(Constraint(only, len(LOGITS)))
    return draft


def finish(draft: Draft) -> Generated:
    result = draft.finish()
    assert isinstance(result, Generated)
    return result


def test_the_likeliest_token_is_taken_with_its_probability_over_the_whole_vocabulary() -> None:
    drafts = [begin(), begin()]
    go_on(drafts, np.stack((LOGITS, LOGITS[::-1] + 100)))
    whole = math.log(sum(math.exp(value) for value in LOGITS))
    assert [finish(draft).text for draft in drafts] == ["a", "f"]
    assert [finish(draft).logprob for draft in drafts] == pytest.approx([2 - whole] * 2, abs=1e-5)


def test_a_constraint_moves_the_choice_and_not_the_probability() -> None:
    drafts = [begin(only=Only(1, 2)), begin(only=Only(4))]
    go_on(drafts, np.stack((LOGITS, LOGITS)))
    whole = math.log(sum(math.exp(value) for value in LOGITS))
    assert [finish(draft).text for draft in drafts] == ["b", "e"]
    assert [finish(draft).logprob for draft in drafts] == pytest.approx(
        [1 - whole, -30 - whole], abs=1e-5
    )


def test_tokens_are_drawn_among_those_that_are_allowed_and_repeatably() -> None:
    def draw(seed: int, only: Only | None) -> str:
        draft = begin(only=only, temperature=1.0, seed=seed)
        go_on([draft], LOGITS[None])
        return finish(draft).text

    free = [draw(seed, None) for seed in range(60)]
    assert free == [draw(seed, None) for seed in range(60)]
    assert {"a", "b", "c"} <= set(free)
    assert {draw(seed, Only(1, 2)) for seed in range(60)} == {"b", "c"}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_numbers_that_are_none_fail_the_row_alone(broken: float) -> None:
    logits = np.stack((LOGITS, LOGITS))
    logits[0, 2] = broken
    drafts = [begin(), begin()]
    go_on(drafts, logits)
    assert isinstance(drafts[0].finish(), Fault)
    assert finish(drafts[1]).text == "a"

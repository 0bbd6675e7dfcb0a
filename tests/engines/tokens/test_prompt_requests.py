"""Which prompts are read together."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask.engines.tokens.chat import tokenize_branches
from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.prompt_requests import (
    PromptRequest,
    group_requests,
    make_prompt_request,
    split_into_packs,
)
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.records import Branch, Message, Prompt
from support.tiny_models import make_tokenizer

CHAT = detect_chat_format(HfTokenizer(make_tokenizer("chatml")))
HEAD = "Choose exactly one of these labels:\n- CT Brain\n- MRI knee\n\n"
LONG = ("Operations on the eye " * 8, "Operations on the ear " * 8, "Operations on the nose " * 8)


def make_requests(*examples: str, text: str = "headache") -> list[PromptRequest]:
    """One unit for each example before the question."""
    units = []
    for row, example in enumerate(examples):
        turns = (
            Message("user", f"{HEAD}{example}"),
            Message("assistant", "CT Brain"),
            Message("user", f"{text} {row}"),
        )
        prompt = Prompt(str(row), turns, (Branch("", ("CT Brain", "MRI knee")),), text)
        units.append(
            make_prompt_request(
                prompt, tokenize_branches(CHAT, [(prompt, branch) for branch in prompt.branches])
            )
        )
    return units


def list_record_ids(units: tuple[PromptRequest, ...]) -> list[str]:
    return [unit.prompt.record_id for unit in units]


def test_rows_with_the_same_turns_are_a_group_and_the_largest_comes_first() -> None:
    first, second, _ = LONG
    groups = group_requests(make_requests(first, second, second, first, second))
    assert [list_record_ids(group.requests) for group in groups] == [["1", "2", "4"], ["0", "3"]]
    for group in groups:
        assert len({unit.paths[0][: group.shared_tokens] for unit in group.requests}) == 1
        assert all(
            group.shared_tokens <= unit.tokenized_branches[0].answer_position
            for unit in group.requests
        )


def test_turns_of_one_row_alone_are_not_worth_a_prefix() -> None:
    first, second, third = LONG
    groups = group_requests(make_requests(first, second, second, third))
    assert [list_record_ids(group.requests) for group in groups] == [["1", "2"], ["0", "3"]]
    assert groups[1].shared_tokens < groups[0].shared_tokens
    instruction = len(CHAT.tokenizer.encode([HEAD])[0])
    assert groups[1].shared_tokens > instruction, "what all rows begin with is shared all the same"


def test_packs_keep_to_the_budget_and_leave_nobody_out() -> None:
    (group,) = group_requests(make_requests(*[LONG[0]] * 12))
    budget = 3 * group.requests[0].count_own_tokens(group.shared_tokens) + 1
    packs = list(split_into_packs(group, budget))
    assert sorted(unit.prompt.record_id for pack in packs for unit in pack) == sorted(
        list_record_ids(group.requests)
    )
    sizes = [[unit.count_own_tokens(group.shared_tokens) for unit in pack] for pack in packs]
    assert all(sum(pack) <= budget for pack in sizes)
    assert all(
        sum(pack) + following[0] > budget for pack, following in itertools.pairwise(sizes)
    ), "a pack had room left"
    assert [len(pack) for pack in split_into_packs(group, 1)] == [1] * 12


def test_nothing_is_no_group() -> None:
    assert group_requests([]) == []

"""Which prompts are read together."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask.engines.tokens.batch import Unit, fill_packs, group_units, make_unit
from medtask.engines.tokens.chat import ask_questions, read_chat
from medtask.engines.tokens.tokenizer import HubTokenizer
from medtask.records import Branch, Message, Prompt
from tiny_models import make_tokenizer

CHAT = read_chat(HubTokenizer(make_tokenizer("chatml")))
HEAD = "Choose exactly one of these labels:\n- CT Brain\n- MRI knee\n\n"
LONG = ("Operations on the eye " * 8, "Operations on the ear " * 8, "Operations on the nose " * 8)


def make_units(*examples: str, text: str = "headache") -> list[Unit]:
    """One unit for each example that stands before the question."""
    units = []
    for row, example in enumerate(examples):
        turns = (
            Message("user", f"{HEAD}{example}"),
            Message("assistant", "CT Brain"),
            Message("user", f"{text} {row}"),
        )
        prompt = Prompt(str(row), turns, (Branch("", ("CT Brain", "MRI knee")),), text)
        units.append(
            make_unit(prompt, ask_questions(CHAT, [(prompt, branch) for branch in prompt.branches]))
        )
    return units


def ids(units: tuple[Unit, ...]) -> list[str]:
    return [unit.prompt.record_id for unit in units]


def test_rows_with_the_same_turns_are_a_group_and_the_largest_comes_first() -> None:
    first, second, _ = LONG
    groups = group_units(make_units(first, second, second, first, second))
    assert [ids(group.units) for group in groups] == [["1", "2", "4"], ["0", "3"]]
    for group in groups:
        assert len({unit.paths[0][: group.shared] for unit in group.units}) == 1
        assert all(group.shared <= unit.questions[0].ask for unit in group.units)


def test_turns_of_one_row_alone_are_not_worth_a_prefix() -> None:
    first, second, third = LONG
    groups = group_units(make_units(first, second, second, third))
    assert [ids(group.units) for group in groups] == [["1", "2"], ["0", "3"]]
    assert groups[1].shared < groups[0].shared
    instruction = len(CHAT.tokenizer.encode([HEAD])[0])
    assert groups[1].shared > instruction, "what all rows begin with is shared all the same"


def test_packs_keep_to_the_budget_and_leave_nobody_out() -> None:
    (group,) = group_units(make_units(*[LONG[0]] * 12))
    budget = 3 * group.units[0].own_tokens(group.shared) + 1
    packs = list(fill_packs(group, budget))
    assert sorted(unit.prompt.record_id for pack in packs for unit in pack) == sorted(
        ids(group.units)
    )
    sizes = [[unit.own_tokens(group.shared) for unit in pack] for pack in packs]
    assert all(sum(pack) <= budget for pack in sizes)
    assert all(
        sum(pack) + following[0] > budget for pack, following in itertools.pairwise(sizes)
    ), "a pack had room left"
    assert [len(pack) for pack in fill_packs(group, 1)] == [1] * 12


def test_nothing_is_no_group() -> None:
    assert group_units([]) == []

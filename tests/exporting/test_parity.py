"""The parity gate sees each way in which two models differ."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

from medtask.engines.base import Rendering
from medtask.errors import EngineError
from medtask.exporting.parity import (
    ModelOutputs,
    Parity,
    ParityBounds,
    compare_on_prompts,
    compare_outputs,
)
from medtask.exporting.parity_prompts import sample_prompts
from medtask.records import BranchScores, Prompt, Scores
from medtask.tables.read import read_table
from medtask.tasks.task import Label, Task

RENDERING = Rendering("text", ("a", "b"), (1, 2, 3), ((4,), (5,)))
BOUNDS = ParityBounds(agreement=0.9, kl=0.05)


def make_outputs(*shares: float, rendering: Rendering | None = RENDERING) -> ModelOutputs:
    """Outputs of a model that gives the first of two candidates these probabilities."""
    scores = {
        str(number): Scores(str(number), (BranchScores((math.log(share), math.log1p(-share))),))
        for number, share in enumerate(shares)
    }
    return ModelOutputs((rendering,) * len(shares), scores)


def test_equal_outputs_pass_without_divergence() -> None:
    outputs = make_outputs(0.9, 0.2)
    parity = compare_outputs(outputs, outputs, BOUNDS)
    assert (parity.passed, parity.agreement, parity.mean_kl, parity.questions) == (True, 1, 0, 2)


def test_the_divergence_is_that_of_kullback_and_leibler() -> None:
    parity = compare_outputs(make_outputs(0.9, 0.5), make_outputs(0.8, 0.5), BOUNDS)
    expected = sum(rel_entr([0.9, 0.1], [0.8, 0.2]))
    assert parity.max_kl == pytest.approx(expected)
    assert parity.mean_kl == pytest.approx(expected / 2)
    assert parity.passed


def test_other_answers_are_a_problem() -> None:
    parity = compare_outputs(make_outputs(0.51, 0.9), make_outputs(0.49, 0.9), BOUNDS)
    assert parity.problems == (
        "1 of 2 answers agree; 90 % are required, which is 2; of the 1 that lead by more than "
        "0.32, 100.0 %; the rows with another answer, and by how much the source's answer leads: "
        "0 (0.020)",
    )
    assert parity.differs_only_undecided
    assert not compare_outputs(make_outputs(0.9), make_outputs(0.4), BOUNDS).differs_only_undecided


def test_answers_that_lead_clearly_are_also_counted_on_their_own() -> None:
    assert BOUNDS.clear_gap == pytest.approx(0.316, abs=1e-3)
    parity = compare_outputs(
        make_outputs(0.65, 0.51, 0.9, 0.05), make_outputs(0.6, 0.49, 0.4, 0.1), BOUNDS
    )
    assert (parity.agreement, parity.clear_questions, parity.clear_agreement) == (0.5, 2, 0.5)
    undecided = compare_outputs(make_outputs(0.51), make_outputs(0.49), BOUNDS)
    assert (undecided.clear_questions, undecided.clear_agreement) == (0, None)


def test_the_rows_with_another_answer_are_named_the_clearest_first() -> None:
    parity = compare_outputs(
        make_outputs(0.51, 0.9, 0.6, *[0.55] * 8), make_outputs(0.49, 0.9, 0.4, *[0.45] * 8), BOUNDS
    )
    assert [one.row for one in parity.changed] == ["2", *"3456789", "10", "0"]
    assert parity.to_json()["changed"][0] == {"row": "2", "lead": pytest.approx(0.2)}
    assert parity.problems[0].endswith(
        "leads: 2 (0.200), 3 (0.100), 4 (0.100), 5 (0.100), "
        "6 (0.100), 7 (0.100), 8 (0.100), 9 (0.100) and 2 more"
    )


def compare_shares(
    first: list[float], second: list[float], rows: int, bounds: ParityBounds = BOUNDS
) -> tuple[Parity, list[int]]:
    """The comparison of two models by the share of the first candidate in each row of a table, and
    the numbers of rows that the reference was asked at a time.
    """
    asked: list[int] = []

    def ask(prompts: list[Prompt], shares: list[float]) -> ModelOutputs:
        found = make_outputs(*(shares[int(one.record_id)] for one in prompts))
        names = dict(zip(found.scores, (one.record_id for one in prompts), strict=True))
        scores = {
            names[key]: replace(one, record_id=names[key]) for key, one in found.scores.items()
        }
        return ModelOutputs(found.renderings, scores)

    def ask_reference(prompts: list[Prompt]) -> ModelOutputs:
        asked.append(len(prompts))
        return ask(prompts, first)

    table = [Prompt(str(number), (), (), "") for number in range(len(first))]
    parity = compare_on_prompts(
        ask_reference,
        lambda prompts: ask(prompts, second),
        lambda count, asked: [one for one in table if one.record_id not in asked][:count],
        rows,
        bounds,
    )
    return parity, asked


def test_undecided_answers_that_more_rows_may_outweigh_are_compared_on_more_rows() -> None:
    parity, asked = compare_shares([0.51, *[0.9] * 15], [0.49, *[0.9] * 15], 4)
    assert (parity.passed, parity.questions, parity.agreement, asked) == (
        True,
        16,
        15 / 16,
        [4, 12],
    )
    worse = [0.9] * 14
    parity, asked = compare_shares([0.51, 0.9, *worse], [0.49, 0.9, *worse[:-1], 0.49], 4)
    assert (parity.passed, parity.questions, asked) == (False, 16, [4, 12])


@pytest.mark.parametrize(
    ("first", "second", "case"),
    [
        ([0.51, 0.51, 0.9, 0.9], [0.49, 0.49, 0.9, 0.9], "too many"),
        ([0.9, 0.9, 0.9, 0.9], [0.49, 0.9, 0.9, 0.9], "a clear one"),
        ([0.9, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9], "none"),
    ],
)
def test_other_comparisons_end_with_the_first_rows(
    first: list[float], second: list[float], case: str
) -> None:
    rest = [0.9] * 12
    parity, asked = compare_shares([*first, *rest], [*second, *rest], 4)
    assert (parity.passed, parity.questions, asked) == (case == "none", 4, [4])


def test_a_table_without_enough_further_rows_is_not_asked_again() -> None:
    parity, asked = compare_shares([0.51, *[0.9] * 5], [0.49, *[0.9] * 5], 4)
    assert (parity.passed, parity.questions, asked) == (False, 4, [4])


def test_further_rows_of_a_table_are_others_with_the_numbers_of_their_rows() -> None:
    task = Task("task", "Decide.", "{{ text }}", labels=(Label("a", "", "a"), Label("b", "", "b")))
    table = read_table([{"text": f"text {number}"} for number in range(1, 41)])
    first = sample_prompts(task, table, 8)
    asked = {prompt.record_id for prompt in first}
    further = sample_prompts(task, table, 24, asked)
    assert (len(asked), len(further)) == (8, 24)
    assert asked.isdisjoint(prompt.record_id for prompt in further)
    for prompt in (*first, *further):
        assert prompt.text == f"text {prompt.record_id}"
    assert len(sample_prompts(task, table, 100, asked)) == 32


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.data())
def test_a_divergence_within_the_bound_closes_no_clear_lead(
    weights: list[float], data: st.DataObject
) -> None:
    others = data.draw(st.lists(st.floats(0.01, 1), min_size=len(weights), max_size=len(weights)))
    first, second = (np.log(np.array(one) / sum(one)) for one in (weights, others))
    outputs = [
        ModelOutputs((RENDERING,), {"0": Scores("0", (BranchScores(tuple(one)),))})
        for one in (first, second)
    ]
    parity = compare_outputs(*outputs, BOUNDS)
    if parity.max_kl < BOUNDS.kl and parity.clear_questions:
        assert parity.clear_agreement == 1


def test_other_probabilities_are_a_problem() -> None:
    parity = compare_outputs(make_outputs(0.9), make_outputs(0.6), BOUNDS)
    assert parity.problems == (
        "the mean divergence of the probabilities is 0.23 nats; at most 0.05 is allowed",
    )


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"prompt": "another"}, "chat template"),
        ({"candidates": ("a", "b</s>")}, "chat template"),
        ({"prompt_tokens": (1, 1, 2, 3)}, "tokenizer"),
        ({"candidate_tokens": ((4, 2), (5, 2))}, "tokenizer"),
    ],
)
def test_other_prompts_are_a_problem(change: dict[str, object], cause: str) -> None:
    other = make_outputs(0.9, rendering=replace(RENDERING, **change))
    (problem,) = compare_outputs(make_outputs(0.9), other, BOUNDS).problems
    assert cause in problem


def make_text_outputs(*lengths: float) -> ModelOutputs:
    """Outputs of a model for two long texts with these log-likelihoods."""
    scores = {"0": Scores("0", (BranchScores(lengths),))}
    return ModelOutputs((RENDERING,), scores)


def test_likelihoods_of_long_texts_are_compared_among_each_other() -> None:
    first, second = make_text_outputs(-900.0, -903.0), make_text_outputs(-900.0, -900.5)
    parity = compare_outputs(first, second, BOUNDS)
    shares = [1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-0.5))]
    assert parity.max_kl == pytest.approx(sum(rel_entr(*([one, 1 - one] for one in shares))))
    assert parity.clear_questions == 1
    assert not parity.passed
    assert compare_outputs(first, make_text_outputs(-950.0, -953.0), BOUNDS).passed


def test_unknown_prompts_are_no_problem() -> None:
    assert compare_outputs(make_outputs(0.9), make_outputs(0.9, rendering=None), BOUNDS).passed


def test_a_prompt_that_only_the_export_cannot_answer_is_a_problem() -> None:
    found = make_outputs(0.9, 0.9)
    del found.scores["1"]
    (problem,) = compare_outputs(make_outputs(0.9, 0.9), found, BOUNDS).problems
    assert problem == "1 of 2 prompts could not be answered by the export"
    assert compare_outputs(found, make_outputs(0.9, 0.9), BOUNDS).passed


def test_numbers_that_are_not_numbers_do_not_pass() -> None:
    scores = {"0": Scores("0", (BranchScores((math.nan, math.nan)),))}
    found = ModelOutputs((RENDERING,), scores)
    assert not compare_outputs(make_outputs(0.9), found, BOUNDS).passed


def test_without_any_answer_nothing_is_compared() -> None:
    nothing = ModelOutputs((RENDERING,), {})
    with pytest.raises(EngineError, match="no prompt was answered"):
        compare_outputs(nothing, nothing, BOUNDS)

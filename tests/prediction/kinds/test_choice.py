"""Options of the row, scored by their letters or their texts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from medtask.prediction.deciding import decide_answer
from medtask.prediction.engine_output import EngineOutput
from medtask.records import (
    Answer,
    Branch,
    BranchScores,
    Option,
    Prompt,
    Scores,
)
from medtask.tasks.task import (
    MultipleChoice,
    Task,
)

OPTIONS = (Option("A", "no"), Option("B", "yes"), Option("D", "a much longer text"))


def decide_choice(spec: MultipleChoice, *branches: tuple[float, ...]) -> Answer:
    task = Task("cases", "Which?", "{{ text }}", spec)
    tails = ("yes", "no") if spec.several else ("A", "B", "D")
    asked = Prompt(
        "r", (), tuple(Branch("", tails, weigh="text") for _ in branches), "a text", OPTIONS
    )
    return decide_answer(
        task,
        "r",
        EngineOutput(asked).add_output(
            Scores("r", tuple(BranchScores(logprobs) for logprobs in branches))
        ),
    )


def test_the_probabilities_of_letters_are_normalised() -> None:
    answer = decide_choice(
        MultipleChoice(("options",)), (math.log(0.01), math.log(0.02), math.log(0.01))
    )
    assert (answer.value, answer.confidence) == ("B", pytest.approx(0.5))
    assert answer.probabilities == pytest.approx({"A": 0.25, "B": 0.5, "D": 0.25})


def test_permuting_cancels_a_preference_for_a_position() -> None:
    always_first = (math.log(0.8), math.log(0.1), math.log(0.1))
    answer = decide_choice(
        MultipleChoice(("options",), debias="permute"), always_first, always_first, always_first
    )
    assert answer.probabilities == pytest.approx(dict.fromkeys("ABD", 1 / 3))


def test_permuting_keeps_a_preference_for_an_option() -> None:
    # The option "B" is at position 1, then 0, then 2 of the three orders.
    orders = [
        tuple(math.log(0.8 if place == at else 0.1) for place in range(3)) for at in (1, 0, 2)
    ]
    answer = decide_choice(MultipleChoice(("options",), debias="permute"), *orders)
    assert answer.probabilities == pytest.approx({"A": 0.1, "B": 0.8, "D": 0.1})


def test_likelihoods_of_texts_are_divided_by_their_lengths_if_normalised() -> None:
    logprobs = (-4.0, -4.0, -9.0)  # per character -2, -1.33 and -0.5
    assert (
        decide_choice(MultipleChoice(("options",), readout="text", normalise=True), logprobs).value
        == "D"
    )
    plain = decide_choice(MultipleChoice(("options",), readout="text", normalise=False), logprobs)
    assert (plain.value, plain.confidence) == ("A", pytest.approx(1 / (2 + math.exp(-5))))


def test_of_several_options_the_most_probable_is_chosen_if_at_least_one_is_right() -> None:
    shares = (0.1, 0.3, 0.2)
    branches = [(math.log(share), math.log(1 - share)) for share in shares]
    spec = MultipleChoice(("options",), several=True)
    assert decide_choice(spec, *branches).value == ()
    answer = decide_choice(replace(spec, at_least_one=True), *branches)
    assert answer.value == ("B",)
    assert answer.confidence == pytest.approx(0.9 * 0.3 * 0.8)
    certain = [(math.log(0.9), math.log(0.1)), *branches[1:]]
    assert decide_choice(replace(spec, at_least_one=True), *certain).value == ("A",)


def test_several_options_are_decided_independently() -> None:
    yes, no = (math.log(0.9), math.log(0.1)), (math.log(0.2), math.log(0.8))
    answer = decide_choice(MultipleChoice(("options",), several=True), yes, no, yes)
    assert (answer.value, answer.probabilities) == (
        ("A", "D"),
        pytest.approx({"A": 0.9, "B": 0.2, "D": 0.9}),
    )

"""What a model answers when there is nothing to read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import pytest

from medtask.engines.base import Caps
from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, UsageError
from medtask.prediction.label_prior import CONTENT_FREE_INPUTS, measure_prior
from medtask.records import BranchScores, Fault, Prompt, Scores
from medtask.tasks.task import FreeText, Gate, Label, MultiLabel, MultipleChoice, Reasoning, Task

LABELS = tuple(Label(name, "", name) for name in ("a", "b", "c"))
TASK = Task("t", "Choose.", "{{ text }}", labels=LABELS)


class PromptRecordingEngine(FakeEngine):
    """Keeps the prompts that it was asked."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.prompts: list[Prompt] = []

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        self.prompts += prompts
        return super().score(prompts, cached)


def test_shares_are_the_mean_over_inputs_without_content() -> None:
    engine = PromptRecordingEngine(prefers={"a": 0.7})
    prior = measure_prior(TASK, engine)
    assert [prompt.text for prompt in engine.prompts] == list(CONTENT_FREE_INPUTS)
    assert set(prior.by_input) == set(CONTENT_FREE_INPUTS)
    assert prior.probabilities["a"] == pytest.approx(0.7)
    assert sum(prior.probabilities.values()) == pytest.approx(1)
    for name in ("a", "b", "c"):
        assert prior.probabilities[name] == pytest.approx(
            sum(shares[name] for shares in prior.by_input.values()) / 3
        )


def test_a_gate_and_thinking_are_left_out() -> None:
    gated = replace(TASK, gate=Gate(min_words=5), reasoning=Reasoning(64))
    engine = PromptRecordingEngine()
    assert (
        measure_prior(gated, engine).probabilities
        == measure_prior(TASK, PromptRecordingEngine()).probabilities
    )
    assert engine.prompts[0].thoughts is None


def test_the_abstention_is_one_of_the_outcomes() -> None:
    prior = measure_prior(
        replace(TASK, abstain=Label("unknown", "", "unknown")), FakeEngine(prefers={"unknown": 0.9})
    )
    assert prior.probabilities["unknown"] == pytest.approx(0.9)


def test_of_several_labels_each_has_its_own_probability() -> None:
    prior = measure_prior(replace(TASK, answer_spec=MultiLabel()), FakeEngine(prefers={"yes": 0.8}))
    assert prior.probabilities == pytest.approx({"a": 0.8, "b": 0.8, "c": 0.8})


class PositionBiasedEngine(FakeEngine):
    """Gives the first place 0.6, whatever stands there; and "Option 1" a quarter of what is left,
    wherever it stands.
    """

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        for prompt in prompts:
            weights = [0.6] + [0.1] * (len(prompt.options) - 1)
            weights = [
                weight + 0.2 * (option.text == "Option 1")
                for weight, option in zip(weights, prompt.options, strict=True)
            ]
            yield Scores(prompt.record_id, (BranchScores(tuple(map(_log_share, weights))),))


def _log_share(share: float) -> float:
    from math import log

    return log(share)


@pytest.mark.parametrize("columns", [("options",), ("one", "two", "three", "four")])
def test_of_options_only_the_place_counts(columns: tuple[str, ...]) -> None:
    task = Task("t", "Choose.", "{{ text }}", answer_spec=MultipleChoice(columns))
    prior = measure_prior(task, PositionBiasedEngine())
    # "Option 1" stands at every place once in four turns.
    first, other = (0.8 / 1.1 + 3 * 0.6 / 1.1) / 4, (0.3 / 1.1 + 3 * 0.1 / 1.1) / 4
    assert prior.probabilities == pytest.approx({"A": first, "B": other, "C": other, "D": other})


def test_as_many_options_as_are_wanted() -> None:
    task = Task(
        "t", "Choose.", "{{ text }}", answer_spec=MultipleChoice(("options",), debias="permute")
    )
    assert list(measure_prior(task, FakeEngine(), option_count=6).probabilities) == list("ABCDEF")


def test_generated_answers_have_no_prior() -> None:
    with pytest.raises(UsageError, match="of the kind answer has no labels"):
        measure_prior(Task("t", "Say.", "{{ text }}", answer_spec=FreeText()), FakeEngine())


def test_a_model_without_probabilities_is_refused() -> None:
    engine = FakeEngine()
    engine.caps = Caps(score="none", choose=True)
    with pytest.raises(EngineError, match="returns no probabilities"):
        measure_prior(TASK, engine)


@pytest.mark.parametrize("trouble", ["nan", "too_long"])
def test_a_model_whose_prior_cannot_be_measured_is_refused(trouble: str) -> None:
    engine = FakeEngine(**{trouble: ["content-free 2.1"]})  # type: ignore[arg-type]
    with pytest.raises(EngineError):
        measure_prior(TASK, engine)

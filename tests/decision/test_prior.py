"""What a model answers when there is nothing to read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import pytest

from medtask.decision.prior import CONTENT_FREE, measure_prior
from medtask.engines.base import Caps
from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, UsageError
from medtask.records import BranchScores, Fault, Prompt, Scores
from medtask.tasks.task import AnyLabels, Choice, FreeText, Gate, Label, Reasoning, Task

LABELS = tuple(Label(name, "", name) for name in ("a", "b", "c"))
TASK = Task("t", "Choose.", "{{ text }}", labels=LABELS)


class Listening(FakeEngine):
    """Keeps the prompts that it was asked."""

    def __init__(self, **told: object) -> None:
        super().__init__(**told)  # type: ignore[arg-type]
        self.heard: list[Prompt] = []

    def score(
        self, prompts: Sequence[Prompt], known: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        self.heard += prompts
        return super().score(prompts, known)


def test_shares_are_the_mean_over_inputs_without_content() -> None:
    engine = Listening(prefers={"a": 0.7})
    prior = measure_prior(TASK, engine)
    assert [prompt.text for prompt in engine.heard] == list(CONTENT_FREE)
    assert set(prior.inputs) == set(CONTENT_FREE)
    assert prior.shares["a"] == pytest.approx(0.7)
    assert sum(prior.shares.values()) == pytest.approx(1)
    for name in ("a", "b", "c"):
        assert prior.shares[name] == pytest.approx(
            sum(shares[name] for shares in prior.inputs.values()) / 3
        )


def test_a_gate_and_thinking_are_left_out() -> None:
    gated = replace(TASK, gate=Gate(min_words=5), reasoning=Reasoning(64))
    engine = Listening()
    assert measure_prior(gated, engine).shares == measure_prior(TASK, Listening()).shares
    assert engine.heard[0].thoughts is None


def test_the_abstention_is_one_of_the_outcomes() -> None:
    prior = measure_prior(
        replace(TASK, abstain=Label("unknown", "", "unknown")), FakeEngine(prefers={"unknown": 0.9})
    )
    assert prior.shares["unknown"] == pytest.approx(0.9)


def test_of_several_labels_each_has_a_probability_of_its_own() -> None:
    prior = measure_prior(replace(TASK, form=AnyLabels()), FakeEngine(prefers={"yes": 0.8}))
    assert prior.shares == pytest.approx({"a": 0.8, "b": 0.8, "c": 0.8})


class PrefersPlace(FakeEngine):
    """Gives the first place 0.6, whatever stands there; and "Option 1" a quarter of what is left,
    wherever it stands.
    """

    def score(
        self, prompts: Sequence[Prompt], known: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        for prompt in prompts:
            weights = [0.6] + [0.1] * (len(prompt.options) - 1)
            weights = [
                weight + 0.2 * (option.text == "Option 1")
                for weight, option in zip(weights, prompt.options, strict=True)
            ]
            yield Scores(prompt.record_id, (BranchScores(tuple(map(_log, weights))),))


def _log(share: float) -> float:
    from math import log

    return log(share)


@pytest.mark.parametrize("columns", [("options",), ("one", "two", "three", "four")])
def test_of_options_only_the_place_counts(columns: tuple[str, ...]) -> None:
    task = Task("t", "Choose.", "{{ text }}", form=Choice(columns))
    prior = measure_prior(task, PrefersPlace())
    # "Option 1" stands at every place once in four turns.
    first, other = (0.8 / 1.1 + 3 * 0.6 / 1.1) / 4, (0.3 / 1.1 + 3 * 0.1 / 1.1) / 4
    assert prior.shares == pytest.approx({"A": first, "B": other, "C": other, "D": other})


def test_as_many_options_as_are_wanted() -> None:
    task = Task("t", "Choose.", "{{ text }}", form=Choice(("options",), debias="permute"))
    assert list(measure_prior(task, FakeEngine(), options=6).shares) == list("ABCDEF")


def test_what_is_written_has_no_prior() -> None:
    with pytest.raises(UsageError, match="of the kind answer has no labels"):
        measure_prior(Task("t", "Say.", "{{ text }}", form=FreeText()), FakeEngine())


def test_a_model_without_probabilities_is_refused() -> None:
    engine = FakeEngine()
    engine.caps = Caps(score="none", choose=True)
    with pytest.raises(EngineError, match="tells no probabilities"):
        measure_prior(TASK, engine)


@pytest.mark.parametrize("trouble", ["nan", "too_long"])
def test_a_model_that_cannot_say_is_told(trouble: str) -> None:
    engine = FakeEngine(**{trouble: ["content-free 2.1"]})  # type: ignore[arg-type]
    with pytest.raises(EngineError):
        measure_prior(TASK, engine)

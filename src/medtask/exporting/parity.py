"""The parity gate: an exported model reads the same tokens as its source, and answers alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from medtask.engines.base import Engine, Rendering
from medtask.engines.tokens.trie import log_softmax
from medtask.errors import EngineError
from medtask.records import BranchScores, Fault, Prompt, Scores

_MIN_PROBABILITY = 1e-12  # log-probabilities of candidates that an engine did not expand
# A failed comparison may continue on so many times the prompts: among 64 of them a bound of 0.99
# allows no other answer, among 256 it allows two.
EXTENSION = 4
_MAX_NAMED_ROWS = 8


@dataclass(frozen=True, slots=True)
class ParityBounds:
    """What is required of an export.

    Attributes:
        agreement: The least share of questions with the same most probable answer.
        kl: The largest mean Kullback-Leibler divergence from the source, in nats.
    """

    agreement: float
    kl: float

    @property
    def clear_gap(self) -> float:
        """The largest gap between two probabilities that a divergence of ``kl`` can close.

        Pinsker's inequality: probabilities change by at most sqrt(2 kl) in sum.
        """
        return math.sqrt(2 * self.kl)


@dataclass(frozen=True, slots=True)
class ChangedAnswer:
    """A question that the export answers differently.

    Attributes:
        row: The number of the row, from 1.
        lead: By how much the reference's answer is more probable than its second one.
    """

    row: str
    lead: float


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison of two models on the same prompts.

    Attributes:
        prompts: The number of prompts.
        questions: The number of compared distributions: one for each branch of each prompt.
        agreement: The share of questions with the same most probable answer.
        mean_kl: The mean Kullback-Leibler divergence from the reference, in nats.
        max_kl: The largest divergence.
        clear_questions: The number of questions whose two most probable answers are further apart
            than `ParityBounds.clear_gap` in the reference.
        clear_agreement: ``agreement`` among these; None without any. Nothing is required of it: it
            shows whether only answers to nearly undecided questions differ.
        bounds: What was required.
        problems: Each reason why the models are not the same, as a sentence; empty if they are.
        changed: The questions with another most probable answer, the clearest first.
    """

    prompts: int
    questions: int
    agreement: float
    mean_kl: float
    max_kl: float
    clear_questions: int
    clear_agreement: float | None
    bounds: ParityBounds
    problems: tuple[str, ...]
    changed: tuple[ChangedAnswer, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def differs_only_undecided(self) -> bool:
        """Whether it fails only by answers that were nearly undecided in the reference."""
        is_close = self.mean_kl <= self.bounds.kl and self.clear_agreement == 1
        return len(self.problems) == 1 and is_close and self.agreement < self.bounds.agreement

    def may_pass_on(self, prompts: int) -> bool:
        """Whether undecided answers alone make it fail, and are few enough for so many prompts."""
        questions = self.questions * prompts // self.prompts
        is_possible = len(self.changed) <= (1 - self.bounds.agreement) * questions
        return self.differs_only_undecided and is_possible

    def describe_changed(self) -> str:
        """The rows with another answer, to add to a sentence."""
        named = ", ".join(f"{one.row} ({one.lead:.3f})" for one in self.changed[:_MAX_NAMED_ROWS])
        more = len(self.changed) - _MAX_NAMED_ROWS
        return (
            f"; the rows with another answer, and by how much the source's answer leads: {named}"
            + (f" and {more:,} more" if more > 0 else "")
        )

    def describe_clear(self) -> str:
        """How many of the answers that lead clearly agree, to add to a sentence; "" without any."""
        if self.clear_agreement is None:
            return ""
        return (
            f"; of the {self.clear_questions:,} that lead by more than "
            f"{self.bounds.clear_gap:.2f}, {self.clear_agreement:.1%}"
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values, without texts of rows."""
        return {"passed": self.passed, **asdict(self)}


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """What a model reads and answers for the prompts of a comparison."""

    renderings: tuple[Rendering | None, ...]
    scores: Mapping[str, Scores]

    def __add__(self, more: ModelOutputs) -> ModelOutputs:
        """The outputs for the prompts of both."""
        return ModelOutputs(self.renderings + more.renderings, {**self.scores, **more.scores})


AskModel = Callable[[Sequence[Prompt]], ModelOutputs]
ChoosePrompts = Callable[[int, frozenset[str]], Sequence[Prompt]]


def compare_on_prompts(
    ask_reference: AskModel,
    ask_exported: AskModel,
    choose_prompts: ChoosePrompts,
    rows: int,
    bounds: ParityBounds,
) -> Parity:
    """Compare two models on prompts, and on more of them if only undecided answers differ.

    The bounds are the same for the larger sample, which includes the first one. It is not asked if
    it cannot pass.

    Args:
        ask_reference: Asks the reference. At most one of the two models is in memory.
        ask_exported: Asks the other model.
        choose_prompts: Returns at most so many prompts, without those with the given ids.
        rows: The number of prompts, at first.
        bounds: What is required.

    Raises:
        EngineError: No prompt was answered by both.
    """
    prompts = choose_prompts(rows, frozenset())
    reference, exported = ask_reference(prompts), ask_exported(prompts)
    parity = compare_outputs(reference, exported, bounds)
    if not parity.may_pass_on(EXTENSION * rows):
        return parity
    asked = frozenset(prompt.record_id for prompt in prompts)
    more = choose_prompts(EXTENSION * rows - len(prompts), asked)
    if not parity.may_pass_on(len(prompts) + len(more)):
        return parity
    return compare_outputs(reference + ask_reference(more), exported + ask_exported(more), bounds)


def collect_outputs(engine: Engine, prompts: Sequence[Prompt]) -> ModelOutputs:
    """Render and score prompts with branches. Raises EngineError if the model fails."""
    scores = {one.record_id: one for one in engine.score(prompts) if not isinstance(one, Fault)}
    return ModelOutputs(tuple(map(engine.render, prompts)), scores)


def compare_outputs(
    reference: ModelOutputs, exported: ModelOutputs, bounds: ParityBounds
) -> Parity:
    """Compare the outputs of two models for the same prompts.

    Raises:
        EngineError: No prompt was answered by both.
    """
    total = len(reference.renderings)
    problems = _compare_renderings(reference.renderings, exported.renderings)
    common = [name for name in reference.scores if name in exported.scores]
    questions = [
        (name, _normalize(expected), _normalize(found))
        for name in common
        for expected, found in zip(
            reference.scores[name].branches, exported.scores[name].branches, strict=True
        )
    ]
    if not questions:
        raise EngineError(
            "no prompt was answered by both models, so they cannot be compared",
            fix="name another table with --task, or leave the comparison out with --no-check",
        )
    if unread := len(reference.scores) - len(common):
        problems.append(f"{unread:,} of {total:,} prompts could not be answered by the export")
    divergences = np.array([_compute_kl(first, second) for _, first, second in questions])
    agrees = np.array([first.argmax() == second.argmax() for _, first, second in questions])
    leads = np.array([_compute_lead(first) for _, first, _ in questions])
    is_clear = leads > bounds.clear_gap
    changed = (ChangedAnswer(questions[at][0], float(leads[at])) for at in np.flatnonzero(~agrees))
    parity = Parity(
        prompts=total,
        questions=len(questions),
        agreement=float(agrees.mean()),
        mean_kl=float(divergences.mean()),
        max_kl=float(divergences.max()),
        clear_questions=int(is_clear.sum()),
        clear_agreement=float(agrees[is_clear].mean()) if is_clear.any() else None,
        bounds=bounds,
        problems=(),
        changed=tuple(sorted(changed, key=lambda one: -one.lead)),
    )
    return replace(parity, problems=(*problems, *_compare_figures(parity)))


def _compare_figures(parity: Parity) -> Iterator[str]:
    """Sentences about figures that are out of bounds."""
    bounds = parity.bounds
    if parity.agreement < bounds.agreement:
        same, least = (
            round(parity.agreement * parity.questions),
            math.ceil(bounds.agreement * parity.questions),
        )
        yield (
            f"{same:,} of {parity.questions:,} answers agree; {bounds.agreement:.0%} are required, "
            f"which is {least:,}{parity.describe_clear()}"
        ).replace("%", " %") + parity.describe_changed()
    if not parity.mean_kl <= bounds.kl:
        yield (
            f"the mean divergence of the probabilities is {parity.mean_kl:.2g} nats; at most "
            f"{bounds.kl:g} is allowed"
        )


def _compare_renderings(
    reference: Sequence[Rendering | None], exported: Sequence[Rendering | None]
) -> list[str]:
    """Sentences about prompts that the models read differently."""
    texts = tokens = 0
    for expected, found in zip(reference, exported, strict=True):
        if expected is None or found is None:
            continue
        if (expected.prompt, expected.candidates) != (found.prompt, found.candidates):
            texts += 1
        elif expected != found:
            tokens += 1
    problems = []
    if texts:
        problems.append(
            f"{texts:,} of {len(reference):,} prompts have another text: the chat template or the "
            "end of a turn differs"
        )
    if tokens:
        problems.append(
            f"{tokens:,} of {len(reference):,} prompts have other tokens: the tokenizer differs"
        )
    return problems


def _normalize(scores: BranchScores) -> np.ndarray:
    """The log-probabilities of the candidates among each other.

    Those of texts are likelihoods, whose exponentials can all be too small for a number.
    """
    return log_softmax(np.array(scores.logprobs, np.float64))


def _compute_lead(logprobs: np.ndarray) -> float:
    """The difference between the two largest probabilities; 1 for a single candidate."""
    highest = np.sort(np.exp(logprobs))[-2:]
    return float(highest[1] - highest[0]) if len(highest) == 2 else 1.0


def _compute_kl(expected: np.ndarray, found: np.ndarray) -> float:
    """KL(expected || found) of two distributions over the same candidates."""
    first = np.maximum(np.exp(expected), _MIN_PROBABILITY)
    second = np.maximum(np.exp(found), _MIN_PROBABILITY)
    first, second = first / first.sum(), second / second.sum()
    return float(np.sum(first * np.log(first / second)))

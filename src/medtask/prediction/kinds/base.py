"""`KindPrediction`: how questions of a kind are asked and decided."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from medtask.display import join_reasons
from medtask.engines.base import Engine
from medtask.errors import EngineError
from medtask.prediction.engine_output import EngineOutput, score_prompts
from medtask.prediction.probabilities import (
    OutcomeProbabilities,
    Probabilities,
    normalise_logprobs,
    summarize_branches,
)
from medtask.records import Answer, Fault, Limits, Prompt, Scores, Status
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import AnswerSpec, Review, ScoredField, Task

CAPABLE_ENGINE_FIX = (
    "choose a model of the hf, llamacpp or mlx engine (`medtask models` lists them)"
)
INVALID_SCORES = "the model gave no usable number (NaN or infinite)"
DEFAULT_THRESHOLD = 0.5
MAX_SLACK = 0.1  # a probability with a larger error bound is not reported

SpecT = TypeVar("SpecT", bound=AnswerSpec)


class KindPrediction(Generic[SpecT]):
    """Prediction for one task of a kind; by default, candidates are scored."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.spec: SpecT = task.answer_spec  # type: ignore[assignment]  # of this class's kind

    # asking

    def check_engine(self, engine: Engine) -> None:
        """Raise EngineError if the engine cannot answer this kind of question."""
        if engine.caps.score == "none" and not engine.caps.choose:
            raise EngineError(
                f"{engine.info.title} cannot be restricted to a set of answers",
                fix=CAPABLE_ENGINE_FIX,
            )

    def ask(
        self, engine: Engine, outputs: dict[str, EngineOutput]
    ) -> Iterator[EngineOutput | Fault]:
        """Ask a batch of prompts, with or without thoughts; one result each, in any order."""
        return score_prompts(engine, outputs)

    def build_limits(self) -> Limits:
        """The generation limits for the answer."""
        raise TypeError(f"answers of the kind {self.task.kind} are not written")

    def without_reordering(self) -> Task:
        """The task with its options in one order only."""
        return self.task

    # probabilities

    def to_probabilities(
        self, prompt: Prompt, scores: Scores, fields: Sequence[ScoredField] = ()
    ) -> Probabilities | None:
        """The probabilities of a prompt's outcomes; None if scores are NaN or all infinite.

        Args:
            prompt: The scored prompt.
            scores: Natural logarithms of its candidates' probabilities.
            fields: For kind ``fields``, the fields of the prompt's branches.

        Raises:
            EngineError: The engine scored other candidates than requested.
        """
        expected = [len(branch.candidates) for branch in prompt.branches]
        given = [len(branch.logprobs) for branch in scores.branches]
        if given != expected:
            raise EngineError(
                f"the engine scored {given} candidates in place of {expected}",
                fix="report this: an engine must score exactly the candidates that it is asked",
            )
        scales = get_task_kind(self.task).get_length_scales(prompt.options)
        rows = [normalise_logprobs(branch.logprobs, scales) for branch in scores.branches]
        usable = [row for row in rows if row is not None]
        off_set, slack = summarize_branches(scores.branches)
        if len(usable) < len(rows) or not math.isfinite((off_set or 0.0) + slack):
            return None
        named = self.name_probabilities(prompt, usable, fields)
        return Probabilities(named, off_set, slack)

    def name_probabilities(
        self, prompt: Prompt, rows: Sequence[Sequence[float]], fields: Sequence[ScoredField]
    ) -> OutcomeProbabilities:
        """Probabilities by outcome, from those of each branch's candidates (``rows``)."""
        return {}

    # deciding

    def decide(self, record_id: str, output: EngineOutput) -> Answer:
        """The answer from an engine's output."""
        scores = output.scores
        probabilities = self.to_probabilities(output.prompt, scores) if scores else None
        answer = self.decide_from_probabilities(record_id, probabilities)
        return drop_probabilities(answer) if scores and scores.choice_only else answer

    def decide_from_probabilities(
        self, record_id: str, probabilities: Probabilities | None
    ) -> Answer:
        """The answer from probabilities; a failed one if they are None.

        If their error bound is too large, the value is kept without probabilities.
        """
        if probabilities is None:
            return Answer(record_id, Status.FAILED, reason=INVALID_SCORES)
        if probabilities.slack <= MAX_SLACK:
            return self.choose(record_id, probabilities)
        unscored = drop_probabilities(self.choose(record_id, replace(probabilities, slack=0.0)))
        reason = join_reasons(unscored.reason, describe_slack(probabilities.slack))
        return replace(unscored, slack=probabilities.slack, reason=reason)

    def choose(self, record_id: str, probabilities: Probabilities) -> Answer:
        """The most probable outcome, the earlier one on a tie; an abstention has no value."""
        winner = max(probabilities.by_outcome, key=probabilities.by_outcome.__getitem__)
        confidence = probabilities.by_outcome[winner]
        if winner == self.task.abstain_name:
            return replace(
                self._make_answer(record_id, None, None, probabilities),
                status=Status.ABSTAINED,
                reason=describe_abstention(confidence),
            )
        return self._make_answer(record_id, winner, confidence, probabilities)

    def choose_several(
        self, record_id: str, value: tuple[str, ...], probabilities: Probabilities
    ) -> Answer:
        """The answer with outcomes that were decided independently."""
        # The probability that all of these binary decisions are correct, if they are independent.
        confidence = math.prod(
            probability if name in value else 1 - probability
            for name, probability in probabilities.by_outcome.items()
        )
        return self._make_answer(record_id, value, confidence, probabilities)

    def replace_thresholds(self, thresholds: Mapping[str, float]) -> Task | None:
        """The task with other thresholds; None for kinds without thresholds."""
        return None

    def _make_answer(
        self,
        record_id: str,
        value: str | tuple[str, ...] | None,
        confidence: float | None,
        probabilities: Probabilities,
    ) -> Answer:
        doubt = find_review_reason(self.task.review, confidence, probabilities.off_set)
        return Answer(
            record_id,
            Status.REVIEW if doubt else Status.OK,
            value=value,
            confidence=confidence,
            probabilities=probabilities.by_outcome,
            off_set=probabilities.off_set,
            slack=probabilities.slack,
            reason=doubt,
        )


def select_outcomes(
    probabilities: OutcomeProbabilities,
    thresholds: Mapping[str, float],
    at_least_one: bool,
    at_most: int | None = None,
) -> tuple[str, ...]:
    """The outcomes that reach their thresholds (0.5 if not given), in the order of the task.

    ``at_most`` and ``at_least_one`` select by the margin above the threshold, then by this order.
    """
    margins = {
        name: probability - thresholds.get(name, DEFAULT_THRESHOLD)
        for name, probability in probabilities.items()
    }
    ranked = sorted(margins, key=lambda name: -margins[name])
    chosen = [name for name in ranked if margins[name] >= 0] or ranked[: int(at_least_one)]
    kept = frozenset(chosen[:at_most])
    return tuple(name for name in probabilities if name in kept)


def require_generation(engine: Engine) -> None:
    """Raise EngineError if the engine cannot write text."""
    if not engine.caps.generate:
        raise EngineError(f"{engine.info.title} cannot write text", fix=CAPABLE_ENGINE_FIX)


def describe_abstention(probability: float) -> str:
    """The reason of an answer that abstains."""
    return f"the model chose to abstain, with probability {probability:.2f}"


def describe_slack(slack: float) -> str:
    """The note of an answer whose error bound is too large for a probability."""
    return f"no probability: the server's numbers leave {slack:.2f} of it open"


def find_review_reason(
    review: Review, confidence: float | None, off_set: float | None
) -> str | None:
    """Why a person should review the answer, with the numbers; None without a reason."""
    doubts = []
    if confidence is not None and confidence < review.confidence_below:
        doubts.append(
            f"confidence {_format_beside_bound(confidence, review.confidence_below)} is below "
            f"{review.confidence_below:g}"
        )
    if off_set is not None and off_set > review.off_set_above:
        doubts.append(
            f"{_format_beside_bound(off_set, review.off_set_above)} of the probability lay outside "
            f"the labels, more than {review.off_set_above:g}"
        )
    return "; ".join(doubts) or None


def _format_beside_bound(value: float, bound: float) -> str:
    """Two decimals, or as many as needed to show that the value differs from the bound."""
    return next(
        (text for digits in range(2, 7) if float(text := f"{value:.{digits}f}") != bound),
        repr(value),
    )


def drop_probabilities(answer: Answer) -> Answer:
    """The answer without probabilities, for an engine that returns only a choice."""
    status = Status.OK if answer.status is Status.REVIEW else answer.status
    reason = "the model chose to abstain" if status is Status.ABSTAINED else None
    return replace(
        answer,
        status=status,
        confidence=None,
        probabilities=None,
        off_set=None,
        slack=0.0,
        reason=reason,
    )

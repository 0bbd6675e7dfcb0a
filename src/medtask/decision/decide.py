"""From a model's numbers to an answer: one label or none, never an invented one."""

from __future__ import annotations

import math
from typing import Any

from medtask.errors import EngineError
from medtask.records import Answer, BranchScores, Fault, Scores, Status
from medtask.tasks.task import Review, Task


def decide(task: Task, record_id: str, outcome: Scores | Fault) -> Answer:
    """The answer that a model's scores, or the fault that came in their place, mean for one record.

    The likeliest candidate wins, the earlier one on a tie. A record whose scores hold NaN, or no finite number at
    all, fails: it gets no value and no confidence. EngineError where the engine scored other candidates than asked.
    """
    if isinstance(outcome, Fault):
        return Answer(record_id, outcome.status, reason=outcome.reason)
    cost: Any = {"ms": outcome.ms, "tokens_read": outcome.tokens_read, "tokens_reused": outcome.tokens_reused}
    branch = outcome.branches[0] if len(outcome.branches) == 1 else BranchScores(())
    if len(branch.logprobs) != len(task.candidates):
        raise EngineError(
            f"the engine scored {len(branch.logprobs)} candidates in place of {len(task.candidates)}",
            fix="report this: an engine must score exactly the candidates that it is asked",
        )
    shares = _normalise(branch.logprobs)
    if shares is None or not math.isfinite((branch.off_set or 0.0) + branch.slack):
        reason = "the model gave no usable number (NaN or infinite)"
        return Answer(record_id, Status.FAILED, reason=reason, **cost)
    best = max(range(len(shares)), key=shares.__getitem__)
    winner = task.candidates[best]
    confidence = shares[best]
    probabilities = {label.name: share for label, share in zip(task.candidates, shares, strict=True)}
    if winner is task.abstain:
        status, value = Status.ABSTAINED, None
        doubt: str | None = f"the model chose to abstain, with probability {confidence:.2f}"
    else:
        value = winner.name
        doubt = _doubt(task.review, confidence, branch.off_set)
        status = Status.REVIEW if doubt else Status.OK
    return Answer(
        record_id,
        status,
        value=value,
        confidence=confidence if value is not None else None,
        probabilities=probabilities,
        off_set=branch.off_set,
        slack=branch.slack,
        reason=doubt,
        **cost,
    )


def _normalise(logprobs: tuple[float, ...]) -> list[float] | None:
    """Probabilities that sum to 1; None where the logarithms are no numbers or rule out everything."""
    peak = max(logprobs)
    if not math.isfinite(peak) or any(map(math.isnan, logprobs)):
        return None
    weights = [math.exp(logprob - peak) for logprob in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _doubt(review: Review, confidence: float, off_set: float | None) -> str | None:
    """Why a person should look at the answer, with the figures; None where there is no reason."""
    doubts = []
    if confidence < review.confidence_below:
        doubts.append(f"confidence {_figure(confidence, review.confidence_below)} is below {review.confidence_below:g}")
    if off_set is not None and off_set > review.off_set_above:
        figure = _figure(off_set, review.off_set_above)
        doubts.append(f"{figure} of the probability lay outside the labels, more than {review.off_set_above:g}")
    return "; ".join(doubts) or None


def _figure(value: float, bound: float) -> str:
    """Two decimals, or as many as it takes to tell the value from the bound that it missed."""
    return next((text for digits in range(2, 7) if float(text := f"{value:.{digits}f}") != bound), repr(value))

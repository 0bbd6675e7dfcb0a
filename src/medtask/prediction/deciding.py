"""From an engine's output to an answer: an allowed value or none, never an invented one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medtask.prediction.engine_output import EngineOutput
from medtask.prediction.kinds import get_kind_prediction
from medtask.prediction.kinds.base import describe_abstention, find_review_reason
from medtask.prediction.probabilities import OutcomeProbabilities, Probabilities
from medtask.records import Answer, Fault, Prompt, Scores, Status
from medtask.tasks.task import ScoredField, Task


def decide_answer(task: Task, record_id: str, output: EngineOutput | Fault) -> Answer:
    """The answer that an engine's output, or a fault in its place, means for one record.

    The likeliest candidate wins, the earlier one on a tie; of several labels or options all that
    reach their thresholds. A record whose scores are NaN or all infinite fails: it gets no value.

    Raises:
        EngineError: The engine scored other candidates than asked.
    """
    if isinstance(output, Fault):
        return Answer(record_id, output.status, reason=output.reason)
    answer = get_kind_prediction(task).decide(record_id, output)
    reasons = [reason for reason in (answer.reason, *output.notes) if reason]
    return replace(
        answer,
        text=output.text,
        thoughts=output.prompt.thoughts,
        reason="; ".join(reasons) or None,
        ms=output.ms,
        tokens_read=output.tokens_read,
        tokens_reused=output.tokens_reused,
    )


def to_probabilities(
    task: Task, prompt: Prompt, scores: Scores, fields: Sequence[ScoredField] = ()
) -> Probabilities | None:
    """The probabilities of a prompt's outcomes: see `KindPrediction.to_probabilities`."""
    return get_kind_prediction(task).to_probabilities(prompt, scores, fields)


def decide_from_probabilities(
    task: Task, record_id: str, probabilities: Probabilities | None
) -> Answer:
    """The answer that probabilities mean: see `KindPrediction.decide_from_probabilities`."""
    return get_kind_prediction(task).decide_from_probabilities(record_id, probabilities)


def apply_thresholds(task: Task, answer: Answer, thresholds: Mapping[str, float]) -> Answer:
    """An answer decided again by other thresholds; unchanged where there are none to apply."""
    if answer.probabilities is None or answer.value is None:
        return answer
    adjusted = get_kind_prediction(task).replace_thresholds(thresholds)
    return _redecide(adjusted, answer, answer.probabilities) if adjusted else answer


def apply_probabilities(task: Task, answer: Answer, probabilities: OutcomeProbabilities) -> Answer:
    """An answer of a scored kind decided again by other probabilities, such as calibrated ones.

    One without probabilities, or of a pass that asked about other outcomes, is unchanged.
    """
    if (
        task.kind_spec.generated
        or answer.probabilities is None
        or answer.probabilities.keys() != probabilities.keys()
    ):
        return answer
    return replace(_redecide(task, answer, probabilities), uncalibrated=answer.probabilities)


def _redecide(task: Task, answer: Answer, probabilities: OutcomeProbabilities) -> Answer:
    decided = decide_from_probabilities(
        task, answer.record_id, Probabilities(probabilities, answer.off_set, answer.slack)
    )
    # Other parts of the reason (that a record was read in parts, say) are kept.
    earlier_reason = (
        describe_abstention(max(answer.probabilities.values()))
        if answer.status is Status.ABSTAINED and answer.probabilities
        else find_review_reason(task.review, answer.confidence, answer.off_set)
    )
    notes = (answer.reason or "").removeprefix(earlier_reason or "").removeprefix("; ")
    return replace(
        answer,
        reason="; ".join(part for part in (decided.reason, notes) if part) or None,
        status=decided.status,
        value=decided.value,
        confidence=decided.confidence,
        probabilities=decided.probabilities,
    )

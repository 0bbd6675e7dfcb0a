"""Decisions: an engine's output becomes an answer that is a valid value or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from medtask.display import join_reasons
from medtask.prediction.engine_output import EngineOutput
from medtask.prediction.kinds import get_kind_prediction
from medtask.prediction.kinds.base import describe_abstention, find_review_reason
from medtask.prediction.probabilities import OutcomeProbabilities, Probabilities
from medtask.prediction.suspicion import is_suspicious, mark_suspicious
from medtask.records import Answer, Fault, Prompt, Scores, Status
from medtask.tasks.task import Task


def decide_answer(task: Task, record_id: str, output: EngineOutput | Fault) -> Answer:
    """The answer for one record from an engine's output or fault.

    The most probable candidate is chosen, the earlier one on a tie; of several labels or options,
    all that reach their thresholds. If scores are NaN or all infinite, the record fails without a
    value.

    Raises:
        EngineError: The engine scored other candidates than requested.
    """
    if isinstance(output, Fault):
        return Answer(record_id, output.status, reason=output.reason)
    answer = get_kind_prediction(task).decide(record_id, output)
    answer = replace(
        answer,
        text=output.text,
        thoughts=output.prompt.thoughts,
        reason=join_reasons(answer.reason, *output.notes),
        ms=output.ms,
        tokens_read=output.tokens_read,
        tokens_reused=output.tokens_reused,
    )
    return mark_suspicious(answer, output.suspicion)


def to_probabilities(task: Task, prompt: Prompt, scores: Scores) -> Probabilities | None:
    """The probabilities of a prompt's outcomes; see `KindPrediction.to_probabilities`."""
    return get_kind_prediction(task).to_probabilities(prompt, scores)


def apply_thresholds(task: Task, answer: Answer, thresholds: Mapping[str, float]) -> Answer:
    """An answer decided again with other thresholds; unchanged for kinds without thresholds."""
    if answer.probabilities is None or answer.value is None:
        return answer
    adjusted = get_kind_prediction(task).replace_thresholds(thresholds)
    return _redecide(adjusted, answer, answer.probabilities) if adjusted else answer


def apply_probabilities(task: Task, answer: Answer, probabilities: OutcomeProbabilities) -> Answer:
    """An answer of a scored kind decided again with other probabilities, such as calibrated ones.

    It is unchanged without probabilities, or if its pass covered other outcomes.
    """
    if (
        task.kind_spec.generated
        or answer.probabilities is None
        or answer.probabilities.keys() != probabilities.keys()
    ):
        return answer
    return replace(_redecide(task, answer, probabilities), uncalibrated=answer.probabilities)


def _redecide(task: Task, answer: Answer, probabilities: OutcomeProbabilities) -> Answer:
    decided = get_kind_prediction(task).decide_from_probabilities(
        answer.record_id, Probabilities(probabilities, answer.off_set, answer.slack)
    )
    # Other parts of the reason are kept, such as the note that a record was read in parts.
    earlier_reason = (
        describe_abstention(max(answer.probabilities.values()))
        if answer.status is Status.ABSTAINED and answer.probabilities
        else find_review_reason(task.review, answer.confidence, answer.off_set)
    )
    notes = (answer.reason or "").removeprefix(earlier_reason or "").removeprefix("; ")
    return replace(
        answer,
        reason=join_reasons(decided.reason, notes),
        status=(
            Status.REVIEW
            if decided.status is Status.OK and is_suspicious(answer)
            else decided.status
        ),
        value=decided.value,
        confidence=decided.confidence,
        probabilities=decided.probabilities,
    )

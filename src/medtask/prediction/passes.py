"""Further passes: which answers are asked again, and how results are merged."""

from __future__ import annotations

from dataclasses import replace

from medtask.display import join_reasons
from medtask.records import Answer, PassStep, Status, list_names
from medtask.tasks.gate import GATE_STATUSES
from medtask.tasks.task import Pass, PassCondition

# A pass with one of these statuses does not replace an answer.
_STATUSES_WITHOUT_ANSWER = frozenset(
    {Status.FAILED, Status.TOO_LONG, Status.UNPARSABLE, Status.TRUNCATED}
)


def meets_condition(condition: PassCondition, answer: Answer) -> bool:
    """Whether an answer meets any of the conditions."""
    if answer.status in GATE_STATUSES:
        return False
    unsure = (
        condition.confidence_below is not None
        and answer.confidence is not None
        and answer.confidence < condition.confidence_below
    )
    return (
        unsure
        or answer.status in condition.status
        or any(name in condition.answer_in for name in list_names(answer.value))
    )


def went_through_pass(further: Pass, answer: Answer) -> bool:
    """Whether a finished answer went through this pass."""
    return answer.pass_name == further.name or any(
        step.pass_name == further.name for step in answer.steps
    )


def merge_pass_answer(before: Answer, after: Answer, name: str) -> Answer:
    """The answer after a further pass: ``after``, unless only ``before`` has an answer."""
    step = PassStep(before.pass_name, before.status, before.value, before.confidence)
    kept = after
    if after.status in _STATUSES_WITHOUT_ANSWER and before.status not in _STATUSES_WITHOUT_ANSWER:
        note = (
            f'the pass "{name}" gave no answer ({after.reason or after.status}): the one '
            "before it is kept"
        )
        kept = replace(before, reason=join_reasons(before.reason, note))
    return replace(
        kept,
        pass_name=name,
        steps=(*before.steps, step),
        ms=before.ms + after.ms,
        tokens_read=before.tokens_read + after.tokens_read,
        tokens_reused=before.tokens_reused + after.tokens_reused,
    )

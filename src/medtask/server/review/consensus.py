"""The result of an item from what its readers and the adjudication decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medtask.records import Value
from medtask.server.review.tables import READ_OUTCOMES, ItemState, Outcome
from medtask.tasks.answer_form import AnswerForm


class Verdict(NamedTuple):
    """What one person decided: the value is None unless the outcome is ANSWER."""

    outcome: str
    value: Value | None = None


class Consensus(NamedTuple):
    """The state of an item, the number of people who read it, and its final value."""

    state: ItemState
    decided: int
    value: Value | None = None


def find_consensus(
    form: AnswerForm,
    verdicts: Sequence[Verdict],
    readers_wanted: int,
    adjudicated: Verdict | None = None,
) -> Consensus:
    """The result of an item.

    Args:
        form: The form of its answers.
        verdicts: The latest verdict of each reader; skipped and withdrawn ones do not count.
        readers_wanted: How many people should read it.
        adjudicated: The latest verdict of the adjudication.

    Returns:
        An adjudication determines the result. Otherwise the readers do, once there are enough of
        them: different answers, and "cannot tell", are disputed.
    """
    read = [verdict for verdict in verdicts if verdict.outcome in READ_OUTCOMES]
    if adjudicated is not None and adjudicated.outcome in READ_OUTCOMES:
        return Consensus(ItemState.SETTLED, len(read), adjudicated.value)
    if len(read) < readers_wanted:
        return Consensus(ItemState.OPEN, len(read))
    values = [verdict.value for verdict in read]
    if any(verdict.outcome == Outcome.CANNOT_TELL for verdict in read) or not all(
        is_same_answer(form, values[0], value) for value in values[1:]
    ):
        return Consensus(ItemState.DISPUTED, len(read))
    return Consensus(ItemState.AGREED, len(read), values[0])


def is_same_answer(form: AnswerForm, one: Value | None, other: Value | None) -> bool:
    if one is None or other is None:
        return one is other
    return form.normalize(one) == form.normalize(other)


def parse_stored_value(value: object) -> Value | None:
    """A value from its JSON form, in which a set of names is a list."""
    return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]

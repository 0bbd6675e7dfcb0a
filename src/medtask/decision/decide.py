"""From what a model said to an answer: inside the allowed set or none, never an invented one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medtask.decision.asking import Heard
from medtask.decision.fields import find_choice, read_object, take_quotes
from medtask.decision.shares import Shares, Weighed, weigh
from medtask.decision.text import end_at_sentence
from medtask.records import Answer, Fault, Status
from medtask.tasks.task import AnyLabels, Choice, Fields, FreeText, Review, Task

_NO_NUMBER = "the model gave no usable number (NaN or infinite)"
THRESHOLD = 0.5
MOST_SLACK = 0.1  # a probability that may be further off than this is none to tell


def decide(task: Task, record_id: str, heard: Heard | Fault) -> Answer:
    """The answer that an engine's words, or the fault that came in their place, mean for one
    record.

    The likeliest candidate wins, the earlier one on a tie; of several labels or options all those
    that reach their thresholds. A record whose scores hold NaN, or no finite number at all, fails:
    it gets no value and no confidence. EngineError where the engine scored other candidates than
    asked.
    """
    if isinstance(heard, Fault):
        return Answer(record_id, heard.status, reason=heard.reason)
    match task.form:
        case FreeText():
            answer = _decide_text(record_id, heard)
        case Fields() as form:
            answer = _decide_fields(task, form, record_id, heard)
        case _:
            weighed = weigh(task, heard.prompt, heard.scores) if heard.scores else None
            answer = conclude(task, record_id, weighed)
            if heard.scores and any(branch.chosen for branch in heard.scores.branches):
                answer = _without_numbers(answer)
    reasons = [reason for reason in (answer.reason, *heard.notes) if reason]
    return replace(
        answer,
        text=heard.text,
        thoughts=heard.prompt.thoughts,
        reason="; ".join(reasons) or None,
        ms=heard.ms,
        tokens_read=heard.tokens_read,
        tokens_reused=heard.tokens_reused,
    )


def conclude(task: Task, record_id: str, weighed: Weighed | None) -> Answer:
    """The answer that probabilities mean, for the kinds that are scored; None where there are none.

    Where they are known too loosely (a server tells the likeliest words only) the value stands and
    no probability is told.
    """
    if weighed is None:
        return Answer(record_id, Status.FAILED, reason=_NO_NUMBER)
    if weighed.slack > MOST_SLACK:
        bare = _without_numbers(conclude(task, record_id, replace(weighed, slack=0.0)))
        told = f"no probability: what the server tells leaves {weighed.slack:.2f} of it open"
        return replace(
            bare,
            slack=weighed.slack,
            reason="; ".join(part for part in (bare.reason, told) if part),
        )
    facts: Any = {
        "probabilities": weighed.shares,
        "off_set": weighed.off_set,
        "slack": weighed.slack,
    }
    match task.form:
        case AnyLabels() as form:
            value = choose_labels(form, weighed.shares)
        case Choice(several=True):
            value = tuple(letter for letter, share in weighed.shares.items() if share >= THRESHOLD)
        case _:
            return _conclude_one(task, record_id, weighed, facts)
    # The probability that every one of these yes-or-no decisions is right, taken as independent.
    confidence = math.prod(
        share if name in value else 1 - share for name, share in weighed.shares.items()
    )
    doubt = doubt_scores(task.review, confidence, weighed.off_set)
    return Answer(
        record_id,
        Status.REVIEW if doubt else Status.OK,
        value=value,
        confidence=confidence,
        reason=doubt,
        **facts,
    )


def apply_thresholds(task: Task, answer: Answer, thresholds: Mapping[str, float]) -> Answer:
    """An answer of kind ``labels`` decided anew by other thresholds; one without probabilities as
    it is.
    """
    if not isinstance(task.form, AnyLabels) or answer.probabilities is None or answer.value is None:
        return answer
    return _decide_anew(
        replace(task, form=replace(task.form, thresholds=thresholds)), answer, answer.probabilities
    )


def apply_shares(task: Task, answer: Answer, shares: Shares) -> Answer:
    """An answer of a kind that is scored, decided anew by other probabilities of the same outcomes,
    such as calibrated ones.

    One without probabilities, or of a pass that asked about other outcomes, stays as it is.
    """
    if (
        isinstance(task.form, FreeText | Fields)
        or answer.probabilities is None
        or answer.probabilities.keys() != shares.keys()
    ):
        return answer
    return replace(_decide_anew(task, answer, shares), uncalibrated=answer.probabilities)


def _decide_anew(task: Task, answer: Answer, shares: Shares) -> Answer:
    anew = conclude(task, answer.record_id, Weighed(shares, answer.off_set, answer.slack))
    # What else the reason tells (that a record was read in parts, say) stays.
    doubt = doubt_scores(task.review, answer.confidence, answer.off_set)
    before = (
        tell_abstention(max(answer.probabilities.values()))
        if answer.status is Status.ABSTAINED and answer.probabilities
        else doubt
    )
    notes = (answer.reason or "").removeprefix(before or "").removeprefix("; ")
    reason = "; ".join(part for part in (anew.reason, notes) if part) or None
    facts: Any = {
        "status": anew.status,
        "value": anew.value,
        "confidence": anew.confidence,
        "probabilities": anew.probabilities,
    }
    return replace(answer, reason=reason, **facts)


def choose_labels(form: AnyLabels, shares: Shares) -> tuple[str, ...]:
    """The labels that reach their thresholds, in the task's order, within ``at_most`` and
    ``at_least_one``.

    Between labels the larger distance above its threshold decides, then the earlier label.
    """
    margins = {name: share - form.thresholds.get(name, THRESHOLD) for name, share in shares.items()}
    ranked = sorted(margins, key=lambda name: -margins[name])
    chosen = [name for name in ranked if margins[name] >= 0] or ranked[: int(form.at_least_one)]
    kept = frozenset(chosen[: form.at_most])
    return tuple(name for name in shares if name in kept)


def doubt_scores(review: Review, confidence: float | None, off_set: float | None) -> str | None:
    """Why a person should look at the answer, with the figures; None where there is no reason."""
    doubts = []
    if confidence is not None and confidence < review.confidence_below:
        doubts.append(
            f"confidence {_figure(confidence, review.confidence_below)} is below "
            f"{review.confidence_below:g}"
        )
    if off_set is not None and off_set > review.off_set_above:
        figure = _figure(off_set, review.off_set_above)
        doubts.append(
            f"{figure} of the probability lay outside the labels, more than "
            f"{review.off_set_above:g}"
        )
    return "; ".join(doubts) or None


def _conclude_one(task: Task, record_id: str, weighed: Weighed, facts: Mapping[str, Any]) -> Answer:
    names: Sequence[str] = list(weighed.shares)
    winner = max(names, key=weighed.shares.__getitem__)
    confidence = weighed.shares[winner]
    if task.abstain is not None and winner == task.abstain.name:
        return Answer(record_id, Status.ABSTAINED, reason=tell_abstention(confidence), **facts)
    doubt = doubt_scores(task.review, confidence, weighed.off_set)
    return Answer(
        record_id,
        Status.REVIEW if doubt else Status.OK,
        value=winner,
        confidence=confidence,
        reason=doubt,
        **facts,
    )


def tell_abstention(probability: float) -> str:
    return f"the model chose to abstain, with probability {probability:.2f}"


def _without_numbers(answer: Answer) -> Answer:
    """The answer of an engine that chose without telling probabilities: none is better than a false
    one.
    """
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


def _decide_text(record_id: str, heard: Heard) -> Answer:
    final = (heard.final or "").strip()
    if heard.ended == "stop":
        if not final:
            return Answer(record_id, Status.UNPARSABLE, reason="the model wrote nothing")
        return Answer(record_id, Status.OK, value=final)
    why = {
        "length": "the answer reached max_tokens and was cut after its last whole sentence",
        "loop": "the answer repeated itself and was cut after its last whole sentence",
        "deadline": "the answer took too long and was cut after its last whole sentence",
    }[heard.ended]
    return Answer(record_id, Status.TRUNCATED, value=end_at_sentence(final) or None, reason=why)


def _decide_fields(task: Task, form: Fields, record_id: str, heard: Heard) -> Answer:
    if heard.ended != "stop":
        why = (
            f"did not fit into max_tokens ({form.max_tokens:,})"
            if heard.ended == "length"
            else "repeated themselves"
        )
        return Answer(record_id, Status.TRUNCATED, reason=f"the fields {why}")
    written = read_object(heard.text or "")
    if written is None:
        return Answer(record_id, Status.UNPARSABLE, reason="what the model wrote is no JSON object")
    value, quotes, missing = take_quotes(form, written, heard.prompt.text)
    shares: dict[str, float] = {}
    confidence, off_set, slack = None, None, 0.0
    if heard.scores and heard.fields:
        weighed = weigh(task, heard.prompt, heard.scores, heard.fields)
        if weighed is None:
            return Answer(record_id, Status.FAILED, reason=_NO_NUMBER)
        shares, off_set, slack = dict(weighed.shares), weighed.off_set, weighed.slack
        # As what was written stands behind what was written before it, the parts multiply.
        confidence = math.prod(shares[find_choice(field, written)] for field in heard.fields)
    doubts = [doubt_scores(task.review, confidence, off_set)]
    doubts += [f"the quote of {', '.join(missing)} does not stand in the record"] if missing else []
    reason = "; ".join(doubt for doubt in doubts if doubt) or None
    return Answer(
        record_id,
        Status.REVIEW if reason else Status.OK,
        value=value,
        confidence=confidence,
        probabilities=shares or None,
        off_set=off_set,
        slack=slack,
        quotes=quotes or None,
        reason=reason,
    )


def _figure(value: float, bound: float) -> str:
    """Two decimals, or as many as it takes to tell the value from the bound that it missed."""
    return next(
        (text for digits in range(2, 7) if float(text := f"{value:.{digits}f}") != bound),
        repr(value),
    )

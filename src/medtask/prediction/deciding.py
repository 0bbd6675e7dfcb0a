"""From what a model said to an answer: inside the allowed set or none, never an invented one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medtask.prediction.asking import EngineOutput
from medtask.prediction.field_answers import extract_quotes, find_outcome, parse_object
from medtask.prediction.probabilities import OutcomeProbabilities, Probabilities, to_probabilities
from medtask.prediction.truncation import cut_at_sentence
from medtask.records import Answer, Fault, Status
from medtask.tasks.task import Fields, FreeText, MultiLabel, MultipleChoice, Review, Task

_INVALID_SCORES = "the model gave no usable number (NaN or infinite)"
DEFAULT_THRESHOLD = 0.5
MAX_SLACK = 0.1  # a probability that may be further off than this is none to tell


def decide_answer(task: Task, record_id: str, output: EngineOutput | Fault) -> Answer:
    """The answer that an engine's words, or the fault that came in their place, mean for one
    record.

    The likeliest candidate wins, the earlier one on a tie; of several labels or options all those
    that reach their thresholds. A record whose scores hold NaN, or no finite number at all, fails:
    it gets no value and no confidence. EngineError where the engine scored other candidates than
    asked.
    """
    if isinstance(output, Fault):
        return Answer(record_id, output.status, reason=output.reason)
    match task.answer_spec:
        case FreeText():
            answer = _decide_text(record_id, output)
        case Fields() as form:
            answer = _decide_fields(task, form, record_id, output)
        case _:
            probabilities = (
                to_probabilities(task, output.prompt, output.scores) if output.scores else None
            )
            answer = decide_from_probabilities(task, record_id, probabilities)
            if output.scores and any(branch.choice_only for branch in output.scores.branches):
                answer = _drop_probabilities(answer)
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


def decide_from_probabilities(
    task: Task, record_id: str, probabilities: Probabilities | None
) -> Answer:
    """The answer that probabilities mean, for the kinds that are scored; None where there are none.

    Where they are known too loosely (a server tells the likeliest words only) the value stands and
    no probability is told.
    """
    if probabilities is None:
        return Answer(record_id, Status.FAILED, reason=_INVALID_SCORES)
    if probabilities.slack > MAX_SLACK:
        unscored = _drop_probabilities(
            decide_from_probabilities(task, record_id, replace(probabilities, slack=0.0))
        )
        slack_note = (
            f"no probability: what the server tells leaves {probabilities.slack:.2f} of it open"
        )
        return replace(
            unscored,
            slack=probabilities.slack,
            reason="; ".join(part for part in (unscored.reason, slack_note) if part),
        )
    facts: Any = {
        "probabilities": probabilities.by_outcome,
        "off_set": probabilities.off_set,
        "slack": probabilities.slack,
    }
    match task.answer_spec:
        case MultiLabel() as form:
            value = choose_labels(form, probabilities.by_outcome)
        case MultipleChoice(several=True):
            value = tuple(
                letter
                for letter, share in probabilities.by_outcome.items()
                if share >= DEFAULT_THRESHOLD
            )
        case _:
            return _decide_single(task, record_id, probabilities, facts)
    # The probability that every one of these yes-or-no decisions is right, taken as independent.
    confidence = math.prod(
        share if name in value else 1 - share for name, share in probabilities.by_outcome.items()
    )
    doubt = find_review_reason(task.review, confidence, probabilities.off_set)
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
    if (
        not isinstance(task.answer_spec, MultiLabel)
        or answer.probabilities is None
        or answer.value is None
    ):
        return answer
    return _redecide(
        replace(task, answer_spec=replace(task.answer_spec, thresholds=thresholds)),
        answer,
        answer.probabilities,
    )


def apply_probabilities(task: Task, answer: Answer, probabilities: OutcomeProbabilities) -> Answer:
    """An answer of a kind that is scored, decided anew by other probabilities of the same outcomes,
    such as calibrated ones.

    One without probabilities, or of a pass that asked about other outcomes, stays as it is.
    """
    if (
        isinstance(task.answer_spec, FreeText | Fields)
        or answer.probabilities is None
        or answer.probabilities.keys() != probabilities.keys()
    ):
        return answer
    return replace(_redecide(task, answer, probabilities), uncalibrated=answer.probabilities)


def _redecide(task: Task, answer: Answer, probabilities: OutcomeProbabilities) -> Answer:
    decided = decide_from_probabilities(
        task, answer.record_id, Probabilities(probabilities, answer.off_set, answer.slack)
    )
    # What else the reason tells (that a record was read in parts, say) stays.
    doubt = find_review_reason(task.review, answer.confidence, answer.off_set)
    earlier_reason = (
        describe_abstention(max(answer.probabilities.values()))
        if answer.status is Status.ABSTAINED and answer.probabilities
        else doubt
    )
    notes = (answer.reason or "").removeprefix(earlier_reason or "").removeprefix("; ")
    reason = "; ".join(part for part in (decided.reason, notes) if part) or None
    facts: Any = {
        "status": decided.status,
        "value": decided.value,
        "confidence": decided.confidence,
        "probabilities": decided.probabilities,
    }
    return replace(answer, reason=reason, **facts)


def choose_labels(form: MultiLabel, probabilities: OutcomeProbabilities) -> tuple[str, ...]:
    """The labels that reach their thresholds, in the task's order, within ``at_most`` and
    ``at_least_one``.

    Between labels the larger distance above its threshold decides, then the earlier label.
    """
    margins = {
        name: share - form.thresholds.get(name, DEFAULT_THRESHOLD)
        for name, share in probabilities.items()
    }
    ranked = sorted(margins, key=lambda name: -margins[name])
    chosen = [name for name in ranked if margins[name] >= 0] or ranked[: int(form.at_least_one)]
    kept = frozenset(chosen[: form.at_most])
    return tuple(name for name in probabilities if name in kept)


def find_review_reason(
    review: Review, confidence: float | None, off_set: float | None
) -> str | None:
    """Why a person should look at the answer, with the figures; None where there is no reason."""
    doubts = []
    if confidence is not None and confidence < review.confidence_below:
        doubts.append(
            f"confidence {_format_beside_bound(confidence, review.confidence_below)} is below "
            f"{review.confidence_below:g}"
        )
    if off_set is not None and off_set > review.off_set_above:
        figure = _format_beside_bound(off_set, review.off_set_above)
        doubts.append(
            f"{figure} of the probability lay outside the labels, more than "
            f"{review.off_set_above:g}"
        )
    return "; ".join(doubts) or None


def _decide_single(
    task: Task, record_id: str, probabilities: Probabilities, facts: Mapping[str, Any]
) -> Answer:
    names: Sequence[str] = list(probabilities.by_outcome)
    winner = max(names, key=probabilities.by_outcome.__getitem__)
    confidence = probabilities.by_outcome[winner]
    if task.abstain is not None and winner == task.abstain.name:
        return Answer(record_id, Status.ABSTAINED, reason=describe_abstention(confidence), **facts)
    doubt = find_review_reason(task.review, confidence, probabilities.off_set)
    return Answer(
        record_id,
        Status.REVIEW if doubt else Status.OK,
        value=winner,
        confidence=confidence,
        reason=doubt,
        **facts,
    )


def describe_abstention(probability: float) -> str:
    return f"the model chose to abstain, with probability {probability:.2f}"


def _drop_probabilities(answer: Answer) -> Answer:
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


def _decide_text(record_id: str, output: EngineOutput) -> Answer:
    final = (output.last_section or "").strip()
    if output.finish_reason == "stop":
        if not final:
            return Answer(record_id, Status.UNPARSABLE, reason="the model wrote nothing")
        return Answer(record_id, Status.OK, value=final)
    why = {
        "length": "the answer reached max_tokens and was cut after its last whole sentence",
        "loop": "the answer repeated itself and was cut after its last whole sentence",
        "deadline": "the answer took too long and was cut after its last whole sentence",
    }[output.finish_reason]
    return Answer(record_id, Status.TRUNCATED, value=cut_at_sentence(final) or None, reason=why)


def _decide_fields(task: Task, form: Fields, record_id: str, output: EngineOutput) -> Answer:
    if output.finish_reason != "stop":
        why = (
            f"did not fit into max_tokens ({form.max_tokens:,})"
            if output.finish_reason == "length"
            else "repeated themselves"
        )
        return Answer(record_id, Status.TRUNCATED, reason=f"the fields {why}")
    written = parse_object(output.text or "")
    if written is None:
        return Answer(record_id, Status.UNPARSABLE, reason="what the model wrote is no JSON object")
    value, quotes, missing = extract_quotes(form, written, output.prompt.text)
    by_outcome: dict[str, float] = {}
    confidence, off_set, slack = None, None, 0.0
    if output.scores and output.fields:
        probabilities = to_probabilities(task, output.prompt, output.scores, output.fields)
        if probabilities is None:
            return Answer(record_id, Status.FAILED, reason=_INVALID_SCORES)
        by_outcome, off_set, slack = (
            dict(probabilities.by_outcome),
            probabilities.off_set,
            probabilities.slack,
        )
        # As what was written stands behind what was written before it, the parts multiply.
        confidence = math.prod(by_outcome[find_outcome(field, written)] for field in output.fields)
    doubts = [find_review_reason(task.review, confidence, off_set)]
    doubts += [f"the quote of {', '.join(missing)} does not stand in the record"] if missing else []
    reason = "; ".join(doubt for doubt in doubts if doubt) or None
    return Answer(
        record_id,
        Status.REVIEW if reason else Status.OK,
        value=value,
        confidence=confidence,
        probabilities=by_outcome or None,
        off_set=off_set,
        slack=slack,
        quotes=quotes or None,
        reason=reason,
    )


def _format_beside_bound(value: float, bound: float) -> str:
    """Two decimals, or as many as it takes to tell the value from the bound that it missed."""
    return next(
        (text for digits in range(2, 7) if float(text := f"{value:.{digits}f}") != bound),
        repr(value),
    )

"""From an engine's scores to probabilities by name, for each kind of question that is scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medtask.errors import EngineError
from medtask.records import BranchScores, Prompt, Scores
from medtask.tasks.task import Fields, MultiLabel, MultipleChoice, ScoredField, Task

OutcomeProbabilities = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Probabilities:
    """``by_outcome``: the probability of each outcome (see Answer.probabilities). ``off_set`` and
    ``slack``: see BranchScores; of several branches the mean off-set mass and the largest slack.
    """

    by_outcome: OutcomeProbabilities
    off_set: float | None
    slack: float


def to_probabilities(
    task: Task, prompt: Prompt, scores: Scores, fields: Sequence[ScoredField] = ()
) -> Probabilities | None:
    """What the scores of a prompt say; None where they hold NaN, or nothing finite.

    ``fields``: of kind ``fields``, those that the prompt's branches ask for. EngineError where
    other candidates were scored than asked.
    """
    expected = [len(branch.candidates) for branch in prompt.branches]
    given = [len(branch.logprobs) for branch in scores.branches]
    if given != expected:
        raise EngineError(
            f"the engine scored {given} candidates in place of {expected}",
            fix="report this: an engine must score exactly the candidates that it is asked",
        )
    rows = [_normalise(branch.logprobs) for branch in scores.branches]
    usable = [row for row in rows if row is not None]
    off_set, slack = _summarize_branches(scores.branches)
    if len(usable) < len(rows) or not math.isfinite((off_set or 0.0) + slack):
        return None
    return Probabilities(_name_probabilities(task, prompt, scores, usable, fields), off_set, slack)


def combine_probabilities(
    parts: Sequence[Probabilities], rule: str, exclusive: bool
) -> Probabilities:
    """One Weighed for a record that was read in parts, by the rule that Gate.combine names.

    ``exclusive``: whether the outcomes' probabilities sum to 1.
    """
    names = list(parts[0].by_outcome)
    columns = [[part.by_outcome[name] for part in parts] for name in names]
    match rule:
        case "max":
            merged = [max(column) for column in columns]
        case "vote" if exclusive:
            winners = [max(names, key=part.by_outcome.__getitem__) for part in parts]
            merged = [winners.count(name) / len(parts) for name in names]
        case "vote":
            merged = [sum(share >= 0.5 for share in column) / len(parts) for column in columns]
        case _:
            merged = [math.fsum(column) / len(parts) for column in columns]
    total = math.fsum(merged) if exclusive else 1.0
    off_sets = [part.off_set for part in parts if part.off_set is not None]
    return Probabilities(
        {name: share / total for name, share in zip(names, merged, strict=True)},
        math.fsum(off_sets) / len(off_sets) if off_sets else None,
        max(part.slack for part in parts),
    )


def _name_probabilities(
    task: Task,
    prompt: Prompt,
    scores: Scores,
    rows: Sequence[Sequence[float]],
    fields: Sequence[ScoredField],
) -> OutcomeProbabilities:
    match task.answer_spec:
        case MultiLabel():
            return {label.name: row[0] for label, row in zip(task.labels, rows, strict=True)}
        case MultipleChoice(several=True):
            return {option.letter: row[0] for option, row in zip(prompt.options, rows, strict=True)}
        case MultipleChoice(readout="text", normalise=True):
            return dict(
                zip(
                    _list_letters(prompt),
                    _normalise_by_length(scores.branches[0], prompt),
                    strict=True,
                )
            )
        case MultipleChoice():
            return dict(zip(_list_letters(prompt), _average_orders(rows), strict=True))
        case Fields():
            return {
                outcome: share
                for field, row in zip(fields, rows, strict=True)
                for outcome, share in zip(field.outcomes, row, strict=True)
            }
    return {label.name: share for label, share in zip(task.candidates, rows[0], strict=True)}


def _list_letters(prompt: Prompt) -> list[str]:
    return [option.letter for option in prompt.options]


def _average_orders(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean over cyclic orders: in order j, place i shows option (i + j) mod n. A lone row is
    the options as they are.
    """
    count = len(rows[0])
    return [
        math.fsum(row[(option - shift) % count] for shift, row in enumerate(rows)) / len(rows)
        for option in range(count)
    ]


def _normalise_by_length(branch: BranchScores, prompt: Prompt) -> list[float]:
    """Probabilities from log-likelihoods per character: the order of lm-evaluation-harness's
    acc_norm.

    They are scaled by the row's mean length, so that they stay as sharp as those of whole texts.
    """
    lengths = [len(option.text) for option in prompt.options]
    mean = sum(lengths) / len(lengths)
    scaled = _normalise(
        [logprob / length * mean for logprob, length in zip(branch.logprobs, lengths, strict=True)]
    )
    assert scaled is not None
    return scaled


def _normalise(logprobs: Sequence[float]) -> list[float] | None:
    """Probabilities that sum to 1; None where the logarithms are no numbers or rule out
    everything.
    """
    peak = max(logprobs)
    if not math.isfinite(peak) or any(map(math.isnan, logprobs)):
        return None
    weights = [math.exp(logprob - peak) for logprob in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _summarize_branches(branches: Sequence[BranchScores]) -> tuple[float | None, float]:
    off_sets = [branch.off_set for branch in branches if branch.off_set is not None]
    return (math.fsum(off_sets) / len(off_sets) if off_sets else None), max(
        (branch.slack for branch in branches), default=0.0
    )

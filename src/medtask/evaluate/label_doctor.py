"""What is wrong with a set of labels: found from their names, from answers and gold, from a model's
tokens and leanings.

names            labels that say nearly the same                          findings/names.py answers
labels that nobody uses; signs that one is missing       findings/use.py answers, gold    pairs that
are confused; what merging them would bring   findings/confusion.py, findings/merges.py tokens
names that begin alike, or are long, or odd              findings/tokens.py nothing to read  what
the model prefers before it has read anything       findings/bias.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.evaluate.blocks import Bar, Bars, Block, Heading, Table, Text
from medtask.evaluate.findings.bias import Bias, find_bias
from medtask.evaluate.findings.confusion import find_confused, tell_confused
from medtask.evaluate.findings.finding import WEIGHTS, Finding
from medtask.evaluate.findings.merges import tell_merges, weigh_merges
from medtask.evaluate.findings.names import compare_labels
from medtask.evaluate.findings.pairs import PairCounts, tabulate
from medtask.evaluate.findings.tokens import find_traps
from medtask.evaluate.findings.use import OffSet, find_missing, find_unused
from medtask.evaluate.words import capital, count, isolate, percent
from medtask.records import Meaning

LISTED = 10  # findings of one topic that are told; JSON has all

TOPICS = {
    "never_predicted": "Never the answer",
    "answered_too_often": "Answered too often",
    "confused": "Taken for one another",
    "missing_label": "Is a label missing?",
    "overlap": "Nearly the same",
    "prior": "Preferred with nothing to read",
    "tokens": "Hard for the model's tokens",
    "merge": "As one label",
    "never_in_gold": "Never in gold",
}


@dataclass(frozen=True, slots=True)
class Examination:
    """``findings``: worst first. ``labels``, ``answered`` and ``gold_rows`` count what was looked
    at. ``bias``: see Bias, None where no model was asked. ``gaps``: what was not looked at, and
    what it takes.
    """

    labels: int
    answered: int
    gold_rows: int
    findings: tuple[Finding, ...]
    bias: Bias | None = None
    gaps: tuple[str, ...] = ()


def examine(
    labels: Sequence[Meaning],
    *,
    abstain: str | None = None,
    exclusive: bool = True,
    vectors: NDArray[np.float32] | None = None,
    tally: PairCounts | None = None,
    off_set: OffSet | None = None,
    tokens: Mapping[str, Sequence[int]] | None = None,
    lowered: Mapping[str, int] | None = None,
    bias: Bias | None = None,
    gaps: Sequence[str] = (),
    seed: int = 0,
) -> Examination:
    """All that can be found with what is given; what is None is not looked at.

    ``labels``: without the abstention, whose name is ``abstain``. ``exclusive``: every row gets
    exactly one. ``vectors``: see compare_labels. ``tokens``, ``lowered``: see find_traps. ``gaps``:
    what the caller could not give, for the reader.
    """
    names = [label.name for label in labels]
    overlaps = compare_labels(labels, vectors)
    found = [*overlaps, *find_missing(names, abstain, exclusive, tally, off_set)]
    if tally:
        found += _examine_answers(tally, overlaps, seed)
    if tokens:
        found += find_traps(tokens, lowered)
    if bias:
        found += find_bias(bias)
    gold_rows = tally.gold_rows if tally else 0
    return Examination(
        len(names),
        tally.answered if tally else 0,
        gold_rows,
        tuple(_sort(found)),
        bias,
        tuple(gaps),
    )


def examine_letters(bias: Bias, answered: int = 0, gaps: Sequence[str] = ()) -> Examination:
    """Of options that come with the rows, only what the model prefers by their letter can be
    told.
    """
    return Examination(
        len(bias.shares), answered, 0, tuple(_sort(find_bias(bias))), bias, tuple(gaps)
    )


def _examine_answers(
    tally: PairCounts, overlaps: Sequence[Finding], seed: int
) -> Iterator[Finding]:
    cells = tabulate(tally)
    yield from find_unused(tally, cells)
    confused = find_confused(cells)
    yield from tell_confused(confused, tally.labels, tally.abstain)
    places = {name: place for place, name in enumerate(tally.labels)}
    pairs = [(pair.gold, pair.answer) for pair in confused]
    pairs += [
        (places[one], places[other]) for one, other in (finding.labels for finding in overlaps)
    ]
    spare = places.get(tally.abstain) if tally.abstain else None
    yield from tell_merges(weigh_merges(cells, pairs, abstain=spare, seed=seed), tally.labels)


def _sort(found: Sequence[Finding]) -> list[Finding]:
    """Worst first: by weight, then by topic, then by score."""
    topics = list(TOPICS)
    return sorted(
        found,
        key=lambda finding: (
            WEIGHTS.index(finding.weight),
            topics.index(finding.topic),
            -finding.score,
        ),
    )


def to_json(examination: Examination) -> dict[str, Any]:
    """A plain dict; it holds names of labels and no text of a record."""
    bias = examination.bias
    return {
        "labels": examination.labels,
        "answered": examination.answered,
        "gold_rows": examination.gold_rows,
        "findings": [
            {**asdict(finding), "seen": _unmark(finding.seen), "advice": _unmark(finding.advice)}
            for finding in examination.findings
        ],
        "prior": {**asdict(bias), "even": bias.even, "distance": bias.distance} if bias else None,
        "not_examined": list(examination.gaps),
    }


def tell(examination: Examination) -> list[Block]:
    """The examination as a section of a report."""
    blocks: list[Block] = [Text(summarise(examination))]
    for topic, found in _group(examination):
        blocks.append(Heading(TOPICS[topic]))
        lines = [(capital(finding.seen), capital(finding.advice)) for finding in found[:LISTED]]
        caption = (
            f"{len(found) - LISTED:,} more are in the report's JSON." if len(found) > LISTED else ""
        )
        if topic == "merge":
            caption = f"{_CHOSEN} {caption}".strip()
        blocks.append(
            Table(TOPICS[topic], (("What was seen", "w"), ("What to do", "w")), lines, caption)
        )
    if examination.bias:
        blocks += [
            Heading("What the model prefers with nothing to read"),
            *_draw_bias(examination.bias),
        ]
    blocks += [Text(capital(gap), "quiet") for gap in examination.gaps]
    return blocks


_CHOSEN = (
    "These are the best of the pairs that were tried, on the rows that chose them: expect "
    "less of new rows."
)


def summarise(examination: Examination) -> str:
    """What was looked at and how much was found, in one sentence."""
    looked = [
        (
            f"{count(examination.labels)} "
            f"{examination.bias.noun if examination.bias else 'label'}"
            f"{'s' * (examination.labels != 1)}"
        )
    ]
    if examination.answered:
        looked.append(
            f"{count(examination.answered)} answers, {count(examination.gold_rows)} rows with gold"
        )
    costs, may, notes = (
        sum(finding.weight == weight for finding in examination.findings) for weight in WEIGHTS
    )
    told = [f"{costs} cost{'s' * (costs == 1)} right answers"] * bool(costs)
    told += [f"{may} may cost some"] * bool(may)
    told += [f"{notes} {'is' if notes == 1 else 'are'} good to know"] * bool(notes)
    found = f"findings: {', '.join(told)}" if told else "nothing was found"
    return f"{', '.join(looked)}; {found}."


def list_lines(examination: Examination) -> Iterator[tuple[str, str, str]]:
    """(weight, what was seen, what to do) for a terminal: at most ten of each topic and weight,
    then how many more.
    """
    for (weight, topic), group in groupby(
        examination.findings, key=lambda finding: (finding.weight, finding.topic)
    ):
        found = list(group)
        for finding in found[:LISTED]:
            yield weight, _unmark(finding.seen), _unmark(finding.advice)
        if len(found) > LISTED:
            yield (
                weight,
                f"{len(found) - LISTED:,} more: {TOPICS[topic].lower()}",
                "--json lists all",
            )


def list_shares(bias: Bias) -> list[tuple[str, float, str]]:
    """(outcome, share, its gold share or "") for bars, largest first."""
    ordered = sorted(bias.shares.items(), key=lambda item: -item[1])
    return [
        (name, share, percent(bias.gold[name].value) if name in bias.gold else "")
        for name, share in ordered
    ]


def _unmark(sentence: str) -> str:
    """Names in quotes, where the marks that keep a name's direction of writing to itself would be
    shown or not be known.
    """
    return sentence.replace("\u2068", '"').replace("\u2069", '"')


def _group(examination: Examination) -> Iterator[tuple[str, list[Finding]]]:
    """Findings by topic, the topic of the worst finding first."""
    for topic in dict.fromkeys(finding.topic for finding in examination.findings):
        yield topic, [finding for finding in examination.findings if finding.topic == topic]


def _draw_bias(bias: Bias) -> Iterator[Block]:
    told = ("probability", "in gold") if bias.gold else ("probability",)
    lines = [
        Bar(isolate(name), share, (percent(share), gold)[: len(told)])
        for name, share, gold in list_shares(bias)
    ]
    yield Bars((bias.noun, *told), tuple(lines))
    yield Text(
        f"The mean over {len(bias.inputs)} inputs without content. Even would be "
        f"{percent(bias.even)} for each; "
        f"the {bias.noun}s are {bias.distance:.2f} away from that (total variation, 0 is even)."
    )

"""Labels that a model's tokens make hard to tell apart, or dear."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median

from medtask.evaluate.findings.finding import Finding
from medtask.evaluate.findings.use import name_some
from medtask.evaluate.words import isolate

LONG = 2.0  # times the median number of tokens
MANY = 4  # tokens more than the median
GROUP = 2  # labels that begin alike


def find_traps(
    tokens: Mapping[str, Sequence[int]], lowered: Mapping[str, int] | None = None
) -> list[Finding]:
    """What stands in the way of a model that reads the labels as these tokens.

    ``tokens``: of each label's continuation, the end of the turn included. ``lowered``: how many
    tokens it would take in lower case, for labels that are written otherwise.
    """
    return [
        *_find_shared(tokens),
        *_find_inside(tokens),
        *_find_long(tokens),
        *_find_odd(tokens, lowered or {}),
    ]


def _find_shared(tokens: Mapping[str, Sequence[int]]) -> list[Finding]:
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for name, own in tokens.items():
        if own:
            groups[own[0]].append(name)
    if len(groups) == 1 and len(tokens) > 1:
        start = _share_start(list(tokens.values()))
        seen = (
            f"all {len(tokens):,} labels begin with the same {_count(start)}: nothing is "
            "decided before they are read"
        )
        return [
            Finding(
                "tokens",
                "note",
                tuple(tokens),
                seen,
                _BEGIN,
                {"shared_tokens": start, "labels": len(tokens)},
                0.0,
            )
        ]
    found = []
    for names in groups.values():
        if len(names) >= GROUP:
            start = _share_start([tokens[name] for name in names])
            early = "the model chooses the group before it reads what tells them apart"
            seen = f"{name_some(names)} begin with the same {_count(start)}: {early}"
            figures = {"shared_tokens": start, "labels": len(names)}
            found.append(
                Finding(
                    "tokens", "look", tuple(names), seen, _BEGIN, figures, float(start * len(names))
                )
            )
    return found


_BEGIN = (
    "begin the names with the word that tells them apart, or write `readout: code`; servers that "
    "tell the likeliest first tokens alone "
    "cannot tell such labels apart"
)


def _find_inside(tokens: Mapping[str, Sequence[int]]) -> list[Finding]:
    found = []
    for (first, one), (second, other) in combinations(tokens.items(), 2):
        short, long = sorted(((one, first), (other, second)), key=lambda pair: len(pair[0]))
        body = list(short[0][:-1])  # without the end of the turn
        if body and list(long[0][: len(body)]) == body:
            seen = (
                f"the tokens of {isolate(short[1])} are the beginning of {isolate(long[1])}: "
                "only the end of the turn tells them apart"
            )
            advice = (
                "engines in this process weigh that end; a model that goes on writing "
                "prefers the longer one: rename one of them"
            )
            found.append(
                Finding(
                    "tokens",
                    "look",
                    (short[1], long[1]),
                    seen,
                    advice,
                    {"shared_tokens": len(body)},
                    1.0,
                )
            )
    return found


def _find_long(tokens: Mapping[str, Sequence[int]]) -> list[Finding]:
    usual = median(map(len, tokens.values())) if tokens else 0
    found = []
    for name, own in tokens.items():
        if len(own) >= LONG * usual and len(own) >= usual + MANY:
            seen = f"{isolate(name)} takes {_count(len(own))}, the labels' median is {usual:g}"
            advice = (
                "a shorter name, or `readout: code`, costs less in every row; what it means "
                "belongs into the definition"
            )
            found.append(
                Finding(
                    "tokens",
                    "note",
                    (name,),
                    seen,
                    advice,
                    {"tokens": len(own), "median": usual},
                    float(len(own)),
                )
            )
    return found


def _find_odd(tokens: Mapping[str, Sequence[int]], lowered: Mapping[str, int]) -> list[Finding]:
    found = []
    for name, plain in lowered.items():
        own = len(tokens[name])
        if own >= plain + 2 and own >= 1.5 * plain:
            seen = (
                f"{isolate(name)} takes {_count(own)}, in lower case {plain}: the model knows "
                "it as pieces rather than as a word"
            )
            advice = "write it in the case in which texts have it, or as words"
            found.append(
                Finding(
                    "tokens",
                    "look",
                    (name,),
                    seen,
                    advice,
                    {"tokens": own, "lower_case": plain},
                    float(own - plain),
                )
            )
    return found


def _share_start(listed: Sequence[Sequence[int]]) -> int:
    shortest = min(map(len, listed))
    return next(
        (place for place in range(shortest) if len({own[place] for own in listed}) > 1), shortest
    )


def _count(number: int) -> str:
    return f"{number} token{'s' * (number != 1)}"

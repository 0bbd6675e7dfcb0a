"""Labels with tokens that make them hard to distinguish, or expensive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median

from medtask.display import format_count, isolate_name
from medtask.evaluation.labels.finding import LabelFinding
from medtask.evaluation.labels.usage import format_names

MIN_LENGTH_RATIO = 2.0  # times the median number of tokens
MIN_EXTRA_TOKENS = 4  # tokens more than the median
MIN_GROUP_SIZE = 2  # labels with a common prefix


def find_token_problems(
    tokens: Mapping[str, Sequence[int]], lowercase_counts: Mapping[str, int] | None = None
) -> list[LabelFinding]:
    """Find labels that are problematic with these tokens.

    Args:
        tokens: Tokens of each label's continuation, including the end of the turn.
        lowercase_counts: Number of tokens in lower case, of labels that are not in lower case.
    """
    return [
        *_find_shared_prefixes(tokens),
        *_find_prefix_labels(tokens),
        *_find_long_labels(tokens),
        *_find_unusual_case(tokens, lowercase_counts or {}),
    ]


def _find_shared_prefixes(tokens: Mapping[str, Sequence[int]]) -> list[LabelFinding]:
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for name, own in tokens.items():
        if own:
            groups[own[0]].append(name)
    if len(groups) == 1 and len(tokens) > 1:
        start = _count_shared_tokens(list(tokens.values()))
        seen = (
            f"all {len(tokens):,} labels begin with the same {format_count(start, 'token')}: "
            "nothing is decided before they are read"
        )
        return [
            LabelFinding(
                "tokens",
                "note",
                tuple(tokens),
                seen,
                _SHARED_PREFIX_ADVICE,
                {"shared_tokens": start, "labels": len(tokens)},
                0.0,
            )
        ]
    found = []
    for names in groups.values():
        if len(names) >= MIN_GROUP_SIZE:
            start = _count_shared_tokens([tokens[name] for name in names])
            seen = (
                f"{format_names(names)} begin with the same {format_count(start, 'token')}: the "
                "model chooses the group before it reads what tells them apart"
            )
            figures = {"shared_tokens": start, "labels": len(names)}
            found.append(
                LabelFinding(
                    "tokens",
                    "look",
                    tuple(names),
                    seen,
                    _SHARED_PREFIX_ADVICE,
                    figures,
                    float(start * len(names)),
                )
            )
    return found


_SHARED_PREFIX_ADVICE = (
    "begin the names with the word that tells them apart, or write `readout: code`; servers that "
    "return only the likeliest first tokens cannot tell such labels apart"
)


def _find_prefix_labels(tokens: Mapping[str, Sequence[int]]) -> list[LabelFinding]:
    found = []
    for (first, one), (second, other) in combinations(tokens.items(), 2):
        short, long = sorted(((one, first), (other, second)), key=lambda pair: len(pair[0]))
        body = list(short[0][:-1])  # without the token that ends the turn
        if body and list(long[0][: len(body)]) == body:
            seen = (
                f"the tokens of {isolate_name(short[1])} are the beginning of "
                f"{isolate_name(long[1])}: only the end of the turn tells them apart"
            )
            advice = (
                "rename one of them: a model that writes freely prefers the longer one, and only "
                "engines in this process score where a label ends"
            )
            found.append(
                LabelFinding(
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


def _find_long_labels(tokens: Mapping[str, Sequence[int]]) -> list[LabelFinding]:
    usual = median(map(len, tokens.values())) if tokens else 0
    found = []
    for name, own in tokens.items():
        if len(own) >= MIN_LENGTH_RATIO * usual and len(own) >= usual + MIN_EXTRA_TOKENS:
            seen = (
                f"{isolate_name(name)} takes {format_count(len(own), 'token')}, the labels' "
                f"median is {usual:g}"
            )
            advice = (
                "a shorter name, or `readout: code`, costs less in every row; what it means "
                "belongs in the definition"
            )
            found.append(
                LabelFinding(
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


def _find_unusual_case(
    tokens: Mapping[str, Sequence[int]], lowercase_counts: Mapping[str, int]
) -> list[LabelFinding]:
    found = []
    for name, plain in lowercase_counts.items():
        own = len(tokens[name])
        if own >= plain + 2 and own >= 1.5 * plain:
            seen = (
                f"{isolate_name(name)} takes {format_count(own, 'token')}, in lower case {plain}: "
                "the model knows it as pieces rather than as a word"
            )
            advice = "write it in the case that texts use, or as words"
            found.append(
                LabelFinding(
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


def _count_shared_tokens(listed: Sequence[Sequence[int]]) -> int:
    shortest = min(map(len, listed))
    return next(
        (place for place in range(shortest) if len({own[place] for own in listed}) > 1), shortest
    )

"""Labels that are never or too often answered, and signs that a label is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from medtask.display import (
    format_count,
    format_list,
    format_percent,
    format_row_count,
    isolate_name,
)
from medtask.evaluation.labels.finding import LabelFinding, Severity, format_share
from medtask.evaluation.labels.pair_counts import GoldAnswerCounts, PairCells
from medtask.evaluation.statistics.intervals import IntArray, Metric, estimate_proportion
from medtask.evaluation.statistics.significance import ALPHA, adjust_p_values

MAX_OFF_SET_SHARE = 0.2  # share of rows in which the model's preferred output is not a label
MAX_LOW_CONFIDENCE_SHARE = 0.3
MIN_OVERUSE_RATIO = 2  # ratio of answers to gold rows

_FALLBACK_LABEL = (
    r"\b(others?|misc|miscellaneous|none|unknown|unclear|unspecified|undetermined|uncertain"
    r"|not enough|general)\b"
)


@dataclass(frozen=True, slots=True)
class OffSetCounts:
    """Rows with more than ``threshold`` off-set probability, and the mean over all rows."""

    rows: int
    above: int
    threshold: float
    mean: float


def find_usage_problems(pair_counts: GoldAnswerCounts, cells: PairCells) -> list[LabelFinding]:
    """Labels without answers, labels with too many answers, and labels without gold rows."""
    found = [*_find_never_answered(pair_counts, cells), *_find_overused(pair_counts, cells)]
    missing = [
        name
        for name, rows in zip(pair_counts.labels, count_gold_rows(cells), strict=True)
        if not rows and name != pair_counts.abstain
    ]
    if cells.n and missing:
        bound = bound_unseen_share(cells.n)
        found.append(
            LabelFinding(
                "never_in_gold",
                "note",
                tuple(missing),
                f"{format_names(missing)} {'is' if len(missing) == 1 else 'are'} not in the gold "
                f"of {format_row_count(cells.n)} (in at most {format_percent(bound)} of all "
                "rows, with 95 % confidence)",
                "nothing can be measured for labels without gold: add gold rows for them, or "
                "leave them out of the set",
                {"gold_rows": cells.n, "bound": bound},
                len(missing),
            )
        )
    return found


def _find_never_answered(pair_counts: GoldAnswerCounts, cells: PairCells) -> Iterator[LabelFinding]:
    """One finding for unanswered labels that gold has, one for the others."""
    in_gold = dict(zip(pair_counts.labels, count_gold_rows(cells).tolist(), strict=True))
    unused = [
        name
        for name in pair_counts.labels
        if pair_counts.answered
        and not pair_counts.answers_by_label[name]
        and name != pair_counts.abstain
    ]
    needed = sorted((name for name in unused if in_gold[name]), key=lambda name: -in_gold[name])
    rest = [name for name in unused if not in_gold[name]]
    bound = bound_unseen_share(pair_counts.answered)
    never = f"none of {format_count(pair_counts.answered)} answers is"
    most = f"at most {format_percent(bound)} of such rows are answered so (95 %)"
    figures: dict[str, object] = {
        "answers": pair_counts.answered,
        "bound": bound,
        "gold_rows": cells.n,
    }
    if needed:
        seen = (
            f"{never} {format_names(needed, in_gold)}; in brackets: how many of {cells.n:,} gold "
            f"rows have it; {most}"
        )
        advice = (
            "give each a definition and an example, or a name in the words of the texts; "
            "see what is answered in its place"
        )
        rows = {name: in_gold[name] for name in needed}
        found = LabelFinding(
            "never_predicted",
            "act",
            tuple(needed),
            seen,
            advice,
            {**figures, "in_gold": rows},
            sum(rows.values()),
        )
        yield found
    if rest:
        gold = f", and gold has none in {cells.n:,}" if cells.n else ""
        seen = f"{never} {format_names(rest)}{gold}; {most}"
        advice = (
            "leave out of the set what the texts cannot have; of what they can, find a few "
            "rows and look at their answers"
        )
        yield LabelFinding(
            "never_predicted", "note" if cells.n else "look", tuple(rest), seen, advice, figures
        )


def _find_overused(pair_counts: GoldAnswerCounts, cells: PairCells) -> Iterator[LabelFinding]:
    """Labels that are answered much more often than gold has them.

    A label that is not overused is as often in the answer alone as in gold alone: McNemar's exact
    test, one-sided, with Holm's correction over all labels.
    """
    from scipy.stats import binomtest

    alone = ((cells.answer & ~cells.gold) * cells.rows[:, None]).sum(axis=0).tolist()
    missed = ((cells.gold & ~cells.answer) * cells.rows[:, None]).sum(axis=0).tolist()
    given = (cells.answer * cells.rows[:, None]).sum(axis=0).tolist()
    in_gold = count_gold_rows(cells).tolist()
    both = zip(alone, missed, strict=True)
    p = [
        binomtest(more, more + less, alternative="greater").pvalue if more + less else 1.0
        for more, less in both
    ]
    adjusted = adjust_p_values(p)
    for place in sorted(range(len(p)), key=p.__getitem__):
        if adjusted[place] > ALPHA:
            return
        if (
            given[place] < MIN_OVERUSE_RATIO * max(1, in_gold[place])
            or pair_counts.labels[place] == pair_counts.abstain
        ):
            continue
        name = pair_counts.labels[place]
        wrong = estimate_proportion(alone[place], given[place])
        assert wrong is not None  # answered in twice as many rows as gold has it
        seen = (
            f"{isolate_name(name)} is answered in {given[place]:,} of {format_row_count(cells.n)} "
            f"with gold, and gold has it in {in_gold[place]:,}"
        )
        advice = (
            "narrow its definition, and give the others definitions as good; --prior tells "
            "whether the model prefers it unread"
        )
        figures = {
            "given": given[place],
            "in_gold": in_gold[place],
            "wrong": asdict(wrong),
            "p_adjusted": adjusted[place],
        }
        yield LabelFinding(
            "answered_too_often", "act", (name,), seen, advice, figures, float(alone[place])
        )


def count_gold_rows(cells: PairCells) -> IntArray:
    """Rows whose gold has each label, [labels]."""
    rows: IntArray = (cells.gold * cells.rows[:, None]).sum(axis=0)
    return rows


def bound_unseen_share(n: int) -> float:
    """Upper 95 % bound of a share with 0 of n hits (Clopper-Pearson; about 3/n)."""
    from scipy.stats import binomtest

    return (
        float(binomtest(0, n, alternative="less").proportion_ci(0.95, method="exact").high)
        if n
        else 1.0
    )


def find_missing_label(
    names: Sequence[str],
    abstain: str | None,
    exclusive: bool,
    pair_counts: GoldAnswerCounts | None = None,
    off_set: OffSetCounts | None = None,
) -> list[LabelFinding]:
    """Check whether texts that fit no label can be answered.

    ``exclusive`` is whether every row gets exactly one label. Without counts, only advice is
    returned.
    """
    fallback_label = abstain or next(
        (name for name in names if re.search(_FALLBACK_LABEL, name, re.IGNORECASE)), None
    )
    signs, figures = _list_missing_label_signs(pair_counts, off_set)
    unknown_gold = pair_counts.unknown_gold if pair_counts else 0
    if unknown_gold and pair_counts:
        signs.append(
            f"gold is not a label of the task in {unknown_gold:,} of "
            f"{format_row_count(unknown_gold + pair_counts.gold_rows)} with gold"
        )
        figures["strange_gold"] = unknown_gold
    if not signs:
        if not exclusive or fallback_label:
            return []
        forced = (
            f"every text gets one of the {format_count(len(names))} labels, even one that none fits"
        )
        seen = f'the set has neither "other" nor an abstention: {forced}'
        return [
            LabelFinding("missing_label", "note", (), seen, _advise_on_missing_label(None), {}, 0.0)
        ]
    weight: Severity = "act" if unknown_gold else "look"
    return [
        LabelFinding(
            "missing_label",
            weight,
            (fallback_label,) if fallback_label else (),
            "; ".join(signs),
            _advise_on_missing_label(fallback_label),
            figures,
            float(len(signs)),
        )
    ]


def _list_missing_label_signs(
    pair_counts: GoldAnswerCounts | None, off_set: OffSetCounts | None
) -> tuple[list[str], dict[str, object]]:
    signs: list[str] = []
    figures: dict[str, object] = {}
    if off_set and (share := estimate_proportion(off_set.above, off_set.rows)):
        figures |= {"off_set": asdict(share), "off_set_mean": off_set.mean}
        if share.value > MAX_OFF_SET_SHARE:
            signs.append(
                "the model gave answers outside the labels more than "
                f"{off_set.threshold:g} of its probability in {_format_rows(share, off_set.above)}"
            )
    if pair_counts and (
        share := estimate_proportion(pair_counts.low_confidence, pair_counts.rows_with_confidence)
    ):
        figures["unsure"] = asdict(share)
        if share.value > MAX_LOW_CONFIDENCE_SHARE:
            signs.append(
                f"the confidence is below {pair_counts.confidence_threshold:g} in "
                f"{_format_rows(share, pair_counts.low_confidence)}"
            )
    return signs, figures


def _format_rows(share: Metric, rows: int) -> str:
    return f"{rows:,} of {format_row_count(share.n)} ({format_share(share)})"


def _advise_on_missing_label(fallback_label: str | None) -> str:
    look = "read the rows that the report lists as doubtful"
    if fallback_label:
        return (
            f"{look}, and say in the definition of {isolate_name(fallback_label)} when it applies"
        )
    label = 'a label "other" whose definition says when it applies'
    return (
        f"{look}: what they have in common may be a new label; else add {label}, or "
        '"abstain: not enough information"'
    )


def format_names(names: Sequence[str], counts: Mapping[str, int] | None = None) -> str:
    """List names in a sentence, with their counts if given, and the number of further names."""
    return format_list(
        [isolate_name(name) + (f" ({counts[name]:,})" if counts else "") for name in names]
    )

"""Labels that nobody uses, and signs that the set lacks one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from medtask.evaluate.comparison import ALPHA, correct_holm
from medtask.evaluate.findings.finding import Finding, Weight, tell_share
from medtask.evaluate.findings.pairs import Cells, PairCounts
from medtask.evaluate.intervals import Counts, Estimate, estimate_share
from medtask.evaluate.words import count, count_rows, isolate, percent

NAMED = 12  # labels that a sentence names
MANY_OFF_SET = 0.2  # of the rows: the model wanted to say something that is no label
MANY_UNSURE = 0.3
TIMES = 2  # more often than gold has it

_SPARE = (
    r"\b(others?|misc|miscellaneous|none|unknown|unclear|unspecified|undetermined|uncertain"
    r"|not enough|general)\b"
)


@dataclass(frozen=True, slots=True)
class OffSet:
    """How many of ``rows`` spent more than ``bound`` of their probability on something that is no
    label; ``mean`` of all.
    """

    rows: int
    above: int
    bound: float
    mean: float


def find_unused(tally: PairCounts, cells: Cells) -> list[Finding]:
    """Labels that no answer has, that too many answers have, and that gold never has."""
    found = [*_find_unanswered(tally, cells), *_find_greedy(tally, cells)]
    missing = [
        name
        for name, rows in zip(tally.labels, count_gold(cells), strict=True)
        if not rows and name != tally.abstain
    ]
    if cells.n and missing:
        bound = bound_unseen(cells.n)
        found.append(
            Finding(
                "never_in_gold",
                "note",
                tuple(missing),
                f"{name_some(missing)} {_are(missing)} not in the gold of {count_rows(cells.n)} "
                f"(in at most {percent(bound)} of all rows)",
                "no figure can be told for what gold does not have: add gold rows for it, or "
                "leave it out of the set",
                {"gold_rows": cells.n, "bound": bound},
                len(missing),
            )
        )
    return found


def _find_unanswered(tally: PairCounts, cells: Cells) -> Iterator[Finding]:
    """One finding for the labels that gold has, one for the others."""
    in_gold = dict(zip(tally.labels, count_gold(cells).tolist(), strict=True))
    unused = [
        name
        for name in tally.labels
        if tally.answered and not tally.given[name] and name != tally.abstain
    ]
    needed = sorted((name for name in unused if in_gold[name]), key=lambda name: -in_gold[name])
    rest = [name for name in unused if not in_gold[name]]
    bound = bound_unseen(tally.answered)
    never = f"none of {count(tally.answered)} answers is"
    most = f"at most {percent(bound)} of such rows are answered so (95 %)"
    figures: dict[str, object] = {"answers": tally.answered, "bound": bound, "gold_rows": cells.n}
    if needed:
        seen = (
            f"{never} {name_some(needed, in_gold)}, with how many of {cells.n:,} gold rows "
            f"have it; {most}"
        )
        advice = (
            "give each a definition and an example, or a name in the words of the texts; "
            "see what is answered in its place"
        )
        rows = {name: in_gold[name] for name in needed}
        found = Finding(
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
        seen = f"{never} {name_some(rest)}{gold}; {most}"
        advice = (
            "leave out of the set what the texts cannot have; of what they can, find a few "
            "rows and look at their answers"
        )
        yield Finding(
            "never_predicted", "note" if cells.n else "look", tuple(rest), seen, advice, figures
        )


def _find_greedy(tally: PairCounts, cells: Cells) -> Iterator[Finding]:
    """Labels that are answered far more often than gold has them.

    Of the rows where gold and answer disagree about a label, as many have it in the answer alone as
    in gold alone, if the label is answered as often as it should be: McNemar's exact test,
    one-sided, by Holm's rule for all labels together.
    """
    from scipy.stats import binomtest

    alone = ((cells.answer & ~cells.gold) * cells.rows[:, None]).sum(axis=0).tolist()
    missed = ((cells.gold & ~cells.answer) * cells.rows[:, None]).sum(axis=0).tolist()
    given = (cells.answer * cells.rows[:, None]).sum(axis=0).tolist()
    in_gold = count_gold(cells).tolist()
    both = zip(alone, missed, strict=True)
    p = [
        binomtest(more, more + less, alternative="greater").pvalue if more + less else 1.0
        for more, less in both
    ]
    adjusted = correct_holm(p)
    for place in sorted(range(len(p)), key=p.__getitem__):
        if adjusted[place] > ALPHA:
            return
        if given[place] < TIMES * max(1, in_gold[place]) or tally.labels[place] == tally.abstain:
            continue
        name = tally.labels[place]
        wrong = estimate_share(alone[place], given[place])
        assert wrong is not None  # it is given in twice as many rows as gold has it
        seen = (
            f"{isolate(name)} is answered in {given[place]:,} of {count_rows(cells.n)} with "
            f"gold, and gold has it in {in_gold[place]:,}"
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
        yield Finding(
            "answered_too_often", "act", (name,), seen, advice, figures, float(alone[place])
        )


def count_gold(cells: Cells) -> Counts:
    """[labels]: rows whose gold has the label."""
    rows: Counts = (cells.gold * cells.rows[:, None]).sum(axis=0)
    return rows


def bound_unseen(n: int) -> float:
    """How frequent what was not seen in ``n`` rows can be, with 95 % confidence: Clopper and
    Pearson's bound for 0 of n, for which 3/n is the rule of thumb.
    """
    from scipy.stats import binomtest

    return (
        float(binomtest(0, n, alternative="less").proportion_ci(0.95, method="exact").high)
        if n
        else 1.0
    )


def find_missing(
    names: Sequence[str],
    abstain: str | None,
    exclusive: bool,
    tally: PairCounts | None = None,
    off_set: OffSet | None = None,
) -> list[Finding]:
    """Whether the set lacks an answer for texts that fit none of its labels.

    ``exclusive``: every row gets exactly one label. Without ``tally`` and ``off_set`` there are no
    signs, only the question.
    """
    spare = abstain or next(
        (name for name in names if re.search(_SPARE, name, re.IGNORECASE)), None
    )
    signs, figures = _list_signs(tally, off_set)
    strange = tally.strange_gold if tally else 0
    if strange and tally:
        signs.append(
            f"gold is no label of the set in {strange:,} of "
            f"{count_rows(strange + tally.gold_rows)} with gold"
        )
        figures["strange_gold"] = strange
    if not signs:
        if not exclusive or spare:
            return []
        forced = f"every text gets one of the {count(len(names))} labels, even one that none fits"
        seen = f'the set has neither "other" nor an abstention: {forced}'
        return [Finding("missing_label", "note", (), seen, _advise(None), {}, 0.0)]
    weight: Weight = "act" if strange else "look"
    return [
        Finding(
            "missing_label",
            weight,
            (spare,) if spare else (),
            "; ".join(signs),
            _advise(spare),
            figures,
            float(len(signs)),
        )
    ]


def _list_signs(
    tally: PairCounts | None, off_set: OffSet | None
) -> tuple[list[str], dict[str, object]]:
    signs: list[str] = []
    figures: dict[str, object] = {}
    if off_set and (share := estimate_share(off_set.above, off_set.rows)):
        figures |= {"off_set": asdict(share), "off_set_mean": off_set.mean}
        if share.value > MANY_OFF_SET:
            wanted = (
                "the model wanted to say something else than a label with more than "
                f"{off_set.bound:g} of its probability"
            )
            signs.append(f"{wanted} in {_tell_rows(share, off_set.above)}")
    if tally and (share := estimate_share(tally.unsure, tally.rated)):
        figures["unsure"] = asdict(share)
        if share.value > MANY_UNSURE:
            signs.append(
                f"the confidence is below {tally.unsure_below:g} in "
                f"{_tell_rows(share, tally.unsure)}"
            )
    return signs, figures


def _tell_rows(share: Estimate, rows: int) -> str:
    return f"{rows:,} of {count_rows(share.n)} ({tell_share(share)})"


def _advise(spare: str | None) -> str:
    look = "read the rows that the report lists as doubtful"
    if spare:
        return f"{look}, and say in the definition of {isolate(spare)} when it applies"
    label = 'a label "other" whose definition says when it applies'
    return (
        f"{look}: what they have in common may be a label of its own; else add {label}, or "
        '"abstain: not enough information"'
    )


def name_some(names: Sequence[str], counts: Mapping[str, int] | None = None) -> str:
    """Names for a sentence, each with its count where there are some, and how many more."""
    shown = ", ".join(
        isolate(name) + (f" ({counts[name]:,})" if counts else "") for name in names[:NAMED]
    )
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"

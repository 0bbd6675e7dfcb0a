"""How well two readers agree who gave gold for the same rows: as far as that goes, gold can tell
how good a model is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medtask.evaluate.blocks import Align, Block, Cell, Heading, Picture, Table, Text
from medtask.evaluate.cases import cut_text
from medtask.evaluate.comparison import ALPHA, describe_p
from medtask.evaluate.intervals import Estimate, Units
from medtask.evaluate.kappa import estimate_kappa
from medtask.evaluate.kinds.choice import read_letters
from medtask.evaluate.kinds.kind import Kind
from medtask.evaluate.paired import Entry, compare_pair, describe_gap
from medtask.evaluate.plots import draw_intervals
from medtask.evaluate.tally import group_rows
from medtask.evaluate.weigh import Weighed, estimate, estimate_share_of, weigh_answers
from medtask.evaluate.words import capital, count_rows, read_value, shorten

SHOWN = 100  # disagreements that a report lists
LABELS = 40  # labels whose kappa a report lists
NOTHING = "no answer"
_MEASURES = {
    "label": "accuracy",
    "labels": "jaccard",
    "choice": "accuracy",
    "answer": "token_f1",
    "fields": "fields_right",
}
_WORDS = {
    "label": "agreement",
    "labels": "mean Jaccard",
    "choice": "agreement",
    "answer": "token F1",
    "fields": "fields that agree",
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two columns say the same, on ``rows`` rows.

    ``share``: the share of rows, or the mean likeness of kinds that are more or less alike (see
    _MEASURES). ``exact``: of sets, those that are equal. ``kappa``: Cohen's (1960), which takes off
    the agreement that chance alone would give; None, with the reason in ``note``, where one of the
    two, or both, always say the same, so that chance explains all. ``labels``: kappa of each label,
    of kind ``labels``.
    """

    one: str
    other: str
    rows: int
    share: Estimate
    exact: Estimate | None = None
    kappa: Estimate | None = None
    labels: Mapping[str, Estimate | None] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One row on which two readers differ; values in words. ``text`` is cut short."""

    row: int
    record_id: str
    first: str
    second: str
    model: str
    text: str


@dataclass(frozen=True, slots=True)
class Readers:
    """Two readers against each other (the ceiling) and the model against each, and against both
    where they agree.

    ``behind``: by how much the model agrees less with a reader than the other reader does (below 0:
    less), with its p, by the name of the reader who stands for gold. ``lone``: rows that only one
    reader has read. ``disagreements``: up to 100, in the order of the rows, of ``disagreed``.
    """

    names: tuple[str, str]
    kind: Kind
    ceiling: Agreement
    model: tuple[Agreement, Agreement]
    consensus: Agreement | None
    behind: Mapping[str, tuple[Estimate, float]]
    lone: int
    groups: int | None
    disagreed: int
    disagreements: tuple[Disagreement, ...]

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text, and without what was said: answers may be text."""
        return {
            "readers": list(self.names),
            "rows": self.ceiling.rows,
            "lone": self.lone,
            "groups": self.groups,
            "ceiling": asdict(self.ceiling),
            "model": [asdict(one) for one in self.model],
            "consensus": asdict(self.consensus) if self.consensus else None,
            "model_minus_other_reader": {
                name: {**asdict(gap), "p": p} for name, (gap, p) in self.behind.items()
            },
            "disagreements": {
                "rows": self.disagreed,
                "first": [{"row": one.row, "id": one.record_id} for one in self.disagreements],
            },
        }

    def lines(self) -> list[str]:
        """The ceiling in sentences, for a terminal."""
        first, second = self.names
        what = _WORDS[self.kind]
        each = " and ".join(f"with {one.other} in {_tell(one.share)}" for one in self.model)
        told = (
            f"{first} and {second} agree in {_tell(self.ceiling.share)} ({what}, n = "
            f"{self.ceiling.rows:,}); the model agrees {each}."
        )
        sentences = [told, _tell_kappa(self.ceiling)]
        sentences += [
            _tell_gap(name, second if name == first else first, gap, p)
            for name, (gap, p) in self.behind.items()
        ]
        if self.consensus:
            both = f"Where both agree ({count_rows(self.consensus.rows)})"
            sentences.append(
                f"{both}, the model agrees with them in {_tell(self.consensus.share)}."
            )
        if self.lone:
            sentences.append(
                f"{count_rows(self.lone)} that only one of them has read "
                f"{'are' if self.lone != 1 else 'is'} left out."
            )
        return sentences

    def tell(self) -> list[Block]:
        """What a report shows."""
        what, compared = (
            _WORDS[self.kind],
            [self.ceiling, *self.model, *([self.consensus] if self.consensus else [])],
        )
        head: list[tuple[str, Align]] = [("Who", "l"), (capital(what), "n")]
        head += [("Equal sets", "n")] if self.kind == "labels" else []
        head += [("Kappa", "n"), ("Rows", "n")]
        drawn = [
            (f"{shorten(one.one, 40)} and {shorten(one.other, 40)}", one.share) for one in compared
        ]
        caption = (
            f"{capital(what)} with 95 % intervals: the readers with each other first, "
            "which is what a person reaches."
        )
        blocks: list[Block] = [
            Text(" ".join(self.lines())),
            Picture(caption, draw_intervals(drawn, f"{capital(what)} of readers and model")),
            Table(
                "Readers and model", tuple(head), [_list_cells(one, self.kind) for one in compared]
            ),
        ]
        if self.ceiling.labels:
            blocks += _tell_labels(self.ceiling)
        if self.disagreements:
            blocks += _tell_disagreements(self)
        return blocks


def compare_readers(
    first: Sequence[Any],
    second: Sequence[Any],
    model: Sequence[Any],
    *,
    names: tuple[str, str] = ("A", "B"),
    kind: Kind = "label",
    labels: Sequence[str] = (),
    ids: Sequence[str] = (),
    rows: Sequence[int] = (),
    texts: Sequence[str] = (),
    groups: Sequence[str | None] = (),
    seed: int = 0,
) -> Readers | None:
    """Two readers' columns and the model's answers, row by row; None where no row was read by both.

    A reader's value is None where there is none, and has to be a truth of the kind; the model's is
    None where it gave no answer, which agrees with nobody. ``labels``: all that can be said, an
    abstention among them; what occurs besides is added. ``ids``, ``rows`` and ``texts`` are for the
    list of disagreements. Rows of one of the ``groups`` are drawn together.
    """
    read = [
        place
        for place, (one, other) in enumerate(zip(first, second, strict=True))
        if one is not None and other is not None
    ]
    if not read:
        return None
    lone = sum((one is None) != (other is None) for one, other in zip(first, second, strict=True))
    one, other, said = ([column[place] for place in read] for column in (first, second, model))
    shared = [groups[place] for place in read] if groups else []
    if kind == "choice" and any(isinstance(value, tuple) for value in (*one, *other, *said)):
        kind, (one, other, said) = (
            "labels",
            ([read_letters(value) for value in column] for column in (one, other, said)),
        )
    classes = _list_classes(kind, labels, (one, other, said))
    differing = [
        place
        for place, (left, right) in enumerate(zip(one, other, strict=True))
        if not _is_equal(left, right)
    ]
    agreed = sorted(set(range(len(read))) - set(differing))
    agree = _Comparer(kind, classes, seed)
    both, answers = ([column[place] for place in agreed] for column in (one, said))
    consensus = agree(
        ("the model", "both readers"),
        both,
        answers,
        [shared[place] for place in agreed] if shared else [],
    )

    def describe(place: int) -> Disagreement:
        at, text = read[place], cut_text(texts[read[place]], 300) if texts else ""
        left, right, answer = (_read(column[place]) for column in (one, other, said))
        return Disagreement(
            rows[at] if rows else at + 1, ids[at] if ids else "", left, right, answer, text
        )

    ceiling = agree(names, one, other, shared)
    against = [
        agree(("the model", name), truth, said, shared)
        for name, truth in zip(names, (one, other), strict=True)
    ]
    assert ceiling is not None and against[0] is not None and against[1] is not None
    return Readers(
        names=names,
        kind=kind,
        ceiling=ceiling,
        model=(against[0], against[1]),
        consensus=consensus,
        behind={
            names[0]: agree.hold(said, other, one, shared),
            names[1]: agree.hold(said, one, other, shared),
        },
        lone=lone,
        groups=group_rows(shared, len(read)).groups,
        disagreed=len(differing),
        disagreements=tuple(describe(place) for place in differing[:SHOWN]),
    )


class _Comparer:
    """How columns of one kind are held against each other."""

    def __init__(self, kind: Kind, classes: Sequence[str], seed: int) -> None:
        self._kind, self._classes, self._seed = kind, classes, seed

    def __call__(
        self,
        names: tuple[str, str],
        truth: Sequence[Any],
        said: Sequence[Any],
        groups: Sequence[str | None],
    ) -> Agreement | None:
        if not truth:
            return None
        units, weighed = group_rows(groups, len(truth)), self._weigh(truth, said)
        share = weighed[_MEASURES[self._kind]]
        if self._kind == "labels":
            exact, kappas = (
                estimate_share_of(weighed["exact_match"], units, seed=self._seed),
                self._list_kappas(truth, said, units),
            )
            return Agreement(
                *names, len(truth), estimate(share, units, seed=self._seed), exact, labels=kappas
            )
        if self._kind not in ("label", "choice"):
            return Agreement(*names, len(truth), estimate(share, units, seed=self._seed))
        kappa = estimate_kappa(truth, said, units, seed=self._seed)
        note = (
            ""
            if kappa
            else "kappa is not defined: both always say the same one thing, as chance would have it"
        )
        return Agreement(
            *names,
            len(truth),
            estimate_share_of(share, units, seed=self._seed),
            kappa=kappa,
            note=note,
        )

    def hold(
        self,
        model: Sequence[Any],
        reader: Sequence[Any],
        gold: Sequence[Any],
        groups: Sequence[str | None],
    ) -> tuple[Estimate, float]:
        """The model and a reader as two systems, with the other reader as gold: the difference and
        its p.
        """
        entries = []
        for name, given in (("model", model), ("reader", reader)):
            weighed = self._weigh(gold, given)
            measure = _MEASURES[self._kind]
            right = (
                [_is_equal(value, truth) for value, truth in zip(given, gold, strict=True)]
                if measure == "accuracy"
                else None
            )
            entries.append(Entry(name, {measure: weighed[measure]}, right))
        pair = compare_pair(entries[0], entries[1], groups, seed=self._seed)
        return pair.headline[1], pair.p

    def _weigh(self, truth: Sequence[Any], said: Sequence[Any]) -> dict[str, Weighed]:
        return weigh_answers(self._kind, self._classes, truth, said)

    def _list_kappas(
        self, one: Sequence[Any], other: Sequence[Any], units: Units
    ) -> dict[str, Estimate | None]:
        """By label that either has, each a question of its own: does it apply?"""
        found = {}
        for name in self._classes:
            here, there = ([name in (value or ()) for value in column] for column in (one, other))
            if any(here) or any(there):
                found[name] = estimate_kappa(here, there, units, seed=self._seed)
        return found


def _list_classes(
    kind: Kind, labels: Sequence[str], columns: Sequence[Sequence[Any]]
) -> tuple[str, ...]:
    if kind not in ("label", "labels"):
        return tuple(labels)
    values = (value for column in columns for value in column if value is not None)
    names = (name for value in values for name in ((value,) if isinstance(value, str) else value))
    return tuple(dict.fromkeys((*labels, *names)))


def _is_equal(one: Any, other: Any) -> bool:
    """Sets are equal in any order."""
    return (
        set(one) == set(other)
        if isinstance(one, tuple) and isinstance(other, tuple)
        else bool(one == other)
    )


def _read(value: Any) -> str:
    return NOTHING if value is None else cut_text(read_value(value), 300)


def _tell(share: Estimate) -> str:
    interval = (
        f" ({share.low:.2f}-{share.high:.2f})"
        if share.low is not None and share.high is not None
        else ""
    )
    return f"{share.value:.2f}{interval}"


def _tell_kappa(agreement: Agreement) -> str:
    if agreement.kappa:
        return f"Their kappa, which takes chance off, is {_tell(agreement.kappa)}."
    if agreement.labels:
        known = [kappa.value for kappa in agreement.labels.values() if kappa]
        exact = f"Their sets are equal in {_tell(agreement.exact)}" if agreement.exact else ""
        return (
            f"{exact}; kappa by label is {min(known):.2f} to {max(known):.2f}."
            if known
            else f"{exact}."
        )
    return (
        f"{capital(agreement.note)}."
        if agreement.note
        else "There is no kappa for this kind of answer."
    )


def _tell_gap(name: str, rival: str, gap: Estimate, p: float) -> str:
    told = f"by {describe_gap(gap)}, {describe_p(p)}"
    if p >= ALPHA:
        return f"Held against {name}, the model and {rival} show no clear difference ({told})."
    return (
        f"Held against {name}, the model is {'better' if gap.value > 0 else 'worse'} than "
        f"{rival}, {told}."
    )


def _list_cells(one: Agreement, kind: Kind) -> list[Cell]:
    cells: list[Cell] = [
        f"{one.one} and {one.other}",
        (f"{one.share.value:.3f}", one.share.interval),
    ]
    if kind == "labels":
        cells.append((f"{one.exact.value:.3f}", one.exact.interval) if one.exact else "–")
    cells.append((f"{one.kappa.value:.3f}", one.kappa.interval) if one.kappa else "–")
    return [*cells, f"{one.rows:,}"]


def _tell_labels(ceiling: Agreement) -> list[Block]:
    lines: list[list[Cell]] = [
        [name, (f"{kappa.value:.3f}", kappa.interval) if kappa else "–"]
        for name, kappa in list(ceiling.labels.items())[:LABELS]
    ]
    caption = (
        f"The first {LABELS} of {len(ceiling.labels):,} labels."
        if len(ceiling.labels) > LABELS
        else ""
    )
    return [
        Heading("Kappa of the readers, label by label"),
        Table("Kappa by label", (("Label", "l"), ("Kappa", "n")), lines, caption),
    ]


def _tell_disagreements(readers: Readers) -> list[Block]:
    who: list[tuple[str, Align]] = [
        (shorten(name, 30), "l") for name in (*readers.names, "The model")
    ]
    head: tuple[tuple[str, Align], ...] = (("Row", "v"), *who, ("Text", "w"))
    lines: list[list[Cell]] = [
        [f"{one.row:,} {one.record_id}".strip(), one.first, one.second, one.model, one.text]
        for one in readers.disagreements
    ]
    more = f"; the first {SHOWN}" if readers.disagreed > SHOWN else ""
    return [
        Heading("Where the readers differ"),
        Text(
            f"{count_rows(readers.disagreed)}{more}. A third reader should settle these before "
            "they count as gold.",
            "quiet",
        ),
        Table("Disagreements", head, lines),
    ]

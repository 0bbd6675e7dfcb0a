"""Rows on which one of two systems is right and the other is not, or nearer to gold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medtask.evaluate.cases import Case, Piece, cut_text, describe_case
from medtask.evaluate.contest import Contest, Entrant
from medtask.evaluate.intervals import Figures, divide
from medtask.evaluate.weigh import weigh_answers

SHOWN = 12  # rows of each direction


@dataclass(frozen=True, slots=True)
class Said:
    """What one system made of a row; ``right`` is None where there is no right and wrong."""

    name: str
    value: str
    confidence: float | None
    right: bool | None


@dataclass(frozen=True, slots=True)
class Dispute:
    """One row: its text, what gold says, and what each of the two systems said."""

    row: int
    record_id: str
    pieces: tuple[Piece, ...]
    options: tuple[str, ...]
    gold: str
    said: tuple[Said, Said]


@dataclass(frozen=True, slots=True)
class Disputes:
    """The rows on which ``ahead`` is nearer to gold than ``behind``: ``count`` in all, the clearest
    shown first.
    """

    ahead: str
    behind: str
    count: int
    shown: tuple[Dispute, ...]

    def to_json(self) -> dict[str, object]:
        """Without record text."""
        rows = [{"row": one.row, "id": one.record_id} for one in self.shown]
        return {"ahead": self.ahead, "behind": self.behind, "rows": self.count, "first": rows}


def find_disputes(contest: Contest, first: str, second: str) -> tuple[Disputes, Disputes]:
    """Both directions. The clearest are those with the largest difference; of equal ones those of
    which the wrong one is surest.
    """
    one, other = (
        next(entrant for entrant in contest.entrants if entrant.name == name)
        for name in (first, second)
    )
    gaps = _score(contest, one) - _score(contest, other)
    return _describe(contest, one, other, gaps), _describe(contest, other, one, -gaps)


def _score(contest: Contest, entrant: Entrant) -> Figures:
    """Each row's headline figure, in [0, 1]."""
    headline = next(
        iter(weigh_answers(contest.kind, contest.classes, contest.gold, entrant.given).values())
    )
    over, under = headline.sums.toarray().T
    shares = divide(over, under)
    return np.where(
        np.isnan(shares), 1.0, shares
    )  # neither gold nor the answer names anything: they agree


def _describe(contest: Contest, ahead: Entrant, behind: Entrant, gaps: Figures) -> Disputes:
    places = np.flatnonzero(gaps > 1e-9).tolist()
    ranked = sorted(
        places,
        key=lambda place: (
            -gaps[place],
            -(behind.answers[place].confidence or 0.0),
            ahead.rows[place],
        ),
    )
    return Disputes(
        ahead.name,
        behind.name,
        len(places),
        tuple(_show(contest, ahead, behind, place) for place in ranked[:SHOWN]),
    )


def _show(contest: Contest, ahead: Entrant, behind: Entrant, place: int) -> Dispute:
    cases = [
        describe_case(
            entrant.rows[place],
            entrant.answers[place],
            contest.texts[place],
            contest.gold[place],
            kind=contest.kind,
            options=contest.options[place],
        )
        for entrant in (ahead, behind)
    ]
    said = [
        Said(entrant.name, _read(case), case.confidence, entrant.right[place])
        for entrant, case in zip((ahead, behind), cases, strict=True)
    ]
    case = cases[0]
    return Dispute(
        case.row,
        cut_text(case.record_id, 80),
        case.pieces,
        case.options,
        case.gold or "none applies",
        (said[0], said[1]),
    )


def _read(case: Case) -> str:
    if case.value is not None:
        return case.value
    return f"no answer ({case.status.replace('_', ' ')})"


def list_rivals(names: Sequence[str], most: int = 3) -> list[tuple[str, str]]:
    """The best system beside each of the next ones."""
    return [(names[0], other) for other in names[1 : most + 1]]

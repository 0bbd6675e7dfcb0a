"""Papers: a title, and an abstract of what was asked, how, and what came of it; a paper may belong
to several domains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from making.rows import draw_rows, repeat_dirty
from making.words import Dice, Row, choose, draw_patient, fill, read_fragments

BOTH = " + "  # between the domains of one paper, in the names of the fragments' blocks


def make_clean(example: str, split: str, count: int, taken: set[str]) -> Iterator[Row]:
    extras = read_fragments(example, "extras")
    studies = {
        name: [line.split(" // ") for line in block.strip().splitlines()]
        for name, block in read_fragments(example, split).items()
    }
    yield from draw_rows(
        (example, split),
        extras["shares"],
        studies,
        lambda *drawn: make_row(extras, *drawn),
        count,
        taken,
    )


def make_row(extras: dict[str, Any], domains: str, study: list[str], dice: Dice) -> Row:
    """``study``: title, aim, findings; between them how it was done, behind them what it may also
    say.
    """
    title, aim, findings = study
    names = domains.split(BOTH)
    parts = [aim, dice.pick(extras["design"]), findings]
    elsewhere = [
        line
        for domain, lines in extras["excluded"].items()
        if domain not in names
        for line in lines
    ]
    if dice.happens(0.25):
        parts.insert(2, dice.pick(elsewhere))
    if dice.happens(0.6):
        parts.append(dice.pick(extras["closing"]))
    patient = draw_patient(aim, dice)
    title, *parts = [fill(choose(part, dice), patient, dice) for part in (title, *parts)]
    gold = "; ".join(names) if dice.happens(0.1) else json.dumps(names)
    return {"title": title, "text": " ".join(parts), "gold": gold}


def make_dirty(example: str) -> Iterator[Row]:
    return repeat_dirty(read_fragments(example, "dirty")["row"])

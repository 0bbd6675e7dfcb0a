"""Short operation and pathology notes, written from the facts that a registry wants to know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from making.rows import draw_rows, repeat_dirty
from making.words import Dice, Patient, Row, choose, fill, read_fragments

FIRST_DAY = date(2022, 1, 3)
DAYS = 1200
NO_SIDE = "not applicable"
# None: the note does not tell. A day above 12, since 03/04 is another day in another country.
DATE_STYLES = ("%Y-%m-%d", "%d/%m/%Y", "%d %B %Y", "%d-%b-%Y", "%d.%m.%Y")


@dataclass(frozen=True, slots=True)
class Facts:
    """``size_mm``, ``nodes``: None where the note does not tell. ``complications``: in the words of
    the note.
    """

    laterality: str
    size_mm: int | None
    margin: str
    day: date
    nodes: int | None
    complications: tuple[str, ...]

    def write(self) -> str:
        """As the task's schema wants them."""
        return json.dumps(
            {
                "laterality": self.laterality,
                "tumour_size": self.size_mm,
                "margin": self.margin,
                "operation_date": self.day.isoformat(),
                "lymph_nodes_examined": self.nodes,
                "complications": list(self.complications),
            }
        )


def make_clean(example: str, split: str, count: int, taken: set[str]) -> Iterator[Row]:
    fragments = read_fragments(example, split)
    operations = {"operation": fragments["operations"].strip().splitlines()}
    yield from draw_rows(
        (example, split),
        {"operation": 1},
        operations,
        lambda *drawn: make_row(fragments, *drawn),
        count,
        taken,
    )


def make_row(fragments: Mapping[str, Any], _: str, operation: str, dice: Dice) -> Row:
    facts = draw_facts(fragments, operation, dice)
    side = (
        facts.laterality if facts.laterality in ("left", "right") else dice.pick(("left", "right"))
    )
    patient = Patient(int(dice.between("38", "86")), dice.pick("MF"), side)
    parts = [
        operation,
        *(choose(dice.pick(lines), dice) for lines in pick_sentences(fragments, facts, dice)),
    ]
    text = " ".join(
        fill(write_numbers(choose(part, dice), facts, dice), patient, dice)
        for part in parts
        if part
    )
    return {"text": text.upper() if dice.happens(0.05) else text, "gold": facts.write()}


def draw_facts(fragments: Mapping[str, Any], operation: str, dice: Dice) -> Facts:
    laterality = (
        "bilateral"
        if "ilateral" in operation
        else "left"
        if "{side}" in operation.lower() or "{l}" in operation
        else NO_SIDE
    )
    if laterality == "left":
        laterality = dice.pick(("left", "right"))
    day = FIRST_DAY + timedelta(days=dice.below(DAYS))
    return Facts(
        laterality,
        None if dice.happens(0.1) else int(dice.between("4", "95")),
        dice.pick(("clear", "clear", "close", "involved", "not stated")),
        day if day.day > 12 else day.replace(day=day.day + 12),
        None if dice.happens(0.3) else int(dice.between("1", "34")),
        tuple(dice.shuffle(fragments["complications"])[: dice.pick((0, 0, 1, 1, 2))]),
    )


def pick_sentences(
    fragments: Mapping[str, Any], facts: Facts, dice: Dice
) -> Iterator[Sequence[str]]:
    """For each thing that the note says the ways of saying it; the day comes first or last."""
    yield fragments["day"]
    if facts.size_mm is not None:
        yield fragments["size"]
    if facts.margin != "not stated":
        yield fragments["margin"][facts.margin]
    elif dice.happens(0.5):
        yield fragments["margin"]["not stated"]
    yield fragments["nodes"] if facts.nodes is not None else fragments["no_nodes"]
    yield fragments["course"][
        "two" if len(facts.complications) == 2 else "one" if facts.complications else "none"
    ]
    if dice.happens(0.3):
        yield fragments["aside"]


def write_numbers(text: str, facts: Facts, dice: Dice) -> str:
    """The facts in the places that the fragments keep for them."""
    size = facts.size_mm or 0
    first, second = (*facts.complications, "", "")[:2]
    written = {
        "<mm>": str(size),
        "<cm>": f"{size / 10:.1f}",
        "<less>": str(max(2, size - 1 - dice.below(1 + size // 3))),
        "<day>": facts.day.strftime(dice.pick(DATE_STYLES)),
        "<nodes>": str(facts.nodes),
        "<positive>": str(dice.below(1 + (facts.nodes or 0) // 3)),
        "<first>": first,
        "<second>": second,
    }
    for place, words in written.items():
        text = text.replace(place, words)
    return text


def make_dirty(example: str) -> Iterator[Row]:
    return repeat_dirty(read_fragments(example, "dirty")["row"])

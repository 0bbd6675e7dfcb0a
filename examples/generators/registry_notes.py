"""Short operation and pathology notes, written from the facts that a registry wants to know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from generators.fragments import (
    Patient,
    Row,
    StableRandom,
    fill_slots,
    read_fragments,
    resolve_choices,
)
from generators.rows import draw_rows, repeat_dirty_rows

FIRST_DAY = date(2022, 1, 3)
DAYS = 1200
NO_LATERALITY = "not applicable"
# None: the note does not tell. A day above 12, since 03/04 is another day in another country.
DATE_STYLES = ("%Y-%m-%d", "%d/%m/%Y", "%d %B %Y", "%d-%b-%Y", "%d.%m.%Y")


@dataclass(frozen=True, slots=True)
class RegistryFacts:
    """``size_mm``, ``nodes``: None where the note does not tell. ``complications``: in the words of
    the note.
    """

    laterality: str
    size_mm: int | None
    margin: str
    day: date
    nodes: int | None
    complications: tuple[str, ...]

    def to_json(self) -> str:
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


def make_clean(example: str, split: str, count: int, used_texts: set[str]) -> Iterator[Row]:
    fragments = read_fragments(example, split)
    operations = {"operation": fragments["operations"].strip().splitlines()}
    yield from draw_rows(
        (example, split),
        {"operation": 1},
        operations,
        lambda *drawn: make_row(fragments, *drawn),
        count,
        used_texts,
    )


def make_row(fragments: Mapping[str, Any], _: str, operation: str, rng: StableRandom) -> Row:
    facts = draw_facts(fragments, operation, rng)
    side = (
        facts.laterality if facts.laterality in ("left", "right") else rng.choose(("left", "right"))
    )
    patient = Patient(int(rng.draw_number("38", "86")), rng.choose("MF"), side)
    parts = [
        operation,
        *(
            resolve_choices(rng.choose(lines), rng)
            for lines in choose_sentences(fragments, facts, rng)
        ),
    ]
    text = " ".join(
        fill_slots(fill_facts(resolve_choices(part, rng), facts, rng), patient, rng)
        for part in parts
        if part
    )
    return {"text": text.upper() if rng.draw_bool(0.05) else text, "gold": facts.to_json()}


def draw_facts(fragments: Mapping[str, Any], operation: str, rng: StableRandom) -> RegistryFacts:
    laterality = (
        "bilateral"
        if "ilateral" in operation
        else "left"
        if "{side}" in operation.lower() or "{l}" in operation
        else NO_LATERALITY
    )
    if laterality == "left":
        laterality = rng.choose(("left", "right"))
    day = FIRST_DAY + timedelta(days=rng.draw_below(DAYS))
    return RegistryFacts(
        laterality,
        None if rng.draw_bool(0.1) else int(rng.draw_number("4", "95")),
        rng.choose(("clear", "clear", "close", "involved", "not stated")),
        day if day.day > 12 else day.replace(day=day.day + 12),
        None if rng.draw_bool(0.3) else int(rng.draw_number("1", "34")),
        tuple(rng.shuffle(fragments["complications"])[: rng.choose((0, 0, 1, 1, 2))]),
    )


def choose_sentences(
    fragments: Mapping[str, Any], facts: RegistryFacts, rng: StableRandom
) -> Iterator[Sequence[str]]:
    """For each thing that the note says the ways of saying it; the day comes first or last."""
    yield fragments["day"]
    if facts.size_mm is not None:
        yield fragments["size"]
    if facts.margin != "not stated":
        yield fragments["margin"][facts.margin]
    elif rng.draw_bool(0.5):
        yield fragments["margin"]["not stated"]
    yield fragments["nodes"] if facts.nodes is not None else fragments["no_nodes"]
    yield fragments["course"][
        "two" if len(facts.complications) == 2 else "one" if facts.complications else "none"
    ]
    if rng.draw_bool(0.3):
        yield fragments["aside"]


def fill_facts(text: str, facts: RegistryFacts, rng: StableRandom) -> str:
    """The facts in the places that the fragments keep for them."""
    size = facts.size_mm or 0
    first, second = (*facts.complications, "", "")[:2]
    written = {
        "<mm>": str(size),
        "<cm>": f"{size / 10:.1f}",
        "<less>": str(max(2, size - 1 - rng.draw_below(1 + size // 3))),
        "<day>": facts.day.strftime(rng.choose(DATE_STYLES)),
        "<nodes>": str(facts.nodes),
        "<positive>": str(rng.draw_below(1 + (facts.nodes or 0) // 3)),
        "<first>": first,
        "<second>": second,
    }
    for place, words in written.items():
        text = text.replace(place, words)
    return text


def make_dirty(example: str) -> Iterator[Row]:
    return repeat_dirty_rows(read_fragments(example, "dirty")["row"])

"""Papers: a title, and an abstract of what was asked, how, and what came of it; a paper may belong
to several domains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from generators.fragments import (
    Row,
    StableRandom,
    draw_patient,
    fill_slots,
    read_fragments,
    resolve_choices,
)
from generators.rows import draw_rows, repeat_dirty_rows

DOMAIN_SEPARATOR = " + "  # between the domains of one paper, in the names of the fragments' blocks


def make_clean(example: str, split: str, count: int, used_texts: set[str]) -> Iterator[Row]:
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
        used_texts,
    )


def make_row(extras: dict[str, Any], domains: str, study: list[str], rng: StableRandom) -> Row:
    """``study``: title, aim, findings; between them how it was done, behind them what it may also
    say.
    """
    title, aim, findings = study
    names = domains.split(DOMAIN_SEPARATOR)
    parts = [aim, rng.choose(extras["design"]), findings]
    elsewhere = [
        line
        for domain, lines in extras["excluded"].items()
        if domain not in names
        for line in lines
    ]
    if rng.draw_bool(0.25):
        parts.insert(2, rng.choose(elsewhere))
    if rng.draw_bool(0.6):
        parts.append(rng.choose(extras["closing"]))
    patient = draw_patient(aim, rng)
    title, *parts = [
        fill_slots(resolve_choices(part, rng), patient, rng) for part in (title, *parts)
    ]
    gold = "; ".join(names) if rng.draw_bool(0.1) else json.dumps(names)
    return {"title": title, "text": " ".join(parts), "gold": gold}


def make_dirty(example: str) -> Iterator[Row]:
    return repeat_dirty_rows(read_fragments(example, "dirty")["row"])

"""Questions that patients ask about a disease, each with the answer that we would give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def make_clean(example: str, split: str, count: int, used_texts: set[str]) -> Iterator[Row]:
    fragments = read_fragments(example, split)
    questions = {"asked": fragments["asked"]}
    yield from draw_rows(
        (example, split),
        {"asked": 1},
        questions,
        lambda *drawn: make_row(fragments["greetings"], *drawn),
        count,
        used_texts,
    )


def make_row(greetings: Sequence[str], _: str, entry: Mapping[str, Any], rng: StableRandom) -> Row:
    question = resolve_choices(
        f"{rng.choose(greetings)} {entry['question']}"
        if rng.draw_bool(0.25)
        else entry["question"],
        rng,
    )
    text = fill_slots(question, draw_patient(question, rng), rng)
    return {
        "text": text.lower().rstrip("?") if rng.draw_bool(0.1) else text,
        "gold": entry["answer"],
        "topic": entry["topic"],
    }


def make_dirty(example: str) -> Iterator[Row]:
    return repeat_dirty_rows(read_fragments(example, "dirty")["row"])

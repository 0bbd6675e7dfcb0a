"""Questions that patients ask about a disease, each with the answer that we would give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from making.rows import draw_rows, repeat_dirty
from making.words import Dice, Row, choose, draw_patient, fill, read_fragments


def make_clean(example: str, split: str, count: int, taken: set[str]) -> Iterator[Row]:
    fragments = read_fragments(example, split)
    asked = {"asked": fragments["asked"]}
    yield from draw_rows(
        (example, split),
        {"asked": 1},
        asked,
        lambda *drawn: make_row(fragments["greetings"], *drawn),
        count,
        taken,
    )


def make_row(greetings: Sequence[str], _: str, asked: Mapping[str, Any], dice: Dice) -> Row:
    question = choose(
        f"{dice.pick(greetings)} {asked['question']}" if dice.happens(0.25) else asked["question"],
        dice,
    )
    text = fill(question, draw_patient(question, dice), dice)
    return {
        "text": text.lower().rstrip("?") if dice.happens(0.1) else text,
        "gold": asked["answer"],
        "topic": asked["topic"],
    }


def make_dirty(example: str) -> Iterator[Row]:
    return repeat_dirty(read_fragments(example, "dirty")["row"])

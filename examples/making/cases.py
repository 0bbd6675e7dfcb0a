"""Cases with options to choose from: which letter is right is settled by chance, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from string import ascii_uppercase
from typing import Any

from making.rows import draw_rows, repeat_dirty
from making.words import Dice, Row, choose, draw_patient, fill, read_fragments


def make_clean(example: str, split: str, count: int, taken: set[str]) -> Iterator[Row]:
    cases = {"case": read_fragments(example, split)["case"]}
    yield from draw_rows((example, split), {"case": 1}, cases, make_row, count, taken)


def make_row(_: str, case: Mapping[str, Any], dice: Dice) -> Row:
    stem = choose(case["stem"], dice)
    patient = draw_patient(stem, dice)
    shown = dice.shuffle(case["wrong"])
    shown.insert(dice.below(len(shown) + 1), case["right"])
    options = dict(zip(ascii_uppercase, shown, strict=False))
    right = ascii_uppercase[shown.index(case["right"])]
    return {
        "text": fill(stem, patient, dice),
        "options": write_options(options, dice),
        "gold": right,
    }


def write_options(options: Mapping[str, str], dice: Dice) -> str:
    """As files of such cases hold them: a JSON object, a JSON list, or what a Python program
    prints.
    """
    if dice.happens(0.4):
        return repr(dict(options))
    return json.dumps(list(options.values()) if dice.happens(0.25) else options, ensure_ascii=False)


def make_dirty(example: str) -> Iterator[Row]:
    return repeat_dirty(read_fragments(example, "dirty")["row"])

"""Cases with options to choose from: which letter is right is settled by chance, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from string import ascii_uppercase
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
    cases = {"case": read_fragments(example, split)["case"]}
    yield from draw_rows((example, split), {"case": 1}, cases, make_row, count, used_texts)


def make_row(_: str, case: Mapping[str, Any], rng: StableRandom) -> Row:
    stem = resolve_choices(case["stem"], rng)
    patient = draw_patient(stem, rng)
    shown = rng.shuffle(case["wrong"])
    shown.insert(rng.draw_below(len(shown) + 1), case["right"])
    options = dict(zip(ascii_uppercase, shown, strict=False))
    right = ascii_uppercase[shown.index(case["right"])]
    return {
        "text": fill_slots(stem, patient, rng),
        "options": format_options(options, rng),
        "gold": right,
    }


def format_options(options: Mapping[str, str], rng: StableRandom) -> str:
    """As files of such cases hold them: a JSON object, a JSON list, or what a Python program
    prints.
    """
    if rng.draw_bool(0.4):
        return repr(dict(options))
    return json.dumps(
        list(options.values()) if rng.draw_bool(0.25) else options, ensure_ascii=False
    )


def make_dirty(example: str) -> Iterator[Row]:
    return repeat_dirty_rows(read_fragments(example, "dirty")["row"])

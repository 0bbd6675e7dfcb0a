"""Texts with one label each: a request, or an operation, and what people write around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from making.rows import draw_rows
from making.words import (
    Dice,
    Fragment,
    Patient,
    Row,
    choose,
    draw_patient,
    fill,
    join,
    read_fragments,
    split_lines,
    write_as_people_do,
)


@dataclass(frozen=True, slots=True)
class Source:
    """The fragments of one example: by split and label, what surrounds them, and the dirty rows."""

    example: str
    texts: Mapping[str, Mapping[str, tuple[Fragment, ...]]]
    extras: Mapping[str, Any]
    dirty: Mapping[str, Any]


def read_source(example: str) -> Source:
    """Dirty rows are the example's own; texts and what surrounds them may be borrowed, with labels
    that are named otherwise.
    """
    dirty = read_fragments(example, "dirty")
    lender, renamed = dirty.get("texts_of", example), dirty.get("renamed", {})
    texts = {
        split: {
            renamed.get(label, label): split_lines(block)
            for label, block in read_fragments(lender, split).items()
        }
        for split in ("gold", "train")
    }
    extras = read_fragments(lender, "extras")
    extras["labels"] = {
        renamed.get(label, label): settings for label, settings in extras["labels"].items()
    }
    return Source(example, texts, extras, dirty)


def make_clean(example: str, split: str, count: int, taken: set[str]) -> Iterator[Row]:
    source = read_source(example)
    shares = {label: settings["share"] for label, settings in source.extras["labels"].items()}
    yield from draw_rows(
        (example, split),
        shares,
        source.texts[split],
        lambda *drawn: make_row(source, *drawn),
        count,
        taken,
    )


def make_row(source: Source, label: str, fragment: Fragment, dice: Dice) -> Row:
    chosen = Fragment(
        dice.pick(fragment.place) if "columns" in source.extras else fragment.place,
        choose(fragment.text, dice),
    )
    patient = draw_patient(chosen.text, dice)
    parts = [
        fill(choose(part, dice), patient, dice)
        for part in surround(source, label, chosen, patient, dice)
    ]
    text = write_as_people_do(
        join(parts, source.extras["texts"]), source.extras["abbreviations"], dice
    )
    return _write(source, text, label, chosen.place, str(patient.age), dice)


def surround(
    source: Source, label: str, fragment: Fragment, patient: Patient, dice: Dice
) -> tuple[str, ...]:
    """The fragment's text between what a request may also say: a history, a fact about another part
    of the body, a last word.
    """
    extras, settings = source.extras, source.extras["labels"][label]

    def suits(line: Fragment) -> bool:
        ages, _, places = line.place.partition(" ")
        low, high = (int(age) for age in ages.split("-"))
        return low <= patient.age <= high and (not places or fragment.place in places)

    def lines(block: str, names: Sequence[str], wanted: Callable[[Fragment], bool]) -> list[str]:
        return [
            line.text for name in names for line in split_lines(extras[block][name]) if wanted(line)
        ]

    parts = [fragment.text]
    elsewhere = [name for name in extras.get("aside", ()) if name != settings["region"]]
    if "before" in extras and dice.happens(0.1) and (histories := lines("before", ["any"], suits)):
        parts.insert(0, dice.pick(histories))
    if elsewhere and dice.happens(0.16) and (facts := lines("aside", elsewhere, suits)):
        parts.append(dice.pick(facts))
    if dice.happens(0.25):
        parts.append(
            dice.pick(
                lines(
                    "after",
                    settings["after"],
                    lambda line: line.place == "*" or fragment.place in line.place,
                )
            )
        )
    return tuple(parts)


def make_dirty(example: str) -> Iterator[Row]:
    source = read_source(example)
    dice = Dice(example, "dirty")
    charts = (
        [{**chart, "text": write_chart(chart, dice)} for chart in (source.dirty["chart"],)]
        if "chart" in source.dirty
        else []
    )
    for entry in [*source.dirty["row"], *charts]:
        row = _write(
            source,
            entry["text"],
            entry.get("gold", ""),
            entry.get("from", ""),
            str(entry.get("age", "")),
            dice,
        )
        yield from [row] * entry.get("times", 1)


def write_chart(chart: Mapping[str, Any], dice: Dice) -> str:
    """A whole record as people paste it: lines of it until it has ``words`` words."""
    lines = chart["lines"].strip().splitlines()
    written = [chart["opening"]]
    missing = chart["words"] - len(chart["opening"].split()) - len(chart["closing"].split())
    while missing > 0:
        line = fill(choose(dice.pick(lines), dice), Patient(68, "M", "left"), dice)
        missing -= len(line.split())
        written.append(line)
    return "\n".join([*written, chart["closing"]])


def _write(source: Source, text: str, gold: str, place: str, age: str, dice: Dice) -> Row:
    name = str(source.extras["columns"][place]) if place and "columns" in source.extras else place
    return {"text": text, "gold": gold, "place": name, "age": age, "year": draw_year(text, dice)}


def draw_year(text: str, dice: Dice) -> str:
    """A year of operation that is later than every year in the text."""
    latest = max((int(year) for year in re.findall(r"\b20[12]\d\b", text)), default=2017)
    return dice.between(str(min(max(latest + 1, 2018), 2025)), "2025")

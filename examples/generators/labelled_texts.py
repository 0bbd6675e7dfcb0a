"""Texts with one label each: a request, or an operation, and what people write around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generators.fragments import (
    Fragment,
    Patient,
    Row,
    StableRandom,
    add_typing_noise,
    draw_patient,
    fill_slots,
    join_parts,
    parse_fragments,
    read_fragments,
    resolve_choices,
)
from generators.rows import draw_rows


@dataclass(frozen=True, slots=True)
class ExampleFragments:
    """The fragments of one example: by split and label, what surrounds them, and the dirty rows."""

    example: str
    texts: Mapping[str, Mapping[str, tuple[Fragment, ...]]]
    extras: Mapping[str, Any]
    dirty: Mapping[str, Any]


def read_example_fragments(example: str) -> ExampleFragments:
    """Dirty rows are the example's own; texts and what surrounds them may be borrowed, with labels
    that are named otherwise.
    """
    dirty = read_fragments(example, "dirty")
    source_example, renamed = dirty.get("texts_of", example), dirty.get("renamed", {})
    texts = {
        split: {
            renamed.get(label, label): parse_fragments(block)
            for label, block in read_fragments(source_example, split).items()
        }
        for split in ("gold", "train")
    }
    extras = read_fragments(source_example, "extras")
    extras["labels"] = {
        renamed.get(label, label): settings for label, settings in extras["labels"].items()
    }
    return ExampleFragments(example, texts, extras, dirty)


def make_clean(example: str, split: str, count: int, used_texts: set[str]) -> Iterator[Row]:
    fragments = read_example_fragments(example)
    shares = {label: settings["share"] for label, settings in fragments.extras["labels"].items()}
    yield from draw_rows(
        (example, split),
        shares,
        fragments.texts[split],
        lambda *drawn: make_row(fragments, *drawn),
        count,
        used_texts,
    )


def make_row(fragments: ExampleFragments, label: str, fragment: Fragment, rng: StableRandom) -> Row:
    chosen = Fragment(
        rng.choose(fragment.place) if "columns" in fragments.extras else fragment.place,
        resolve_choices(fragment.text, rng),
    )
    patient = draw_patient(chosen.text, rng)
    parts = [
        fill_slots(resolve_choices(part, rng), patient, rng)
        for part in add_context(fragments, label, chosen, patient, rng)
    ]
    text = add_typing_noise(
        join_parts(parts, fragments.extras["texts"]), fragments.extras["abbreviations"], rng
    )
    return _make_row(fragments, text, label, chosen.place, str(patient.age), rng)


def add_context(
    fragments: ExampleFragments, label: str, fragment: Fragment, patient: Patient, rng: StableRandom
) -> tuple[str, ...]:
    """The fragment's text between what a request may also say: a history, a fact about another part
    of the body, a last word.
    """
    extras, settings = fragments.extras, fragments.extras["labels"][label]

    def fits_patient(line: Fragment) -> bool:
        ages, _, places = line.place.partition(" ")
        low, high = (int(age) for age in ages.split("-"))
        return low <= patient.age <= high and (not places or fragment.place in places)

    def list_lines(
        block: str, names: Sequence[str], wanted: Callable[[Fragment], bool]
    ) -> list[str]:
        return [
            line.text
            for name in names
            for line in parse_fragments(extras[block][name])
            if wanted(line)
        ]

    parts = [fragment.text]
    elsewhere = [name for name in extras.get("aside", ()) if name != settings["region"]]
    if (
        "before" in extras
        and rng.draw_bool(0.1)
        and (histories := list_lines("before", ["any"], fits_patient))
    ):
        parts.insert(0, rng.choose(histories))
    if (
        elsewhere
        and rng.draw_bool(0.16)
        and (facts := list_lines("aside", elsewhere, fits_patient))
    ):
        parts.append(rng.choose(facts))
    if rng.draw_bool(0.25):
        parts.append(
            rng.choose(
                list_lines(
                    "after",
                    settings["after"],
                    lambda line: line.place == "*" or fragment.place in line.place,
                )
            )
        )
    return tuple(parts)


def make_dirty(example: str) -> Iterator[Row]:
    fragments = read_example_fragments(example)
    rng = StableRandom(example, "dirty")
    charts = (
        [{**chart, "text": make_chart_text(chart, rng)} for chart in (fragments.dirty["chart"],)]
        if "chart" in fragments.dirty
        else []
    )
    for entry in [*fragments.dirty["row"], *charts]:
        row = _make_row(
            fragments,
            entry["text"],
            entry.get("gold", ""),
            entry.get("from", ""),
            str(entry.get("age", "")),
            rng,
        )
        yield from [row] * entry.get("times", 1)


def make_chart_text(chart: Mapping[str, Any], rng: StableRandom) -> str:
    """A whole record as people paste it: lines of it until it has ``words`` words."""
    lines = chart["lines"].strip().splitlines()
    written = [chart["opening"]]
    missing = chart["words"] - len(chart["opening"].split()) - len(chart["closing"].split())
    while missing > 0:
        line = fill_slots(resolve_choices(rng.choose(lines), rng), Patient(68, "M", "left"), rng)
        missing -= len(line.split())
        written.append(line)
    return "\n".join([*written, chart["closing"]])


def _make_row(
    fragments: ExampleFragments, text: str, gold: str, place: str, age: str, rng: StableRandom
) -> Row:
    name = (
        str(fragments.extras["columns"][place])
        if place and "columns" in fragments.extras
        else place
    )
    return {"text": text, "gold": gold, "place": name, "age": age, "year": draw_year(text, rng)}


def draw_year(text: str, rng: StableRandom) -> str:
    """A year of operation that is later than every year in the text."""
    latest = max((int(year) for year in re.findall(r"\b20[12]\d\b", text)), default=2017)
    return rng.draw_number(str(min(max(latest + 1, 2018), 2025)), "2025")

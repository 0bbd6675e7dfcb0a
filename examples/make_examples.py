"""Write the tables of the example tasks from the hand-written fragments beside this file.

    python examples/make_examples.py radiology_protocol --split gold --out examples/radiology_protocol/notes.csv
    python examples/make_examples.py surgery_purpose --split gold --out examples/surgery_purpose/procedures.csv
    python examples/make_examples.py surgery_purpose --split train --rows 3000 --out train.csv

The same arguments give the same bytes. ``gold`` is what ships: 300 rows with the dirty ones among them. ``train`` is
clean, comes from fragments of its own, and holds no text of the shipped rows.

A fragment is one line, ``PLACE: text``. In it stand ``[a|b]`` for a choice; ``{m60-80}``, ``{f60-80}``, ``{p60-80}`` for a
patient ("71M"), ``{man60-80}``, ``{woman60-80}``, ``{person60-80}`` for the same in words, ``{@p60-80}`` for the same unsaid;
``{3-6}`` and ``{2.5-4.0}`` for a number; ``{side}``, ``{other}``, ``{l}``, ``{o}``, ``{he}``, ``{his}``, ``{age}`` for what is
settled once a text. Standard library only.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

FRAGMENTS = Path(__file__).parent / "fragments"
GOLD_ROWS = 300
DEFAULT_PATIENT = "p30-85"

# What each column holds: an attribute of Row, or the id.
COLUMNS = {
    "radiology_protocol": {"note_id": "id", "note": "text", "protocol": "gold", "age": "age", "ordered_from": "place"},
    "surgery_purpose": {"case_id": "id", "procedure": "text", "purpose": "gold", "site": "place", "year": "year"},
}
ID_LETTERS = {("radiology_protocol", "gold"): "N", ("surgery_purpose", "gold"): "S"}

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{([^{}]*)\}")
PATIENT = re.compile(r"(@?)(m|f|p|man|woman|person)(\d+)-(\d+)")
NUMBER = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")


class Dice:
    """Chance that falls the same way on every Python: of Random, only ``random`` keeps its sequence across versions."""

    def __init__(self, *seed: object) -> None:
        self._random = Random("/".join(str(part) for part in seed)).random

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def happens(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        return sorted(items, key=lambda _: self._random())

    def between(self, low: str, high: str) -> str:
        """A number from low to high, both included, with as many decimals as low is written with."""
        decimals = len(low.partition(".")[2])
        scale = 10**decimals
        first, last = round(float(low) * scale), round(float(high) * scale)
        return f"{(first + self.below(last - first + 1)) / scale:.{decimals}f}"


@dataclass(frozen=True, slots=True)
class Fragment:
    """``place`` is what stands before the colon: letters of a place, a site, or the ages (and places) that a history suits."""

    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Patient:
    age: int
    sex: str
    side: str


@dataclass(frozen=True, slots=True)
class Row:
    text: str
    gold: str = ""
    place: str = ""
    age: str = ""
    year: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """The fragments of one example: by split and label, what surrounds them, and the dirty rows."""

    example: str
    texts: Mapping[str, Mapping[str, tuple[Fragment, ...]]]
    extras: Mapping[str, Any]
    dirty: Mapping[str, Any]


def read_source(example: str) -> Source:
    def read(name: str) -> dict[str, Any]:
        return tomllib.loads((FRAGMENTS / example / f"{name}.toml").read_text("utf-8"))

    texts = {split: {label: split_lines(block) for label, block in read(split).items()} for split in ("gold", "train")}
    return Source(example, texts, read("extras"), read("dirty"))


def split_lines(block: str) -> tuple[Fragment, ...]:
    return tuple(Fragment(*line.split(": ", 1)) for line in block.strip().splitlines())


# -- One text ---------------------------------------------------------------------------------------------------------


def choose(text: str, dice: Dice) -> str:
    """Settle every ``[a|b]``, the innermost first."""
    while CHOICE.search(text):
        text = CHOICE.sub(lambda match: dice.pick(match[1].split("|")), text, count=1)
    return text


def draw_patient(text: str, dice: Dice) -> Patient:
    """The patient whom the first patient slot of the text describes, or any adult."""
    slots = (PATIENT.fullmatch(body) for body in SLOT.findall(text))
    found = next((slot for slot in slots if slot), None) or PATIENT.fullmatch(DEFAULT_PATIENT)
    if found is None:
        raise ValueError(f"{DEFAULT_PATIENT!r} is no patient slot")
    _, who, low, high = found.groups()
    sex = {"m": "M", "man": "M", "f": "F", "woman": "F"}.get(who) or dice.pick("MF")
    return Patient(int(dice.between(low, high)), sex, dice.pick(("left", "right")))


def fill(text: str, patient: Patient, dice: Dice) -> str:
    """Settle every ``{slot}``; an unknown one is a ValueError."""
    pronouns = ("he", "his", "him", "himself") if patient.sex == "M" else ("she", "her", "her", "herself")
    other = "right" if patient.side == "left" else "left"
    words = {"age": str(patient.age), "side": patient.side, "other": other, "l": patient.side[0].upper(), "o": other[0].upper()}
    words |= dict(zip(("he", "his", "him", "himself"), pronouns, strict=True))
    words |= {name.capitalize(): word.capitalize() for name, word in words.items() if len(name) > 1}

    def settle(match: re.Match[str]) -> str:
        if match[1] in words:
            return words[match[1]]
        if slot := PATIENT.fullmatch(match[1]):
            return "" if slot[1] else describe(patient, terse=len(slot[2]) == 1, dice=dice)
        if slot := NUMBER.fullmatch(match[1]):
            return dice.between(slot[1], slot[2])
        raise ValueError(f"unknown slot {match[0]} in a fragment")

    filled = SLOT.sub(settle, text)
    filled = re.sub(r"\b([Aa]) (?=8\d?\b|11\b|18\b)", r"\1n ", filled)
    return re.sub(r"\b1 (day|week|wk|month|year)s\b", r"1 \1", filled)


def describe(patient: Patient, *, terse: bool, dice: Dice) -> str:
    age, sex = patient.age, patient.sex
    noun = ("man" if sex == "M" else "woman") if age >= 18 else ("boy" if sex == "M" else "girl")
    if terse:
        return dice.pick((f"{age}{sex}", f"{age}{sex}", f"{age} {sex}", f"{age}yo {sex}", f"{age} y/o {sex}", f"{age} yr old {noun}"))
    return dice.pick((f"{age}-year-old {noun}", f"{age}-year-old {noun}", f"{age} year old {noun}", f"{noun} of {age}"))


def surround(source: Source, label: str, fragment: Fragment, patient: Patient, dice: Dice) -> tuple[str, ...]:
    """The fragment's text between what a request may also say: a history, a fact about another part of the body, a last word."""
    extras, settings = source.extras, source.extras["labels"][label]

    def suits(line: Fragment) -> bool:
        ages, _, places = line.place.partition(" ")
        low, high = (int(age) for age in ages.split("-"))
        return low <= patient.age <= high and (not places or fragment.place in places)

    def lines(block: str, names: Sequence[str], wanted: Callable[[Fragment], bool]) -> list[str]:
        return [line.text for name in names for line in split_lines(extras[block][name]) if wanted(line)]

    parts = [fragment.text]
    elsewhere = [name for name in extras.get("aside", ()) if name != settings["region"]]
    if "before" in extras and dice.happens(0.1) and (histories := lines("before", ["any"], suits)):
        parts.insert(0, dice.pick(histories))
    if elsewhere and dice.happens(0.16) and (facts := lines("aside", elsewhere, suits)):
        parts.append(dice.pick(facts))
    if dice.happens(0.25):
        parts.append(dice.pick(lines("after", settings["after"], lambda line: line.place == "*" or fragment.place in line.place)))
    return tuple(parts)


def join(parts: Sequence[str], texts: str) -> str:
    if texts == "phrases":
        return ", ".join(parts)
    return " ".join(part if part[-1] in ".?!" else f"{part}." for part in parts[:-1]) + f" {parts[-1]}" if len(parts) > 1 else parts[0]


def write_as_people_do(text: str, abbreviations: Mapping[str, str], dice: Dice) -> str:
    """Abbreviations, a typing error, all capitals or none: each now and then."""
    if dice.happens(0.2):
        for word, short in abbreviations.items():
            text = re.sub(rf"\b{word}\b", short, text)
    if dice.happens(0.07):
        text = misspell(text, dice)
    if text.endswith(".") and dice.happens(0.5):
        text = text[:-1]
    if dice.happens(0.14):
        return text.lower()
    return text.upper() if dice.happens(0.08) else text


def misspell(text: str, dice: Dice) -> str:
    words = re.findall(r"\b[a-z]{7,}\b", text)
    if not words:
        return text
    word = dice.pick(words)
    at = 1 + dice.below(len(word) - 3)
    wrong = dice.pick((word[:at] + word[at + 1 :], word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at] + word[at:]))
    return text.replace(word, wrong, 1)


# -- Rows -------------------------------------------------------------------------------------------------------------


def make_row(source: Source, label: str, fragment: Fragment, dice: Dice) -> Row:
    chosen = Fragment(dice.pick(fragment.place) if "columns" in source.extras else fragment.place, choose(fragment.text, dice))
    patient = draw_patient(chosen.text, dice)
    parts = [fill(choose(part, dice), patient, dice) for part in surround(source, label, chosen, patient, dice)]
    text = write_as_people_do(join(parts, source.extras["texts"]), source.extras["abbreviations"], dice)
    return Row(text, label, place_name(source, chosen.place), str(patient.age), draw_year(text, dice))


def place_name(source: Source, place: str) -> str:
    return str(source.extras["columns"][place]) if place and "columns" in source.extras else place


def draw_year(text: str, dice: Dice) -> str:
    """A year of operation that is later than every year in the text."""
    latest = max((int(year) for year in re.findall(r"\b20[12]\d\b", text)), default=2017)
    return dice.between(str(min(max(latest + 1, 2018), 2025)), "2025")


def squash(text: str) -> str:
    """What two texts share that only case and space tell apart."""
    return " ".join(text.casefold().split())


def make_clean_rows(source: Source, split: str, count: int, taken: set[str]) -> Iterator[Row]:
    """``count`` rows with gold, in the proportions of the labels, none equal to a text of ``taken``.

    Every fragment of a label is used once before one is used again.
    """
    for label, rows in share_out(source, count).items():
        fragments = source.texts[split][label]
        for number in range(rows):
            turn, index = divmod(number, len(fragments))
            fragment = Dice(source.example, split, label, "turn", turn).shuffle(fragments)[index]
            row = make_new_row(source, split, label, number, fragment, taken)
            taken.add(squash(row.text))
            yield row


def make_new_row(source: Source, split: str, label: str, number: int, fragment: Fragment, taken: set[str]) -> Row:
    for attempt in range(400):
        dice = Dice(source.example, split, label, number, attempt)
        used = fragment if attempt < 20 else dice.pick(source.texts[split][label])
        row = make_row(source, label, used, dice)
        if squash(row.text) not in taken:
            return row
    raise SystemExit(f"error: the {split} fragments of {label!r} give no more texts.\n  fix: ask for fewer --rows, or add fragments.")


def share_out(source: Source, count: int) -> dict[str, int]:
    """How many of ``count`` rows each label gets: its share, rounded so that the sum is right."""
    shares = {label: settings["share"] for label, settings in source.extras["labels"].items()}
    exact = {label: count * share / sum(shares.values()) for label, share in shares.items()}
    rows = {label: int(value) for label, value in exact.items()}
    for label in sorted(exact, key=lambda label: rows[label] - exact[label])[: count - sum(rows.values())]:
        rows[label] += 1
    return rows


def make_dirty_rows(source: Source) -> Iterator[Row]:
    dice = Dice(source.example, "dirty")
    chart = source.dirty["chart"]
    for entry in [*source.dirty["row"], {**chart, "text": write_chart(chart, dice)}]:
        text, place = entry["text"], place_name(source, entry.get("from", ""))
        row = Row(text, entry.get("gold", ""), place, str(entry.get("age", "")), draw_year(text, dice))
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


def make_rows(example: str, split: str, count: int) -> list[Row]:
    source = read_source(example)
    dirty = list(make_dirty_rows(source)) if split == "gold" else []
    if count < len(dirty):
        raise SystemExit(f"error: the dirty rows alone are {len(dirty)}.\n  fix: ask for at least as many --rows.")
    kept_apart = dirty if split == "gold" else make_rows(example, "gold", GOLD_ROWS)
    rows = [*dirty, *make_clean_rows(source, split, count - len(dirty), {squash(row.text) for row in kept_apart})]
    return Dice(example, split, "order").shuffle(rows)


def write_csv(example: str, split: str, rows: Sequence[Row], out: Path) -> None:
    """UTF-8 and quoted as in RFC 4180, but with lines that end in a bare line feed."""
    columns = COLUMNS[example]
    letter = ID_LETTERS.get((example, split), "T")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for number, row in enumerate(rows, start=1):
        writer.writerow([f"{letter}{number:04d}" if what == "id" else getattr(row, what) for what in columns.values()])
    out.write_bytes(buffer.getvalue().encode("utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the table of an example task.")
    parser.add_argument("example", choices=sorted(COLUMNS))
    parser.add_argument("--split", choices=("gold", "train"), default="gold", help="gold: the shipped rows; train: others, clean")
    parser.add_argument("--rows", type=int, default=GOLD_ROWS, metavar="N")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    chosen = parser.parse_args(arguments)
    write_csv(chosen.example, chosen.split, make_rows(chosen.example, chosen.split, chosen.rows), chosen.out)


if __name__ == "__main__":
    main()

"""Words drawn by chance from hand-written fragments, the same on every Python; see make_examples.py
for their notation.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
# "text" is what tells it from other rows; what else it holds is its maker's affair
Row = Mapping[str, str]

FRAGMENTS = Path(__file__).parents[1] / "fragments"
DEFAULT_PATIENT = "p30-85"

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{([^{}]*)\}")
PATIENT = re.compile(r"(@?)(m|f|p|man|woman|person)(\d+)-(\d+)")
NUMBER = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")


class StableRandom:
    """Chance that falls the same way on every Python: of Random, only ``random`` keeps its sequence
    across versions.
    """

    def __init__(self, *seed: object) -> None:
        self._random = Random("/".join(str(part) for part in seed)).random

    def draw_below(self, count: int) -> int:
        return int(self._random() * count)

    def draw_bool(self, probability: float) -> bool:
        return self._random() < probability

    def choose(self, items: Sequence[T]) -> T:
        return items[self.draw_below(len(items))]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        return sorted(items, key=lambda _: self._random())

    def draw_number(self, low: str, high: str) -> str:
        """A number from low to high, both included, with as many decimals as low is written
        with.
        """
        decimals = len(low.partition(".")[2])
        scale = 10**decimals
        first, last = round(float(low) * scale), round(float(high) * scale)
        return f"{(first + self.draw_below(last - first + 1)) / scale:.{decimals}f}"


@dataclass(frozen=True, slots=True)
class Fragment:
    """``place`` is what stands before the colon: letters of a place, a site, or the ages (and
    places) that a history suits.
    """

    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Patient:
    age: int
    sex: str
    side: str


def read_fragments(example: str, name: str) -> dict[str, Any]:
    return tomllib.loads((FRAGMENTS / example / f"{name}.toml").read_text("utf-8"))


def parse_fragments(block: str) -> tuple[Fragment, ...]:
    return tuple(Fragment(*line.split(": ", 1)) for line in block.strip().splitlines())


def resolve_choices(text: str, rng: StableRandom) -> str:
    """Settle every ``[a|b]``, the innermost first."""
    while CHOICE.search(text):
        text = CHOICE.sub(lambda match: rng.choose(match[1].split("|")), text, count=1)
    return text


def draw_patient(text: str, rng: StableRandom) -> Patient:
    """The patient whom the first patient slot of the text describes, or any adult."""
    slots = (PATIENT.fullmatch(body) for body in SLOT.findall(text))
    found = next((slot for slot in slots if slot), None) or PATIENT.fullmatch(DEFAULT_PATIENT)
    if found is None:
        raise ValueError(f"{DEFAULT_PATIENT!r} is no patient slot")
    _, who, low, high = found.groups()
    sex = {"m": "M", "man": "M", "f": "F", "woman": "F"}.get(who) or rng.choose("MF")
    return Patient(int(rng.draw_number(low, high)), sex, rng.choose(("left", "right")))


def fill_slots(text: str, patient: Patient, rng: StableRandom) -> str:
    """Settle every ``{slot}``; an unknown one is a ValueError."""
    pronouns = (
        ("he", "his", "him", "himself") if patient.sex == "M" else ("she", "her", "her", "herself")
    )
    other = "right" if patient.side == "left" else "left"
    words = {
        "age": str(patient.age),
        "side": patient.side,
        "other": other,
        "l": patient.side[0].upper(),
        "o": other[0].upper(),
    }
    words |= dict(zip(("he", "his", "him", "himself"), pronouns, strict=True))
    words |= {name.capitalize(): word.capitalize() for name, word in words.items() if len(name) > 1}

    def fill_slot(match: re.Match[str]) -> str:
        if match[1] in words:
            return words[match[1]]
        if slot := PATIENT.fullmatch(match[1]):
            return "" if slot[1] else describe_patient(patient, terse=len(slot[2]) == 1, rng=rng)
        if slot := NUMBER.fullmatch(match[1]):
            return rng.draw_number(slot[1], slot[2])
        raise ValueError(f"unknown slot {match[0]} in a fragment")

    filled = SLOT.sub(fill_slot, text)
    filled = re.sub(r"\b([Aa]) (?=8\d?\b|11\b|18\b)", r"\1n ", filled)
    return re.sub(r"\b1 (day|week|wk|month|year)s\b", r"1 \1", filled)


def describe_patient(patient: Patient, *, terse: bool, rng: StableRandom) -> str:
    age, sex = patient.age, patient.sex
    noun = ("man" if sex == "M" else "woman") if age >= 18 else ("boy" if sex == "M" else "girl")
    if terse:
        return rng.choose(
            (
                f"{age}{sex}",
                f"{age}{sex}",
                f"{age} {sex}",
                f"{age}yo {sex}",
                f"{age} y/o {sex}",
                f"{age} yr old {noun}",
            )
        )
    return rng.choose(
        (
            f"{age}-year-old {noun}",
            f"{age}-year-old {noun}",
            f"{age} year old {noun}",
            f"{noun} of {age}",
        )
    )


def join_parts(parts: Sequence[str], texts: str) -> str:
    if texts == "phrases":
        return ", ".join(parts)
    return (
        " ".join(part if part[-1] in ".?!" else f"{part}." for part in parts[:-1]) + f" {parts[-1]}"
        if len(parts) > 1
        else parts[0]
    )


def add_typing_noise(text: str, abbreviations: Mapping[str, str], rng: StableRandom) -> str:
    """Abbreviations, a typing error, all capitals or none: each now and then."""
    if rng.draw_bool(0.2):
        for word, short in abbreviations.items():
            text = re.sub(rf"\b{word}\b", short, text)
    if rng.draw_bool(0.07):
        text = misspell(text, rng)
    if text.endswith(".") and rng.draw_bool(0.5):
        text = text[:-1]
    if rng.draw_bool(0.14):
        return text.lower()
    return text.upper() if rng.draw_bool(0.08) else text


def misspell(text: str, rng: StableRandom) -> str:
    words = re.findall(r"\b[a-z]{7,}\b", text)
    if not words:
        return text
    word = rng.choose(words)
    at = 1 + rng.draw_below(len(word) - 3)
    wrong = rng.choose(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at] + word[at:],
        )
    )
    return text.replace(word, wrong, 1)


def normalize_text(text: str) -> str:
    """What two texts share that only case and space tell apart."""
    return " ".join(text.casefold().split())

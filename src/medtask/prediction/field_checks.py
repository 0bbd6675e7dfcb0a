"""Checks of written fields: values agree with their quotes, and are within the schema's bounds.

A check can only find disagreement: a number that its quote does not have, another unit, another
date. Texts, names of an enumeration and truth values are not compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from medtask.tasks.field_values import find_value, read_unit
from medtask.tasks.schema_keywords import DATE_BOUNDS
from medtask.tasks.task import Fields

_NUMBER = re.compile(r"\d[\d.,'\u00a0\u202f]*\d|\d")
_UNIT = re.compile(r"\s*(?:-\s*)?(%|[^\W\d_]+)")
# The unit after later numbers, as in "2 x 3 cm" and "2-3 cm".
_SHARED_UNIT = re.compile(r"(?:\s*[-–x×*/]\s*\d[\d.,]*)+\s*(%|[^\W\d_]+)")
_WORD = re.compile(r"[^\W\d_]+")
_TOLERANCE = 1e-6  # relative

# Number words in English, Norwegian, Danish, Swedish and German; words for nothing are 0.
_NUMBER_WORDS: Mapping[str, int] = {
    word: number
    for number, words in enumerate(
        (
            "no none zero nil without ingen ingenting null intet inget inga utan uten uden kein "
            "keine keinen keiner keinerlei ohne not ikke nicht",
            "one a an single solitary en ett et ein eine einen einer eins",
            "two both twice double to to tva två zwei beide beider",
            "three tre drei",
            "four fire fyra vier",
            "five fem fünf",
            "six seks sex sechs",
            "seven sju syv sieben",
            "eight åtte otte åtta acht",
            "nine ni nio neun",
            "ten ti tio zehn",
            "eleven elleve elva elf",
            "twelve tolv zwölf",
        )
    )
    for word in words.split()
}

# Units of the same quantity, as multiples of one of them.
_UNITS: Mapping[str, tuple[str, float]] = {
    unit: (quantity, factor)
    for quantity, units in {
        "length": {"µm": 1e-6, "μm": 1e-6, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "dm": 0.1, "m": 1.0},
        "mass": {"µg": 1e-6, "μg": 1e-6, "ug": 1e-6, "mcg": 1e-6, "mg": 1e-3, "g": 1.0, "kg": 1e3},
        "volume": {"µl": 1e-6, "μl": 1e-6, "ml": 1e-3, "cl": 1e-2, "dl": 0.1, "l": 1.0},
        "time": {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hours": 3600.0, "timer": 3600.0},
        "share": {"%": 1.0, "percent": 1.0, "prosent": 1.0, "prozent": 1.0},
    }.items()
    for unit, factor in units.items()
}

_MONTHS: tuple[tuple[str, ...], ...] = (
    ("jan", "jän"),
    ("feb",),
    ("mar", "mär", "mrz"),
    ("apr",),
    ("may", "mai", "maj"),
    ("jun",),
    ("jul",),
    ("aug",),
    ("sep",),
    ("oct", "okt"),
    ("nov",),
    ("dec", "des", "dez"),
)


class _Measure(NamedTuple):
    """The possible values of a number in a quote, and the unit after it ("" without one)."""

    values: frozenset[float]
    unit: str


def check_fields(
    spec: Fields,
    value: Mapping[str, Any],
    quotes: Mapping[str, str],
    not_found: Collection[str] = (),
) -> list[str]:
    """Why a person should look at an object; empty if nothing speaks against it.

    Args:
        spec: The fields.
        value: The object without its quotes.
        quotes: The quotes by dotted path.
        not_found: The fields with a quote that is not in the record.
    """
    reasons = [f"the quote of {', '.join(not_found)} is not in the record"] if not_found else []
    reasons += _check_bounds(spec.schema, value, "")
    without: list[str] = []
    for path in spec.quoted:
        name, inner = ".".join(path), find_value(value, path)
        if inner in (None, "", []) or name in not_found:
            continue
        if name not in quotes:
            without.append(name)
        elif not _agrees(_find_part(spec.schema, path), inner, quotes[name]):
            reasons.append(f"{name} does not agree with its quote")
    return [*reasons, f"no quote for {', '.join(without)}"] if without else reasons


def _agrees(part: Mapping[str, Any], value: object, quote: str) -> bool:
    if isinstance(value, Mapping) and value.keys() == {"value", "unit"}:
        return _agrees_with_number(value["value"], str(value["unit"]), quote)
    if isinstance(value, bool) or "enum" in part:
        return True
    if isinstance(value, int | float):
        return _agrees_with_number(value, read_unit(part), quote)
    if isinstance(value, str) and part.get("format") in ("date", "date-time"):
        return _agrees_with_date(value, quote)
    return True


def _agrees_with_number(value: object, unit: str, quote: str) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    return any(
        math.isclose(abs(found) * factor, abs(value), rel_tol=_TOLERANCE, abs_tol=1e-12)
        for measure in _list_measures(quote)
        if (factor := _convert(measure.unit, unit)) is not None
        for found in measure.values
    )


def _convert(written: str, wanted: str) -> float | None:
    """The factor from the unit of a quote to that of a value; None if they cannot be equal.

    Units that are not known, and numbers without a unit, are not compared.
    """
    first, second = (_UNITS.get(name) or _UNITS.get(name.casefold()) for name in (written, wanted))
    if first is None or second is None:
        return 1.0
    return first[1] / second[1] if first[0] == second[0] else None


def _list_measures(quote: str) -> Iterator[_Measure]:
    for match in _NUMBER.finditer(quote):
        rest = quote[match.end() :]
        unit = _SHARED_UNIT.match(rest) or _UNIT.match(rest)
        yield _Measure(_read_number(match[0]), unit[1] if unit else "")
    if any(character.isdecimal() for character in quote):
        return  # "a tumour of 18 mm" has no number one
    for word in _WORD.findall(quote):
        number = _NUMBER_WORDS.get(word.casefold())
        if number is not None:
            yield _Measure(frozenset({float(number)}), "")


def _read_number(text: str) -> frozenset[float]:
    """The values that a number can have: "1,500" is 1500 or 1.5, "1.5" is 1.5."""
    plain = re.sub("['\u00a0\u202f]", "", text)
    found = set()
    last = max(plain.rfind(","), plain.rfind("."))
    if last >= 0:
        whole, part = re.sub("[.,]", "", plain[:last]), plain[last + 1 :]
        found.add(float(f"{whole}.{part}"))
    is_grouped = re.fullmatch(r"\d{1,3}([.,]\d{3})+", plain) is not None
    if last < 0 or is_grouped:
        found.add(float(re.sub("[.,]", "", plain)))
    if not is_grouped and plain.count(".") + plain.count(",") > 1:  # a date or a list
        found.update(float(piece) for piece in re.split("[.,]", plain) if piece)
    return frozenset(found)


def _agrees_with_date(value: str, quote: str) -> bool:
    try:
        wanted = date.fromisoformat(value[:10])
    except ValueError:
        return False
    numbers = [*re.findall(r"\d+", quote)]
    # Dates without separators: 20190131 and 31012019.
    for digits in [number for number in numbers if len(number) == 8]:
        numbers += [digits[:4], digits[4:6], digits[6:], digits[:2], digits[2:4], digits[4:]]
    words = [word.casefold() for word in _WORD.findall(quote)]
    names = _MONTHS[wanted.month - 1]
    has_name = any(word.startswith(name) for word in words for name in names)
    left = [int(number) for number in numbers]
    wanted_numbers = [wanted.day, *([] if has_name else [wanted.month])]
    for number in wanted_numbers:
        if number not in left:
            return False
        left.remove(number)
    return wanted.year in left or wanted.year % 100 in left


def _check_bounds(part: Mapping[str, Any], value: object, path: str) -> Iterator[str]:
    """The values that are outside their bounds: an engine need not enforce them."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            nested = part.get("properties", {}).get(name)
            if isinstance(nested, Mapping):
                yield from _check_bounds(nested, inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and isinstance(part.get("items"), Mapping):
        for index, inner in enumerate(value):
            yield from _check_bounds(part["items"], inner, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _check_number(part, value, path)
    elif isinstance(value, str):  # ISO dates are ordered as texts
        least, most = (part.get(key) for key in DATE_BOUNDS)
        if least and value < least:
            yield f"{path} is before {least}"
        if most and value > most:
            yield f"{path} is after {most}"


def _check_number(part: Mapping[str, Any], value: float, path: str) -> Iterator[str]:
    limits = (
        ("minimum", value >= part.get("minimum", value), "below its minimum"),
        ("maximum", value <= part.get("maximum", value), "above its maximum"),
        ("exclusiveMinimum", value > part.get("exclusiveMinimum", -math.inf), "not above"),
        ("exclusiveMaximum", value < part.get("exclusiveMaximum", math.inf), "not below"),
    )
    for name, is_inside, words in limits:
        if name in part and not is_inside:
            yield f"{path} is {words} {part[name]:.15g}"


def _find_part(schema: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    part: Any = schema
    for key in path:
        part = part.get("properties", {}).get(key, {})
    return part if isinstance(part, Mapping) else {}

"""Numbers, times and long names as the report writes them."""

from __future__ import annotations

from datetime import datetime

CHARACTERS = 2000  # how much of one value of the manifest is shown


def count(number: int) -> str:
    return f"{number:,}"


def count_rows(number: int) -> str:
    return f"{number:,} row{'s' * (number != 1)}"


def percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def plain(value: object) -> str:
    """One value of the manifest, in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return shorten(str(value), CHARACTERS)


def moment(text: object) -> str | None:
    """An ISO time in words, such as "21 November 2026, 14:12 UTC"; whatever else it is, as it is."""
    try:
        at = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return str(text)
    return f"{at.day} {at:%B %Y, %H:%M %Z}".strip() if at else None


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

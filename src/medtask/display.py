"""How names, numbers, times, lists and suggestions are written in messages and reports."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from datetime import datetime
from difflib import get_close_matches

MAX_NAME_CHARACTERS = 80
MAX_LISTED = 12


def escape_control_characters(text: str, keep: str = "\n") -> str:
    """The text with control and direction-changing characters as escapes ("\\x1b").

    Characters in ``keep`` stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char in keep or not _is_control_character(char)
        else char.encode("unicode_escape").decode()
        for char in text
    )


def _is_control_character(char: str) -> bool:
    # Format characters (Cf) change the direction of a line; the joiners among them are part of
    # emoji and of Indic scripts.
    return (
        unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char not in "\u200c\u200d"
    )


def shorten(text: str, limit: int = MAX_NAME_CHARACTERS) -> str:
    """The text in at most ``limit`` characters; "…" marks a cut."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def format_name(name: object, limit: int = MAX_NAME_CHARACTERS) -> str:
    """The name of a file, column or label on one line, without control characters."""
    return escape_control_characters(shorten(str(name), limit), keep="")


def format_path(path: object) -> str:
    """A path in full, without control characters."""
    return format_name(path, limit=4096)


def quote(name: object, limit: int = MAX_NAME_CHARACTERS) -> str:
    """A name in double quotes."""
    return f'"{format_name(name, limit)}"'


def isolate_name(text: str) -> str:
    """A name inside a sentence, with its writing direction isolated (U+2068, U+2069)."""
    return f"\u2068{shorten(text)}\u2069"


def capitalise_first(text: str) -> str:
    """The text with its first letter in upper case; the rest is unchanged."""
    return text[:1].upper() + text[1:]


def format_list(items: Collection[str], limit: int = MAX_LISTED) -> str:
    """The items as "a, b, c"; beyond ``limit``, "a, b and 14 more"."""
    hidden = len(items) - limit
    shown = ", ".join(list(items)[:limit])
    return f"{shown} and {hidden:,} more" if hidden > 0 else shown


def format_first(items: Collection[str], limit: int = MAX_LISTED) -> str:
    """The first ``limit`` items; "a, b, …" where an unknown number is left out."""
    return ", ".join([*list(items)[:limit], *(["…"] if len(items) > limit else [])])


def format_columns(columns: Collection[str]) -> str:
    """Column names as `format_list` writes them."""
    return format_list([format_name(column) for column in columns])


def quote_names(names: Iterable[object]) -> str:
    """Every name in double quotes: '"a", "b"'."""
    return ", ".join(map(quote, names))


def join_alternatives(items: Collection[str]) -> str:
    """The items as "a, b or c"."""
    *rest, last = items
    return f"{', '.join(rest)} or {last}" if rest else last


def find_closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that is most similar to ``word``, ignoring case; None if none is similar.

    Letters of different scripts that look alike are equal.

    ``cutoff``: the least similarity, from 0 to 1, as `difflib.get_close_matches` measures it.
    """
    # Imported here because it loads the package regex, which most commands do not need.
    from medtask.unicode_text import replace_lookalikes

    by_fold = {replace_lookalikes(known_word).casefold(): known_word for known_word in known}
    folded = replace_lookalikes(word[:200]).casefold()
    close = get_close_matches(folded, by_fold, n=1, cutoff=cutoff)
    return by_fold[close[0]] if close else None


def suggest(word: str, known: Iterable[str]) -> str:
    """'did you mean "labels"?', or "" if no known word is similar."""
    closest = find_closest(word, known)
    if closest is None:
        return ""
    from medtask.unicode_text import describe_lookalike

    difference = describe_lookalike(word, closest)
    return f"did you mean {quote(closest)}?" + (f" (yours {difference})" if difference else "")


def format_suggestion(word: str, known: Iterable[str]) -> str:
    """`suggest` as the end of a message: ' - did you mean "labels"?', or ""."""
    suggestion = suggest(word, known)
    return f" - {suggestion}" if suggestion else ""


def join_reasons(*reasons: str | None) -> str | None:
    """The reasons as "a; b"; those that are None or "" are left out. None without any."""
    return "; ".join(reason for reason in reasons if reason) or None


def format_count(number: int, noun: str = "", plural: str | None = None) -> str:
    """A count with its noun: "1 row", "41,230 rows"; without a noun, "41,230"."""
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def format_row_count(number: int) -> str:
    """A number of rows: "1 row", "41,230 rows"."""
    return format_count(number, "row")


def format_percent(share: float) -> str:
    """A share from 0 to 1 as "12.3 %". Only nothing is "0.0 %", and only all of it "100.0 %"."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def format_bytes(count: float) -> str:
    """A number of bytes in powers of 1000: "94 MB", "8.0 GB"."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.{0 if count >= 10 * size else 1}f} {unit}"
    return f"{count:.0f} bytes"


def format_duration(seconds: float) -> str:
    """A measured duration: "8.2 s", "22 min 5 s", "3 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_estimated_duration(seconds: float) -> str:
    """An estimated duration: "about 8 seconds", "about 22 minutes", "about 3.5 hours"."""
    if seconds < 1:
        return "under a second"
    if seconds < 90:
        return f"about {format_count(round(seconds), 'second')}"
    if seconds < 5400:
        return f"about {format_count(round(seconds / 60), 'minute')}"
    return f"about {seconds / 3600:.1f} hours"


def format_clock(seconds: float) -> str:
    """A remaining time in a progress display: "6:02", "1:06:02"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_time(text: object) -> str | None:
    """An ISO time as "21 November 2026, 14:12 UTC"; any other text unchanged, None for no text."""
    try:
        at = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return str(text)
    return f"{at.day} {at:%B %Y, %H:%M %Z}".strip() if at else None

"""Unicode text: characters without a visible effect, normal forms, and words of any script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice

import regex

# Scripts whose letters change their form at U+200C and U+200D (Unicode Standard, section 23.2).
_JOINING_SCRIPTS = (
    *("Arabic", "Syriac", "Mandaic", "Nko", "Adlam", "Hanifi_Rohingya", "Mongolian", "Phags_Pa"),
    *("Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada"),
    *("Malayalam", "Sinhala", "Khmer", "Myanmar", "Tibetan", "Balinese", "Javanese"),
)
# Scripts that are written without blanks between words.
_UNSPACED_SCRIPTS = (
    *("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet"),
)
_JOINERS = "\u200c\u200d"
_SELECTORS = "\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
# Control, zero-width, bidi and tag characters, joiners and variation selectors.
_INVISIBLE = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e"
    f"\u2060-\u206f\ufeff\ufff9-\ufffb{_SELECTORS}\U000e0000-\U000e007f"
)
_BLACK_FLAG, _HEH = "\U0001f3f4", "\u0647"
_VIRAMA = 9  # canonical combining class

# Letters that look like Latin ones in most fonts.
_CYRILLIC = "АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁԛԝ", "ABESIJKMHOPCTYXaesijopcyxhdqw"
_GREEK = "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοαιν", "ABEZHIKMNOPTYXoaiv"
_LOOKALIKES = {
    **str.maketrans(*_CYRILLIC),
    **str.maketrans(*_GREEK),
}


def _compile_class(members: str) -> regex.Pattern[str]:
    return regex.compile(f"[{members}]", regex.V1)


def _list_scripts(scripts: tuple[str, ...]) -> str:
    return "".join(rf"\p{{{script}}}" for script in scripts)


_INVISIBLE_RUN = regex.compile(f"[{_INVISIBLE}]+")
_LETTER = _compile_class(r"\p{L}\p{M}\p{N}")
_JOINING_LETTER = _compile_class(rf"[{_list_scripts(_JOINING_SCRIPTS)}]&&[\p{{L}}\p{{M}}]")
_PICTOGRAPH = _compile_class("\\p{Extended_Pictographic}\U0001f3fb-\U0001f3ff\u20e3")
_SELECTOR = _compile_class(_SELECTORS)
# Blanks, and letters without variants that a selector could choose.
_PLAIN_LETTER = _compile_class(
    r"\s\p{Latin}\p{Greek}\p{Cyrillic}\p{Hebrew}\p{Arabic}\p{Hangul}\p{Thai}"
)
# Characters that have an effect between two others of a kind.
_BETWEEN = {"\u180e": _compile_class(r"\p{Mongolian}"), "\u034f": _compile_class(r"\p{M}")}
# The flags of England, Scotland and Wales are a black flag and a region code in tag characters.
_FLAG_TAGS = regex.compile("[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")

# With the marks of the Japanese script that belong to no script in Unicode's tables.
_UNSPACED = rf"[{_list_scripts(_UNSPACED_SCRIPTS)}\u30fc\uff70\u3006]&&\p{{L}}"
_MARKS = rf"[\p{{M}}{_JOINERS}]*"
_UNSPACED_LETTER = regex.compile(rf"[{_UNSPACED}]{_MARKS}", regex.V1)
_WORD = regex.compile(
    rf"[{_UNSPACED}]{_MARKS}|(?:[[\p{{L}}\p{{N}}_]--[{_UNSPACED}]]{_MARKS})+", regex.V1
)

# Characters of spaced scripts without combining marks, where Python's faster \w+ finds the same.
_SPACED = re.compile("[\x00-\u02ff\u0370-\u0482\u048a-\u052f\u1e00-\u20cf\u2100-\u2bff]*")
_SPACED_WORD = re.compile(r"\w+")


def remove_noise(text: str) -> str:
    """The text without invisible characters that change nothing a reader sees.

    U+200C and U+200D stay where they change the form of letters (Persian, Kurdish, Bengali,
    Malayalam, Sinhala and others) or join emoji; variation selectors stay after a character that
    has variants, and tag characters in flags. Bidi marks, zero-width spaces, soft hyphens,
    byte-order marks and control characters other than blanks and line ends are removed.
    """
    if text.isascii() and text.isprintable():
        return text
    return _INVISIBLE_RUN.sub(
        lambda run: "".join(text[place] for place in _find_kept(text, *run.span())), text
    )


def find_noise(text: str) -> Iterator[int]:
    """The positions of the characters that `remove_noise` removes, in order."""
    if text.isascii() and text.isprintable():
        return
    for run in _INVISIBLE_RUN.finditer(text):
        kept = set(_find_kept(text, *run.span()))
        yield from (place for place in range(*run.span()) if place not in kept)


def normalize_text(text: str) -> str:
    """The text in the normal form NFC, case-folded, without invisible noise: for comparisons."""
    if text.isascii():
        return remove_noise(text).lower()
    return unicodedata.normalize("NFC", remove_noise(unicodedata.normalize("NFC", text)).casefold())


def split_words(text: str, limit: int | None = None) -> list[str]:
    """The words of a text, normalised by `normalize_text`; at most ``limit``.

    A word is a run of letters, digits and underscores with their combining marks. Of scripts
    without blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) it is one letter
    with its marks.
    """
    normalized = normalize_text(text)
    if _SPACED.fullmatch(normalized):
        return [found[0] for found in islice(_SPACED_WORD.finditer(normalized), limit)]
    return [found[0] for found in islice(_WORD.finditer(normalized), limit)]


def split_terms(text: str) -> list[str]:
    """The words of `split_words` without single letters and digits of spaced scripts.

    In scikit-learn, this is a tokenizer: for Latin text, the default ``token_pattern`` finds the
    same words.
    """
    return [word for word in split_words(text) if len(word) > 1 or is_unspaced(word)]


def is_unspaced(character: str) -> bool:
    """Whether a letter belongs to a script without blanks between words."""
    return bool(_UNSPACED_LETTER.fullmatch(character))


def _find_kept(text: str, start: int, end: int) -> list[int]:
    """The positions in a run of invisible characters that have a visible effect."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if not before:
        return []
    if before == _BLACK_FLAG and (tags := _FLAG_TAGS.match(text, start, end)):
        return [*range(*tags.span())]
    kept: list[int] = []
    for place in range(start, end):
        character = text[place]
        # Several selectors in a row, which no font shows, can hide a message to a model.
        if place == start and _SELECTOR.match(character):
            has_effect = not _PLAIN_LETTER.match(before)
        elif character in _JOINERS:
            has_effect = _has_joining_effect(character, before, after) and not any(
                text[other] in _JOINERS for other in kept
            )
        else:
            has_effect = character in _BETWEEN and all(
                _BETWEEN[character].match(side) for side in (before, after)
            )
        if has_effect:
            kept.append(place)
    return kept


def _has_joining_effect(joiner: str, before: str, after: str) -> bool:
    if unicodedata.combining(before) == _VIRAMA:
        return True  # half consonants, and the old spelling of Malayalam's final consonants
    if joiner == "\u200d" and _PICTOGRAPH.match(before):
        return bool(_PICTOGRAPH.match(after))
    if joiner == "\u200d" and before == _HEH:
        return True  # Persian abbreviations
    between_letters = _LETTER.match(before) and _LETTER.match(after)
    return bool(between_letters and (_JOINING_LETTER.match(before) or _JOINING_LETTER.match(after)))


def replace_lookalikes(text: str) -> str:
    """The text with Latin letters instead of Cyrillic and Greek ones that look like them."""
    return text if text.isascii() else text.translate(_LOOKALIKES)


def describe_lookalike(text: str, name: str) -> str:
    """How a text differs from a name that looks the same: "has Cyrillic letters"; else ""."""
    if text == name or replace_lookalikes(text) != replace_lookalikes(name):
        return ""
    letter = next(one for one, other in zip(text, name, strict=True) if one != other)
    return f"has {unicodedata.name(letter).split()[0].title()} letters"

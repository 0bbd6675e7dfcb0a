"""Guesses of the encoding of text that is not UTF-8, with words to check them."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from medtask.display import quote_names

# Encodings of tables that people still exchange. Detection among all known ones is less accurate:
# a rare encoding explains a short text as well as the right one.
_CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("iso8859-2", "iso8859-5", "iso8859-7", "iso8859-13", "iso8859-15", "koi8-r", "koi8-u"),
    *("cp850", "cp437", "cp852", "cp866", "cp857", "cp737", "cp865", "cp775"),
    *("mac_roman", "mac_latin2", "gb18030", "big5", "cp932", "euc_jis_2004", "cp949"),
)
# Encodings of English text whose only special characters are signs and Greek letters.
_SYMBOL_CANDIDATES = ("cp1252", "iso8859-15", "mac_roman", "cp850", "cp437", "cp1253", "cp737")
_SYMBOLS_IN_PLACE = re.compile(
    r"\d\s?°|°\s?[CF]\b|(?<![^\W\d_])[µμ](?=[glmsLMA])|±(?=\s?\d)|[≥≤×÷](?=\s?\d)"
    r"|(?<=[A-Za-z])’(?=[a-z])|(?<!\w)“(?=\w)|(?<=[\w.!?])”(?!\w)|(?<=\w)…(?!\w)"
    r"|(?<![^\W\d_])[–—½¼¾](?![^\W\d_])|€(?=\s?\d)|(?<=\d)\s?€|(?<!\w)[αβγδκλω](?=[-\d])"
    r"|(?<=m)[²³](?!\w)"
)
_WORD = re.compile(r"""[^\s,;|"()\[\]{}<>/:.!?]+""")
_IMPLAUSIBLE_COST = 0.3  # of confidence, per word that no language has
_ENGLISH_WEIGHT = 0.3
_ASCII_MARKS = bytes.maketrans(b',;|"\t', b"     ")
_CLEAR_LEAD, _CLEAR_LEAD_SHARE = 0.02, 0.12
_MAX_WORDS = 3
_MAX_OTHERS = 2
# They explain a few accented letters as well as a Windows encoding does.
_RARE_NAMES = ("mac-latin2", "cp775", "cp857", "cp737", "cp865", "iso8859-13")
_CANDIDATE_NAMES = [codecs.lookup(name).name for name in _CANDIDATES]


@dataclass(frozen=True, slots=True)
class EncodingGuess:
    """The most plausible encoding of some text.

    Attributes:
        name: The encoding, as Python names it.
        words: Up to three words as they are read in it, those first that another encoding changes.
        others: Encodings that give other letters and are about as plausible, with the same words.
    """

    name: str
    words: tuple[str, ...]
    others: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def note(self) -> str:
        """The guess without words of the text, for records that are kept."""
        names = " or ".join(_to_title(name) for name, _ in self.others)
        doubt = f"; unclear, perhaps {names}" if names else ""
        return f"not UTF-8: read as {_to_title(self.name)} (guessed{doubt})"

    def describe(self) -> str:
        """The guess in one sentence, with the words to check."""
        shown = f", for example {quote_names(self.words)}" if self.words else ""
        if not self.others:
            return (
                f"not UTF-8: read as {_to_title(self.name)} (guessed){shown}. If letters are "
                "wrong, name the encoding with --encoding"
            )
        others = "; ".join(
            f"in {_to_title(name)}: {quote_names(words)}" for name, words in self.others
        )
        return (
            f"not UTF-8, and the encoding is unclear: read as {_to_title(self.name)}{shown}; "
            f"{others}. Name the right one with --encoding"
        )


@dataclass(frozen=True, slots=True)
class _Reading:
    """A sample, decoded; ``score`` is the detector's confidence minus a cost of odd words."""

    name: str
    text: str
    score: float


def guess_encodings(sample: bytes) -> Iterator[EncodingGuess]:
    """Guesses for a sample of lines with non-ASCII bytes, the most plausible first.

    The confidences are those of chardet's models of letter pairs by language. Words that no
    language has, such as letters of two scripts or a capital after a small letter, lower them.
    """
    readings = _rank_readings(sample)
    for place, reading in enumerate(readings):
        if reading.score < 0:
            return
        rest = readings[place + 1 :]
        lead = max(_CLEAR_LEAD, _CLEAR_LEAD_SHARE * reading.score)
        ignored = _RARE_NAMES if reading.name.startswith("cp125") else ()
        close = [
            other
            for other in rest
            if other.score > reading.score - lead and other.name not in ignored
        ]
        words = _select_words(reading.text, next(iter(close or rest), reading).text)
        others: list[tuple[str, tuple[str, ...]]] = []
        for other in close[:_MAX_OTHERS]:
            changed = _pair_words(reading.text, other.text)
            others.append((other.name, tuple(changed.get(word, "?") for word in words)))
        yield EncodingGuess(reading.name, words, tuple(others))


def _rank_readings(sample: bytes) -> list[_Reading]:
    for name in _SYMBOL_CANDIDATES:
        text = _decode(sample, name)
        if text is not None and _SYMBOLS_IN_PLACE.sub("", text).isascii():
            return [_Reading(name, text, 1.0)]
    best: dict[str, _Reading] = {}
    for name, confidence in _detect_confidences(sample).items():
        text = _decode(sample, name)
        if text is None:
            continue
        score = confidence - _IMPLAUSIBLE_COST * _measure_implausibility(text)
        if text in best:  # the same letters: the name of the more usual encoding
            name = min(name, best[text].name, key=_get_rank)
            score = max(score, best[text].score)
        best[text] = _Reading(name, text, score)
    return sorted(best.values(), key=lambda reading: -reading.score)


def _detect_confidences(sample: bytes) -> dict[str, float]:
    """The confidence of each encoding, the highest first.

    English words around a few words of another language hide what these words are, so these
    count for more then.
    """
    language, confidences = _run_detector(sample)
    if language not in ("en", None):
        return confidences
    words = (word for word in sample.translate(_ASCII_MARKS).split() if not word.isascii())
    _, in_words = _run_detector(b" ".join(words))
    return {
        name: _ENGLISH_WEIGHT * confidence + (1 - _ENGLISH_WEIGHT) * in_words.get(name, 0.0)
        for name, confidence in confidences.items()
    }


def _run_detector(sample: bytes) -> tuple[str | None, dict[str, float]]:
    """The language of the best guess, and the confidence of each encoding."""
    import chardet

    found = chardet.detect_all(
        sample, ignore_threshold=True, include_encodings=_CANDIDATES, max_bytes=len(sample)
    )
    return found[0]["language"], {
        codecs.lookup(one["encoding"]).name: float(one["confidence"])
        for one in found
        if one["encoding"]
    }


def _get_rank(name: str) -> int:
    """The place among the candidates; the detector also reports relatives of these, last."""
    return _CANDIDATE_NAMES.index(name) if name in _CANDIDATE_NAMES else len(_CANDIDATE_NAMES)


def _decode(sample: bytes, name: str) -> str | None:
    try:
        return sample.decode(name)
    except UnicodeDecodeError:
        return None


def _list_special_words(text: str) -> list[str]:
    return [word for word in dict.fromkeys(_WORD.findall(text)) if not word.isascii()]


def _measure_implausibility(text: str) -> float:
    """The mean number of faults, at most 3, in the words that are not ASCII."""
    words = _list_special_words(text)
    return sum(min(3, _count_faults(word)) for word in words) / max(1, len(words))


def _count_faults(word: str) -> int:
    # An accent or three dots without a word: probably a letter of another encoding, such as à.
    faults = int(len(word) == 1 and unicodedata.category(word) in ("Sk", "Po", "Pf", "Pi"))
    for before, letter, after in zip(f" {word}", word, f"{word[1:]} ", strict=False):
        if letter.isascii():
            continue
        category = unicodedata.category(letter)
        if category.startswith("C"):
            faults += 3
        elif category[0] in "SP" or category == "No":
            inside = before.isalpha() and after.isalpha() and letter < "\u2e80"
            faults += inside and letter not in "’‘“”–—·′-"
            faults += "\u2500" <= letter < "\u25a0"  # parts of boxes
        elif category.startswith("L"):
            faults += letter.isupper() and before.islower()
            faults += letter.islower() and after.isupper()
            faults += letter in "ªº" and not before.isdigit()
            faults += _are_of_two_scripts(before, letter)
            faults += after.isascii() and _are_of_two_scripts(after, letter)
    return faults


def _are_of_two_scripts(first: str, second: str) -> bool:
    """Whether both are letters, of different alphabets; Chinese and Japanese ones mix."""
    return (
        first.isalpha()
        and max(first, second) < "\u2e80"
        and unicodedata.name(first, "?").split()[0] != unicodedata.name(second, "?").split()[0]
    )


def _pair_words(text: str, other: str) -> dict[str, str]:
    """Words of a text and the same words in another reading; empty if their number differs."""
    words, others = _WORD.findall(text), _WORD.findall(other)
    return dict(zip(words, others, strict=True)) if len(words) == len(others) else {}


def _select_words(text: str, other: str) -> tuple[str, ...]:
    """Words of the text to check; those that the other reading changes come first.

    Words in small letters are preferred: others may be names of people.
    """
    changed = _pair_words(text, other)
    ranked = sorted(
        _list_special_words(text),
        key=lambda word: (changed.get(word, word) == word, word[0].isupper(), len(word) < 4),
    )
    return tuple(ranked[:_MAX_WORDS])


def _to_title(name: str) -> str:
    """ "Windows-1250" for cp1250, "DOS 850" for cp850; other names as they are."""
    number = name.removeprefix("cp")
    if number.startswith("125"):
        return f"Windows-{number}"
    return f"DOS {number}" if name.startswith("cp") and number < "9" else name

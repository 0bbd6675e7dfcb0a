"""Invisible characters and words of many scripts."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from medtask.tasks.text_cleaning import clean_text, is_clean_line
from medtask.unicode_text import find_noise, remove_noise, split_terms, split_words

JOINED = {
    "Persian plural": "داده‌ها",
    "Persian verb": "می‌خورد",
    "Persian suffix of a Latin word": "DNA‌ها",
    "Persian suffix of a number": "۳۰‌ساله",
    "Kurdish": "نه‌خۆش",
    "Bengali ya-phala after ra": "র‍্যাশ",
    "Malayalam final consonant": "അവന്‍",
    "Malayalam explicit virama": "തമിഴ്‌നാട്",
    "Sinhala conjunct": "ශ්‍රී",
    "Hindi half consonant": "क्‍ष",
    "family": "👨‍👩‍👧",
    "doctor with skin tone": "👩🏽‍⚕️",
    "heart on fire": "❤️‍🔥",
    "flag of Scotland": "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "keycap": "3️⃣",
    "variant of a Chinese character": "葛\U000e0100",
    "Mongolian": "ᠨᠠ\u180eᠠ",
}
NOISE = {
    "between blanks": ("a \u200c b", "a  b"),
    "between Latin letters": ("pre\u200doperative", "preoperative"),
    "at the start": ("\u200cمی‌خورد", "می‌خورد"),
    "at the end": ("درد\u200c", "درد"),
    "before a blank": ("درد\u200c شکم", "درد شکم"),
    "twice": ("می\u200c\u200cخورد", "می\u200cخورد"),
    "zero-width space and soft hyphen": ("ade\u200bno\u00adcarcinoma", "adenocarcinoma"),
    "byte-order mark inside": ("a\ufeffb", "ab"),
    "bidi marks": ("\u202bשלום\u202c\u200f 5", "שלום 5"),
    "message in tag characters": ("ok\U000e0068\U000e0069", "ok"),
    "message in tag characters after a flag": ("🏴" + "\U000e0061" * 9 + "\U000e007f", "🏴"),
    "message in selectors": ("😀\ufe0f\ufe01\ufe02\U000e0101", "😀\ufe0f"),
    "selector after a Latin letter": ("a\ufe0f", "a"),
    "control characters": ("a\x00b\x1bc\x7f", "abc"),
}
# Characters that a rule names, and ordinary ones.
NAMED = "\u200c\u200d\u200b\ufe0f\u180e\u034f\u200f\U000e0067\U000e007f🏴👩⚕♥ aéßमि्र्میهDž1葛กา"
CHARACTERS = st.one_of(st.sampled_from(NAMED), st.characters(categories=None))
TEXTS = st.text(CHARACTERS, max_size=30)


@pytest.mark.parametrize("text", JOINED.values(), ids=JOINED)
def test_joiners_and_selectors_with_an_effect_are_kept(text: str) -> None:
    assert remove_noise(text) == text == clean_text(text)
    assert remove_noise(f"x {text} y.") == f"x {text} y."
    assert is_clean_line(text)


@pytest.mark.parametrize(("text", "expected"), NOISE.values(), ids=NOISE)
def test_characters_without_an_effect_are_removed(text: str, expected: str) -> None:
    assert remove_noise(text) == expected
    assert not is_clean_line(text)


@given(TEXTS)
def test_removing_noise_twice_changes_nothing(text: str) -> None:
    clean = remove_noise(text)
    assert remove_noise(clean) == clean
    assert not list(find_noise(clean))
    assert clean_text(clean_text(text)) == clean_text(text)


@given(TEXTS)
def test_noise_is_found_where_it_is_removed(text: str) -> None:
    noise = set(find_noise(text))
    assert "".join(c for i, c in enumerate(text) if i not in noise) == remove_noise(text)
    assert all(unicodedata.category(text[place]) in ("Cc", "Cf", "Mn", "Cn") for place in noise)


LATIN = st.characters(max_codepoint=0x2FF, exclude_categories=("Cc", "Cf"), exclude_characters="İǰ")


@given(st.text(LATIN))
def test_words_of_latin_text_are_runs_of_letters_and_digits(text: str) -> None:
    assert split_words(text) == re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold())


@given(TEXTS)
def test_words_are_equal_in_every_normal_form(text: str) -> None:
    words = split_words(text)
    assert split_words(unicodedata.normalize("NFD", text)) == words
    assert split_words(unicodedata.normalize("NFC", text)) == words
    assert split_words(text, 2) == words[:2]


SPACED = ["दर्द", "मरीज़", "हृदय", "ألمٌ", "قَلْب", "می‌خورد", "éclat", "ångström"]


@given(st.lists(st.sampled_from(SPACED)))
def test_marks_and_joiners_are_no_word_borders(words: list[str]) -> None:
    assert split_words(", ".join(words)) == [unicodedata.normalize("NFC", word) for word in words]


@given(
    st.text(st.characters(max_codepoint=0x17F, exclude_characters="ßŉİ\u00ad\u00b5ſ"), max_size=40)
)
def test_terms_of_latin_text_are_those_of_scikit_learn(text: str) -> None:
    tokenize = CountVectorizer(lowercase=False).build_tokenizer()
    assert split_terms(text) == tokenize(unicodedata.normalize("NFC", remove_noise(text)).lower())


def test_terms_are_whole_words_of_any_script() -> None:
    assert split_terms("a सीने में दर्द 7 胃癌 II") == ["सीने", "में", "दर्द", "胃", "癌", "ii"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("胃癌3型 T2", ["胃", "癌", "3", "型", "t2"]),
        ("カテーテルを", ["カ", "テ", "ー", "テ", "ル", "を"]),
        ("ปวดท้อง", ["ป", "ว", "ด", "ท้", "อ", "ง"]),
        ("ເຈັບ", ["ເ", "ຈັ", "ບ"]),
        ("ឈឺ", ["ឈឺ"]),
        ("နာကျင်", ["နာ", "ကျ", "င်"]),
        ("심장 질환", ["심장", "질환"]),
    ],
)
def test_a_word_of_a_script_without_blanks_is_a_letter_with_its_marks(
    text: str, words: list[str]
) -> None:
    assert split_words(text) == words

"""Texts are the same name where a reader would call them the same, and only there."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medtask.names import (
    MatchLevel,
    NameMatch,
    Names,
    fold_case,
    merge_spellings,
    normalize_spelling,
)

LABELS = (
    "Parkinson's disease",
    "beta-blocker",
    "møne, tørr",
    "no finding",
    "größer als 5 µm",
    "Ménière",
)

SAME_SPELLING = [
    ("Parkinson\u2019s disease", "Parkinson's disease"),
    ("Parkinson\u02bcs\u00a0disease", "Parkinson's disease"),
    ("beta\u2011blocker", "beta-blocker"),
    ("beta\u2013blocker", "beta-blocker"),
    ("\ufeffno finding", "no finding"),
    ("no\u202ffinding", "no finding"),
    ("no  finding\u200b", "no finding"),
    ("no\u00ad finding", "no finding"),
    ("gr\u006f\u0308ßer als 5 \u03bcm", "größer als 5 µm"),
    (unicodedata.normalize("NFD", "Ménière"), "Ménière"),
]


@pytest.mark.parametrize(("text", "name"), SAME_SPELLING)
def test_texts_that_look_the_same_are_the_same_name(text: str, name: str) -> None:
    match = Names(LABELS).match(text)
    assert (match.name, match.level) == (name, MatchLevel.SPELLING)


@pytest.mark.parametrize(
    ("names", "text", "name", "level"),
    [
        (("0", "1", "2"), "1.0", "1", MatchLevel.VALUE),
        (("0", "1", "2"), "02", "2", MatchLevel.VALUE),
        (("01", "02"), "1", "01", MatchLevel.VALUE),
        (("0.5", "1.5"), ".50", "0.5", MatchLevel.VALUE),
        (("1000",), "1e3", "1000", MatchLevel.VALUE),
        (("-1", "1"), "\u22121.0", "-1", MatchLevel.VALUE),
        (("true", "false"), "True", "true", MatchLevel.VALUE),
        (("true", "false"), "0", "false", MatchLevel.VALUE),
        (("yes", "no"), "TRUE", "yes", MatchLevel.VALUE),
        (("Yes", "No", "unclear"), "False", "No", MatchLevel.VALUE),
        (("true", "false"), "FALSCH", "false", MatchLevel.VALUE),
        (("1", "0"), "True", "1", MatchLevel.VALUE),
        (("WAHR", "FALSCH"), "false", "FALSCH", MatchLevel.VALUE),
        (("VRAI", "FAUX", "?"), "yes", "VRAI", MatchLevel.VALUE),
        (("Curative", "Palliative"), "CURATIVE", "Curative", MatchLevel.CASE),
        (("pT1 (a)", "pT1 (b)"), "PT1(A)", "pT1 (a)", MatchLevel.CASE),
        (("0.5 mg", "5 mg"), "0.5mg", "0.5 mg", MatchLevel.CASE),
        (("STRASSE",), "Straße", "STRASSE", MatchLevel.CASE),
        (("\u0130yi",), "iyi", "\u0130yi", MatchLevel.CASE),
        (("II", "III"), "\uff29\uff29", "II", MatchLevel.CASE),
        (("\u06cc\u06a9",), "\u064a\u0643", "\u06cc\u06a9", MatchLevel.CASE),
    ],
)
def test_a_looser_comparison_finds_the_only_name_that_fits(
    names: tuple[str, ...], text: str, name: str, level: MatchLevel
) -> None:
    match = Names(names).match(text)
    assert (match.name, match.level) == (name, level)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("10\u00b2", "103"), "102"),  # a superscript is not a digit
        (("mg", "\u00b5g"), "kg"),
        (("T", "N", "M"), "no"),  # a letter of a stage is not a word for false
        (("sand", "gravel"), "true"),  # Danish for true, but there is no word for false
        (("yes", "maybe"), "True"),  # "no" is not among the names
        (("yes", "no"), "1"),  # 1 may be the first of several codes
        (("sao",), "são"),
        (("12",), "1 2"),
        (("1,500",), "1.5"),
        (("a part",), "apart"),
        (("stage",), ""),
    ],
)
def test_other_texts_are_not_the_name(names: tuple[str, ...], text: str) -> None:
    assert Names(names).match(text).name is None


@pytest.mark.parametrize(
    ("names", "text", "level"),
    [
        (("BB", "Bb", "bb"), "bB", MatchLevel.CASE),
        (("1", "01"), "1.0", MatchLevel.VALUE),
        (("a-b", "a\u2013b"), "a\u2011b", MatchLevel.SPELLING),
    ],
)
def test_of_names_that_fit_equally_well_none_is_chosen(
    names: tuple[str, ...], text: str, level: MatchLevel
) -> None:
    match = Names(names).match(text)
    assert match.name is None
    assert set(match.ambiguous) == set(names)
    assert match.level is level


def test_an_exact_name_is_found_among_names_that_look_like_it() -> None:
    names = ("BB", "Bb", "bb", "mg", "Mg", "\u00b5g", "10\u00b2", "102", "1", "1.0", "True", "yes")
    found = Names(names)
    assert [found.find(name) for name in names] == list(names)
    assert {found.match(name).level for name in names} == {MatchLevel.EXACT}


def test_a_stricter_comparison_decides_before_a_looser_one() -> None:
    assert Names(("Beta-1", "beta-1")).find("beta\u20111") == "beta-1"


def test_an_alias_stands_for_its_name() -> None:
    names = Names(("A", "B"), {"Paracetamol": "A", "Ibuprofen": "B"})
    assert names.find("ibuprofen") == "B"
    assert names.find("A") == "A"


def test_a_joiner_inside_a_persian_word_is_part_of_it() -> None:
    word = "\u0645\u06cc\u200c\u0631\u0648\u062f"
    assert normalize_spelling(word) == word
    assert normalize_spelling("as\u200cthma") == "asthma"
    assert Names((word,)).match(word.replace("\u200c", "")).level is MatchLevel.CASE


@pytest.mark.parametrize(
    ("texts", "merged"),
    [
        (("Sepsis", "sepsis", "SEPSIS"), ("Sepsis",)),
        (("yes", "Yes", "NO", "no"), ("yes", "NO")),
        (("1.0", "1", "2"), ("1.0", "2")),
        (("x\u2011y", "x-y"), ("x\u2011y",)),
        (("Mg", "mg"), ("Mg", "mg")),
        (("AaBb", "aabb", "AABB"), ("AaBb", "aabb", "AABB")),
        (("01", "1"), ("01", "1")),
        (("10\u00b2", "102"), ("10\u00b2", "102")),
    ],
)
def test_spellings_of_one_value_are_merged(texts: tuple[str, ...], merged: tuple[str, ...]) -> None:
    assert merge_spellings(texts) == merged


def test_known_names_stay_and_take_other_spellings() -> None:
    assert merge_spellings(("01", "TRUE", "MG", "kg"), ("1", "yes", "no", "mg")) == (
        *("1", "yes", "no", "mg"),
        *("MG", "kg"),
    )


NOISE = st.sampled_from(("\u200b", "\ufeff", "\u00ad", "\u2060", "\u200e", "\ufe0f"))
SPELLINGS = {
    " ": "\u00a0\u2009\u202f\u3000",
    "-": "\u2010\u2011\u2012\u2013\u2212",
    "'": "\u2018\u2019\u02bc\u2032",
    '"': "\u201c\u201d\u201e",
}
LABEL_TEXT = st.text(
    st.sampled_from("abcdefXYZ åéüñçβжकि中1234567890-'\" .,;/()²µ"), min_size=1, max_size=20
).filter(lambda text: bool(normalize_spelling(text)))


@st.composite
def respell(draw: st.DrawFn, text: str) -> str:
    """The text as another program may have written it."""
    written = "".join(
        draw(st.sampled_from(SPELLINGS[one] + one)) if one in SPELLINGS else one for one in text
    )
    position = draw(st.integers(0, len(written)))
    written = written[:position] + draw(NOISE) + written[position:]
    return unicodedata.normalize(draw(st.sampled_from(("NFC", "NFD"))), written)


@given(st.data(), st.lists(LABEL_TEXT, min_size=1, max_size=6, unique_by=normalize_spelling))
def test_any_other_spelling_of_a_name_is_found(data: st.DataObject, names: list[str]) -> None:
    name = data.draw(st.sampled_from(names))
    match = Names(names).match(data.draw(respell(name)))
    assert match.name == name


@given(LABEL_TEXT, LABEL_TEXT)
def test_texts_that_differ_after_all_comparisons_are_different_names(one: str, two: str) -> None:
    assume(fold_case(one) != fold_case(two))
    assume(not (set(fold_case(one)) | set(fold_case(two))) <= set("0123456789."))
    assert Names((one,)).find(two) is None


@given(st.text(max_size=30))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    spelling = normalize_spelling(text)
    assert normalize_spelling(spelling) == spelling
    assert fold_case(fold_case(text)) == fold_case(text)


@given(st.text(max_size=12), st.lists(st.text(max_size=12), max_size=5))
def test_every_text_can_be_looked_up(text: str, names: list[str]) -> None:
    match = Names(names).match(text)
    assert match.name is None or match.name in names


@given(st.lists(LABEL_TEXT, max_size=8))
def test_every_merged_text_is_found_again(texts: list[str]) -> None:
    merged = merge_spellings(texts)
    assert len(set(map(normalize_spelling, merged))) == len(merged)
    names = Names(merged)
    for text in texts:
        assert names.find(text) is not None or names.match(text).ambiguous


@pytest.mark.parametrize(
    ("text", "name"),
    [("1,0", "1"), ("1,5", "1.5"), ("1.5", "1,5"), ("1,50", "1.5"), ("0,12345", ".12345")],
)
def test_a_decimal_comma_is_a_decimal_point(text: str, name: str) -> None:
    assert Names([name, "2"]).match(text) == NameMatch(name, MatchLevel.VALUE)


@pytest.mark.parametrize("text", ["1,000", "1,500", "1,5,0", "1, 5", ",5"])
def test_a_comma_that_may_separate_thousands_or_names_is_not_decimal(text: str) -> None:
    assert Names(["1", "1.5", "1000", "1500", "5"]).find(text) is None


def test_labels_with_a_comma_and_a_point_are_different_if_both_are_names() -> None:
    names = Names(["1,5", "1.5"])
    assert (names.find("1,5"), names.find("1.5")) == ("1,5", "1.5")
    assert names.match("1.50").ambiguous == ("1,5", "1.5")


def test_values_with_decimal_commas_are_merged() -> None:
    assert merge_spellings(["1,0", "1", "1.0", "2,5", "2.5"]) == ("1,0", "2,5")


@pytest.mark.parametrize(
    ("true", "false"), [("ja", "nei"), ("Ja", "Nein"), ("oui", "non"), ("Sí", "No"), ("да", "нет")]
)
def test_booleans_are_yes_and_no_of_other_languages(true: str, false: str) -> None:
    names = Names([true, false])
    assert (names.find("true"), names.find("FALSE"), names.find("FALSCH")) == (true, false, false)
    assert Names([true, "x"]).find("true") is None
    assert names.find("yes") in (None, true)

"""Quotes of fields: the place in the record, for rows as they come from tables."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.engines.fake import FakeEngine
from medtask.prediction.long_records import ELLIPSIS
from medtask.prediction.predictor import predict_uncalibrated
from medtask.prediction.quotes import extract_quotes, locate_quotes, move_quotes
from medtask.records import Answer, Quote, Record, Status
from medtask.tasks.prompt import render_text
from medtask.tasks.task import Fields, Task

FORM = Fields(
    {
        "type": "object",
        "properties": {
            "site": {"type": "string"},
            "site_quote": {"type": "string", "quote": True},
            "polyp_size": {"type": "string"},
            "polyp_size_quote": {"type": "string", "quote": True},
        },
    },
    quoted=(("site",), ("polyp_size",)),
)


def find_quote(text: str, **written: object) -> Quote:
    """The place of the quote of ``polyp_size``."""
    return extract_quotes(FORM, written, text)[1]["polyp_size"]


def test_a_quote_has_its_place_in_the_text() -> None:
    bare, quotes, missing = extract_quotes(
        FORM, {"site": "left", "site_quote": "left flank"}, "Pain in the left flank."
    )
    assert (bare, missing) == ({"site": "left"}, [])
    assert quotes == {"site": Quote("left flank", 12, 22)}


def test_a_quote_that_is_not_in_the_text_is_left_out() -> None:
    assert extract_quotes(FORM, {"site": "left", "site_quote": "Left"}, "left")[1:] == (
        {},
        ["site"],
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        pytest.param(
            "Mass of 8 mm in the liver. Nodule of 8 mm in the sigmoid. Cyst of 8 mm.",
            {"site": "sigmoid"},
            id="the value of another field",
        ),
        pytest.param(
            "A nodule, 8 mm wide, in 2019. A nodule, 8 mm wide, today. Last: 8 mm wide.",
            {"site": ["today"]},
            id="a value in a list",
        ),
        pytest.param(
            "In the liver: 8 mm, 4 in all. In the lung: 8 mm, 7 in all. Skin: 8 mm.",
            {"count": {"value": 7}},
            id="a number in an object",
        ),
        pytest.param(
            "Mass of 8 mm. Dr. Lie saw a polyp of 8 mm. Cyst of 8 mm.", {}, id="the field's name"
        ),
        pytest.param(
            "Mass: 8 mm\nin the sigmoid: 8 mm\nCyst: 8 mm",
            {"site": "?", "site_quote": "in the sigmoid"},
            id="a quote in the same line",
        ),
    ],
)
def test_of_equal_places_the_one_that_fits_the_answer_is_chosen(
    text: str, written: dict[str, object]
) -> None:
    quote = find_quote(text, polyp_size_quote="8 mm", **written)
    second = text.index("8 mm", text.index("8 mm") + 1)
    assert (quote.input_start, quote.ambiguous) == (second, False)


def test_the_place_nearest_to_another_quote_is_chosen() -> None:
    text = "8 mm. Found here: 8 mm. And so on and so on. 8 mm."
    quote = find_quote(text, site_quote="Found", polyp_size_quote="8 mm")
    assert (quote.input_start, quote.ambiguous) == (text.index("8 mm", 5), False)


def test_equal_places_without_evidence_are_ambiguous() -> None:
    assert find_quote("A of 8 mm. B of 8 mm.", polyp_size_quote="8 mm") == Quote(
        "8 mm", 5, 9, ambiguous=True
    )


def test_a_short_quote_of_a_long_text_is_placed_quickly() -> None:
    text = "Cyst of 2 cm. " * 20_000 + "Polyp of 2 mm. " + "Cyst of 2 cm. " * 20_000
    start = time.process_time()
    quote = find_quote(text, polyp_size_quote="2")
    assert quote.input_start == text.index("2 mm")
    assert time.process_time() - start < 20


TEMPLATES = [
    "{{ report }}",
    "Findings: {{ report }}\nHistory: {{ history }}",
    '{% if history %}{{ row["history"] | trim }}. {% endif %}{{ report }}',
]
CELLS = st.lists(
    st.sampled_from(
        ["a polyp", "of 8 mm", " ", "\r\n", "\n", "\u00a0", "\u200b", "\ufeff", "👩\u200d⚕️", "é"]
    ),
    max_size=9,
).map("".join)


@settings(deadline=None)
@given(st.sampled_from(TEMPLATES), CELLS, CELLS, st.data())
def test_the_quote_is_the_part_of_the_cell_for_every_row(
    template: str, report: str, history: str, data: st.DataObject
) -> None:
    row = {"report": report, "history": history}
    text = render_text(template, Record("1", row))
    if not isinstance(text, str) or not any(map(str.isalnum, text)):
        return
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    written = {"site": "x", "site_quote": text[start:end]}
    task = Task("t", "?", template, FORM)
    (answer,) = predict_uncalibrated(
        task, FakeEngine(generated_texts={"1": json.dumps(written)}), [row]
    )
    quote = (answer.quotes or {})["site"]
    if quote.column is not None:
        assert row[quote.column][quote.start : quote.end] == quote.text
    else:
        assert template != "{{ report }}"
        assert text[quote.input_start : quote.input_end] == quote.text


def test_rows_with_the_same_prompt_have_their_own_places() -> None:
    task = Task("t", "?", "{{ text }}", FORM)
    engine = FakeEngine(generated_texts={"1": json.dumps({"site": "x", "site_quote": "pain"})})
    rows = [{"text": "No pain"}, {"text": "  No\u200b pain"}]
    places = [(answer.quotes or {})["site"] for answer in predict_uncalibrated(task, engine, rows)]
    assert [(place.start, place.end) for place in places] == [(3, 7), (6, 10)]


def test_a_quote_across_cells_has_no_column() -> None:
    task = Task("t", "?", "{{ a }} {{ b }}", FORM)
    answer = Answer("1", Status.OK, {}, quotes={"site": Quote("left flank", 0, 10)})
    located = locate_quotes(task, Record("1", {"a": "left", "b": "flank"}), answer)
    assert located == answer


def test_quotes_of_a_shortened_text_have_their_places_in_the_whole_text() -> None:
    text = "One \n[…]\n two" + " and" * 50 + " pain"
    shortened = "One \n[…]\n two and" + ELLIPSIS + "and pain"
    quotes = {
        "first": Quote("two", 10, 13),
        "last": Quote("pain", len(shortened) - 4, len(shortened)),
        "across": Quote("and\n[…]\nand", 14, 25),
    }
    moved = move_quotes(Answer("1", Status.OK, {}, quotes=quotes), shortened, text, ELLIPSIS)
    assert moved.quotes == {
        "first": quotes["first"],
        "last": replace(quotes["last"], input_start=len(text) - 4, input_end=len(text)),
    }
    assert (moved.status, moved.reason) == (
        Status.REVIEW,
        "the quote of across crosses the part that was left out",
    )

"""Origins of a text's characters, in rows with blanks, line ends and invisible characters."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medtask.records import Record
from medtask.tasks.prompt import render_text
from medtask.tasks.text_cleaning import clean_text, clean_text_with_positions
from medtask.tasks.text_origins import trace_text

TEMPLATES = [
    "{{ report }}",
    "Report: {{ report }}",
    "{{ history }}\n\n{{ report }} ({{ age }} years)",
    '{{ row["report"] }}{{ row.history }}',
    "{% if history %}History: {{ history }}. {% endif %}{{ report }}",
]
CELLS = st.text(
    st.sampled_from(
        "ab 2.\r\n\t\u00a0\u200b\u200c\ufeff\u00ade\u0301İ👩\u200d⚕\ufe0f\u2028م\ud83d"
    ),
    max_size=15,
)


@settings(deadline=None)
@given(st.sampled_from(TEMPLATES), CELLS, CELLS, st.data())
def test_a_located_part_is_the_part_of_its_cell(
    template: str, report: str, history: str, data: st.DataObject
) -> None:
    record = Record("1", {"report": report, "history": history, "age": 70})
    origins = trace_text(template, record)
    text = render_text(template, record)
    assert origins is not None
    if not isinstance(text, str):
        return
    assert origins.text == text
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    span = origins.locate(start, end)
    assert span is not None or template != "{{ report }}"
    if span is None:
        return
    cell = str(record.fields[span.column])
    assert cell[span.start : span.end] == span.text
    # A joiner at the border of a part has its effect beyond it.
    no_joiners = dict.fromkeys((0x200C, 0x200D, 0xFE0F))
    kept = clean_text(f"[{span.text}]")[1:-1]
    assert kept.translate(no_joiners) == text[start:end].translate(no_joiners)


@given(st.one_of(CELLS, st.text(st.characters(categories=None))))
@example("\r\n\n2")
@example("\r\u200b\n2")
def test_each_clean_character_has_the_position_of_its_origin(text: str) -> None:
    cleaned, positions = clean_text_with_positions(text)
    assert cleaned == clean_text(text)
    assert len(positions) == len(cleaned)
    assert sorted(set(positions)) == positions
    for character, place in zip(cleaned, positions, strict=True):
        assert character == text[place] or character in "\n\ufffd"


def locate(template: str, part: str, **fields: object) -> tuple[str, str] | None:
    """The column and the text that are found for a part of the rendered text."""
    origins = trace_text(template, Record("1", fields))
    assert origins is not None
    start = origins.text.index(part)
    span = origins.locate(start, start + len(part))
    assert span is None or str(fields[span.column])[span.start : span.end] == span.text
    return None if span is None else (span.column, span.text)


@pytest.mark.parametrize(
    ("template", "part", "expected"),
    [
        ("{{ note }} / {{ site }}", "colon", ("site", "colon")),
        ("{{ note | trim | upper }}", "NODULE", ("note", "nodule")),
        ("{{ note | replace('mm', 'millimetres') }}", "nodule", ("note", "nodule")),
        ("{{ note | truncate(12, true, '') }}", "A nodule", ("note", "A nodule")),
        ("{% for part in [site, note] %}{{ part }}; {% endfor %}", "nodule", ("note", "nodule")),
        ("{% for name, value in row.items() %}{{ value }} {% endfor %}", "3", ("note", "3")),
        ("{{ site ~ ' ' ~ note }}", "nodule of 3 mm", ("note", "nodule of 3 mm")),
        ("{{ note }} {{ site }}", "mm colon", None),
        ("Text of the nodule: {{ note }}", "Text", None),
        ("{{ size }} mm", "14", ("size", "14")),
    ],
)
def test_the_column_is_found_through_templates(
    template: str, part: str, expected: tuple[str, str] | None
) -> None:
    cells: dict[str, object] = {"note": " A nodule of 3 mm", "site": "colon", "size": 14}
    assert locate(template, part, **cells) == expected


def test_of_equal_parts_each_has_its_own_place() -> None:
    origins = trace_text("{{ a }}; {{ b }}", Record("1", {"a": "no pain", "b": "no pain"}))
    assert origins is not None
    spans = [origins.locate(start, start + 7) for start in (0, 9)]
    assert [span and span.column for span in spans] == ["a", "b"]


def test_dates_and_missing_cells_have_origins_too() -> None:
    fields = {"day": date(2026, 3, 1), "note": None, "size": 2.5}
    assert locate("{{ day }} {{ note }}{{ size }}", "03-01", **fields) == ("day", "03-01")
    assert locate("{{ day }} {{ note }}{{ size }}", "2.5", **fields) == ("size", "2.5")

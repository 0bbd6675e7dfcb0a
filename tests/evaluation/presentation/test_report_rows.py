"""The best few of many, and text that can be shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medtask.evaluation.kinds.protocols import get_evaluation_kind
from medtask.evaluation.presentation.report_rows import (
    TextSpan,
    TopK,
    build_report_row,
    cut_text,
    mark_quotes,
)
from medtask.records import Answer, Option, Quote, Status


@given(st.lists(st.floats(0, 1), unique=True), st.integers(1, 10))
def test_a_shortlist_keeps_the_largest_keys_in_order(keys: list[float], size: int) -> None:
    shortlist: TopK[float] = TopK(size)
    for key in keys:
        shortlist.push((key,), lambda key=key: key)  # type: ignore[misc]
    assert list(shortlist.to_sorted()) == sorted(keys, reverse=True)[:size]


FIELDS_STYLE = get_evaluation_kind("fields").row_style


def test_what_is_not_kept_is_not_made() -> None:
    shortlist: TopK[str] = TopK(1)
    shortlist.push((2,), lambda: "kept")
    shortlist.push((1,), lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert shortlist.to_sorted() == ("kept",)


@given(st.text(alphabet=st.characters(), max_size=50))
def test_cut_text_can_always_be_encoded(text: str) -> None:
    cut_text(text, 20).encode("utf-8")


def test_cut_text_keeps_joined_emoji_and_marks_what_cannot_be_shown() -> None:
    assert cut_text(" 👩🏽‍⚕️\x00\ud800\u202e سلام ", 600) == "👩🏽‍⚕️\ufffd\ufffd\ufffd سلام"
    assert cut_text("abcdef", 3) == "abc …"


@given(st.text(max_size=900))
def test_text_without_quotes_is_cut_as_ever(text: str) -> None:
    assert "".join(piece.text for piece in mark_quotes(text, {})) == cut_text(text, 600)


def test_quotes_are_marked_where_they_are() -> None:
    text = "  Stage II, left breast. "
    quotes = {
        "stage": Quote("Stage II", 2, 10),
        "side": Quote("left", 12, 16),
        "site": Quote("left breast", 12, 23),
    }
    assert mark_quotes(text, quotes) == (
        TextSpan("Stage II", "stage"),
        TextSpan(", "),
        TextSpan("left", "side, site"),
        TextSpan(" breast", "site"),
        TextSpan("."),
    )


def test_a_quote_far_behind_is_shown_with_its_surroundings() -> None:
    text = "a" * 2000 + " Stage II " + "b" * 2000
    pieces = mark_quotes(text, {"stage": Quote("Stage II", 2001, 2009)})
    assert [piece.text for piece in pieces if piece.field] == ["Stage II"]
    assert [len(piece.text) for piece in pieces] == [600, 3, 80, 8, 80, 2]
    assert pieces[1].text == " … "


@given(
    st.text(max_size=1500),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 200)), max_size=4),
)
def test_marked_text_is_what_is_in_the_record(text: str, spans: list[tuple[int, int]]) -> None:
    quotes = {
        str(number): Quote(text[start : start + length], start, start + length)
        for number, (start, length) in enumerate(spans)
    }
    for piece in mark_quotes(text, quotes):
        piece.text.encode("utf-8")
        assert (
            piece.field is None
            or piece.text in "".join(cut_text(text, 10**6))
            or "\ufffd" in piece.text
        )


def test_values_of_every_kind_are_readable() -> None:
    options = (Option("A", "rest"), Option("B", "aspirin"))
    several = build_report_row(
        1,
        Answer("1", Status.OK, ("A", "B")),
        "text",
        ("B",),
        style=get_evaluation_kind("choice").row_style,
        options=options,
    )
    assert (several.value, several.gold) == ("A: rest; B: aspirin", "B: aspirin")
    none = build_report_row(1, Answer("1", Status.OK, ()), "text", ("a",))
    assert (none.value, none.gold, none.tone("a"), none.tone("b")) == (
        "none applies",
        "a",
        "blue",
        "grey",
    )
    assert (
        build_report_row(
            1,
            Answer("1", Status.OK, ("b",)),
            "text",
            (),
            style=get_evaluation_kind("labels").row_style,
        ).gold
        == "none applies"
    )
    fields = build_report_row(
        1,
        Answer("1", Status.OK, {"size": {"mm": 3}, "sites": ["x", "y"], "side": None}),
        "text",
        None,
        style=FIELDS_STYLE,
    )
    assert fields.value == "size.mm: 3\nsites: x; y\nside: –"
    assert fields.gold is None


def test_of_fields_the_least_sure_choice_comes_first() -> None:
    shares = {"stage=I": 0.1, "stage=II": 0.9, "nodes=true": 0.6, "nodes=false": 0.4}
    answer = Answer("1", Status.OK, {"stage": "II", "nodes": True}, 0.5, shares)
    case = build_report_row(1, answer, "text", {"stage": "I", "nodes": True}, style=FIELDS_STYLE)
    assert case.top == (("nodes=true", 0.6), ("stage=II", 0.9))
    assert (case.tone("nodes=true"), case.tone("stage=II")) == ("blue", "orange")
    assert [(part.field, part.right) for part in case.parts] == [("stage", False), ("nodes", True)]

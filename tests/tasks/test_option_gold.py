"""Gold of multiple choice: the letters that cells stand for, and the form of a column."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.records import LETTERS
from medtask.tasks.option_gold import GoldColumn, find_letters, find_readings
from medtask.tasks.row_options import RowOptions, read_options
from medtask.tasks.task import GOLD_FORMS, GoldForm, MultipleChoice

ONE = MultipleChoice(("options",))
WORDS = st.text(st.characters(categories=("Ll", "Lu", "Nd")), min_size=1, max_size=6)
TEXTS = st.lists(WORDS, min_size=2, max_size=6, unique_by=str.casefold)


def make_options(cell: object) -> RowOptions:
    options = read_options(ONE, {"options": cell})
    assert isinstance(options, RowOptions), options
    return options


def read_column(*rows: tuple[object, object]) -> GoldColumn:
    """A column of gold; each row has its options and its cell."""
    column = GoldColumn()
    for number, (options, cell) in enumerate(rows, 1):
        column.add(number, find_readings(cell, make_options(options), False))
    return column


OPTIONS = make_options({"yes": "it is", "no": "it, is; not", "maybe": "B"})


@pytest.mark.parametrize(
    ("cell", "letters"),
    [
        ("A", "A"),
        (" b ", None),  # the letter of one option, and the text of another
        ("(C)", "C"),
        ("c.", "C"),
        ("maybe", "C"),
        ("NO", "B"),
        ("It  IS", "A"),
        ("it, is; not", "B"),
        (["A"], "A"),
        ('["maybe"]', "C"),
        ("D", None),
        ("neither", None),
        ("A, B", None),
        (["A", "B"], None),
        ([], None),
        ("", None),
        (None, None),
    ],
)
def test_the_letter_that_gold_means(cell, letters):
    assert find_letters(cell, OPTIONS, False) == (tuple(letters) if letters else None)


@pytest.mark.parametrize(
    ("cell", "letters"),
    [
        ("A", "A"),
        ("C, A", "AC"),
        ("a;b", "AB"),
        ("A|B|C", "ABC"),
        ("A/C", "AC"),
        ("CA", "AC"),
        ("A C", "AC"),
        ("yes; maybe", "AC"),
        ("it, is; not", "B"),
        ("['C', 'A']", "AC"),
        (["yes", "A"], "A"),
        ("AA", None),
        ("AD", None),
        ("A, D", None),
        ("A and neither", None),
    ],
)
def test_the_letters_that_gold_means_where_several_may_be_right(cell, letters):
    assert find_letters(cell, OPTIONS, True) == (tuple(letters) if letters else None)


GROUPS = ["B", "AB", "A", "0"]  # blood groups


@pytest.mark.parametrize(
    ("cell", "by_form"),
    [
        ("A", {"letter": "A", "text": "C"}),
        ("AB", {"text": "B"}),
        ("C", {"letter": "C"}),
        (1, {"index0": "B", "index1": "A"}),
        ("2.0", {"index0": "C", "index1": "B"}),
        (0, {"text": "D", "index0": "A"}),
        (4, {"index1": "D"}),
        (5, {}),
        (-1, {}),
        ("C. A", {"letter": "C", "text": "C"}),
        ("(C) A", {"letter": "C", "text": "C"}),
        ("A. AB", {}),
    ],
)
def test_a_cell_is_read_in_every_form(cell, by_form):
    options = make_options(GROUPS)
    expected = {form: (letter,) for form, letter in by_form.items()}
    assert find_readings(cell, options, False) == expected
    for form in GOLD_FORMS:
        assert find_letters(cell, options, False, form) == expected.get(form)


@pytest.mark.parametrize(
    ("cell", "letters"),
    [("A", None), ("AB", ("B",)), ("C", ("C",)), ("C. A", ("C",)), (1, None), (0, None), (4, None)],
)
def test_without_a_form_a_cell_with_two_meanings_or_a_position_is_not_valid(cell, letters):
    assert find_letters(cell, make_options(GROUPS), False) == letters


def test_a_key_of_the_row_is_not_a_position():
    options = make_options({"1": "Liver", "2": "Heart", "3": "Lung"})
    assert find_readings("2", options, False) == {"letter": ("B",)}
    marked = make_options("1) Liver\n2) Heart")
    assert find_letters("1", marked, False) == ("A",)


def test_options_that_differ_in_capitals_are_found_as_written():
    options = make_options(["BB", "Bb", "bb"])
    assert [find_letters(text, options, False) for text in ("BB", "Bb", "bb")] == [
        ("A",),
        ("B",),
        ("C",),
    ]
    assert find_letters("bB", options, False) is None


@pytest.mark.parametrize(
    ("rows", "form"),
    [
        ([(GROUPS, "A"), (GROUPS, "AB")], "text"),
        ([(GROUPS, "A"), (["Liver", "Heart"], "B")], "letter"),
        ([(["x", "y", "z"], 1), (["x", "y", "z"], 0)], "index0"),
        ([(["x", "y", "z"], 1), (["x", "y", "z"], 3)], "index1"),
        ([(["1", "2", "3"], 1), (["x", "y", "z"], 0)], "index0"),
        ([(["1", "2", "3"], 2), (["10", "20", "30"], 20)], "text"),
        ([(["x", "y"], 0)], "index0"),
        # Nothing to decide.
        ([(["Liver", "Heart"], "A"), (["Liver", "Heart"], "Heart")], None),
        # More than one form fits, or none.
        ([(GROUPS, "A")], None),
        ([(["x", "y", "z"], 1), (["x", "y", "z"], 2)], None),
        ([(["x", "y", "z"], 0), (["x", "y", "z"], 3)], None),
        ([(GROUPS, "A"), (["Liver", "Heart"], "B"), (["Liver", "Heart"], "Liver")], None),
        ([(["1", "2", "3"], 1), (["1", "2", "3"], 2)], None),
        # A value that no form can read says nothing about the column.
        ([(["x", "y", "z"], 1), (["x", "y", "z"], 0), (["x", "y", "z"], -1)], "index0"),
    ],
)
def test_the_form_of_a_column_is_inferred_where_only_one_fits_all_rows(rows, form):
    column = read_column(*rows)
    assert column.infer_form() == form
    assert len(column.describe()) == (form is not None or bool(column.ambiguous_rows))


def test_rows_with_two_meanings_are_named():
    column = read_column(*[(["Liver", "Heart"], "A")] * 3, *[(GROUPS, "A")] * 7, (GROUPS, "AB"))
    (note,) = column.describe()
    assert note == (
        "can be read in different ways in 7 rows (rows 4, 5, 6, 7, 8 and 2 more), as letters or "
        "keys of options or texts of options: these rows are left out of the metrics unless the "
        "task states the form (gold_is: letter or text, under answer)"
    )


def write_cell(options: RowOptions, index: int, form: GoldForm) -> object:
    """The option at ``index`` as a gold cell of this form."""
    cells: dict[GoldForm, object] = {
        "letter": LETTERS[index],
        "text": options.options[index].text,
        "index0": index,
        "index1": index + 1,
    }
    return cells[form]


@given(TEXTS, st.data())
def test_gold_in_any_form_is_never_another_option(texts, data):
    options = make_options(texts)
    index = data.draw(st.integers(0, len(texts) - 1))
    form = data.draw(st.sampled_from(GOLD_FORMS))
    cell = write_cell(options, index, form)
    letters = (LETTERS[index],)
    assert find_letters(cell, options, False) in (letters, None)
    readings = find_readings(cell, options, False)
    if form in readings:
        assert readings[form] == letters
    else:
        # A digit can be the text of an option; a text can only be unreadable beside its own kind.
        assert form.startswith("index")


@given(st.lists(st.tuples(TEXTS, st.integers(0, 5)), min_size=1, max_size=8), st.data())
def test_an_inferred_form_is_the_one_in_which_the_column_was_written(rows, data):
    form = data.draw(st.sampled_from(GOLD_FORMS))
    column, cells = GoldColumn(), []
    for number, (texts, place) in enumerate(rows, 1):
        index = place % len(texts)
        options = make_options(texts)
        cell = write_cell(options, index, form)
        cells.append((cell, options, (LETTERS[index],)))
        column.add(number, find_readings(cell, options, False))
    inferred = column.infer_form()
    # Another form may be inferred only if it fits all rows and reads them alike.
    if inferred is not None and form in column.forms:
        for cell, options, letters in cells:
            assert find_letters(cell, options, False, inferred) == letters

"""Which rows are compared: those that all systems have, with gold; what is left out is counted."""

from __future__ import annotations

import pytest

from medtask.errors import InputError
from medtask.records import Answer, AnsweredRow, Option, Status
from support.comparison_rows import LABELS, join_systems, make_answer, make_rows

GOLD = ["curative", "staging", "palliative", "curative"]


def test_rows_are_joined_by_id_wherever_they_are() -> None:
    own = make_rows(GOLD, ["curative", "curative", "palliative", None])
    reference = [row._replace(row=9 - row.row, gold=None, text="") for row in reversed(own)]
    comparison = join_systems("label", {"ours": own, "theirs": reference})
    assert sorted(comparison.ids) == ["c0", "c1", "c2", "c3"]
    for index, name in enumerate(comparison.ids):
        number = int(name[1:])
        assert comparison.gold[index] == GOLD[number]
        assert comparison.texts[index].endswith(f" {number}")
        one, other = comparison.systems
        assert one.values[index] == other.values[index]
        assert one.right[index] is (one.values[index] == GOLD[number])
        assert (one.rows[index], other.rows[index]) == (number + 1, 8 - number)
    assert comparison.row_coverage.describe() == []


def test_the_order_of_rows_depends_on_ids_alone() -> None:
    own = make_rows(GOLD, GOLD)
    assert (
        join_systems("label", {"x": own, "y": own}).ids
        == join_systems("label", {"y": own[::-1], "x": own}).ids
    )


def test_what_only_some_systems_have_is_counted() -> None:
    own = make_rows(GOLD, GOLD)
    extra = AnsweredRow(9, make_answer("other", "curative"), "text")
    comparison = join_systems("label", {"ours": own, "theirs": [*own[:3], extra]})
    assert len(comparison.ids) == 3
    assert comparison.row_coverage.absent == {"ours": 0, "theirs": 1}
    assert comparison.row_coverage.union == 5
    assert comparison.row_coverage.describe() == [
        "theirs lacks 1 row with gold that another system has: left out of the comparison."
    ]


def test_rows_without_gold_or_with_invalid_gold_are_reported() -> None:
    gold = ["curative", None, "", "cure"]
    comparison = join_systems("label", {"x": make_rows(gold, GOLD), "y": make_rows(gold, GOLD)})
    assert comparison.ids == ("c0",)
    assert (comparison.row_coverage.ungraded, comparison.row_coverage.unknown) == (2, 1)
    assert len(comparison.row_coverage.describe()) == 2


def test_what_the_task_does_not_allow_is_no_answer() -> None:
    rows = make_rows(GOLD, ["curative", "invented", "palliative", "curative"])
    comparison = join_systems("label", {"x": rows, "y": make_rows(GOLD, GOLD)})
    assert comparison.systems[0].invalid_answers == 1
    assert comparison.systems[0].values.count(None) == 1
    assert any("does not allow" in output for output in comparison.row_coverage.describe())


def test_an_abstention_is_compared_with_gold_that_abstains() -> None:
    from medtask.evaluation.comparison.aligned_rows import SystemSource, align_rows

    rows = [
        AnsweredRow(1, Answer("a", Status.ABSTAINED), "text", "unclear"),
        AnsweredRow(2, Answer("b", Status.ABSTAINED), "text", "staging"),
    ]
    comparison = align_rows(
        "label", LABELS, "unclear", [SystemSource(name, lambda: rows) for name in "xy"]
    )
    assert sorted(zip(comparison.ids, comparison.systems[0].right, strict=True)) == [
        ("a", True),
        ("b", False),
    ]
    assert comparison.classes == (*LABELS, "unclear")


def test_letters_become_sets_where_any_are() -> None:
    options = tuple(Option(letter, letter) for letter in "ABC")
    one = [AnsweredRow(1, make_answer("q", "A"), "?", ("A", "B"), options)]
    comparison = join_systems(
        "choice",
        {"x": one, "y": [AnsweredRow(1, make_answer("q", ("A", "B")), "?", None, options)]},
        (),
    )
    assert comparison.gold == (("A", "B"),)
    assert [system.values for system in comparison.systems] == [(("A",),), (("A", "B"),)]
    assert [system.right for system in comparison.systems] == [(False,), (True,)]


def test_groups_come_from_whoever_knows_them() -> None:
    rows = make_rows(GOLD, GOLD)
    comparison = join_systems(
        "label", {"x": rows, "y": make_rows(GOLD, GOLD, groups=["p", "p", None, "q"])}
    )
    assert sorted(comparison.groups, key=str) == [None, "p", "p", "q"]
    assert comparison.to_json()["groups"] == 2


def test_an_id_that_comes_twice_is_an_error() -> None:
    rows = make_rows(GOLD, GOLD)
    with pytest.raises(InputError, match="x has the same id in two rows, 1 and 7") as caught:
        join_systems("label", {"x": [*rows, rows[0]._replace(row=7)], "y": rows})
    assert caught.value.fix


def test_gold_that_differs_is_an_error() -> None:
    rows = make_rows(GOLD, GOLD)
    with pytest.raises(
        InputError,
        match=r"y has different gold from the systems before it, in 1 row \(first: row 2\)",
    ):
        join_systems(
            "label",
            {
                "x": rows,
                "y": [row._replace(gold="curative" if row.row == 2 else None) for row in rows],
            },
        )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([AnsweredRow(1, make_answer("z", "curative"), "", "curative")], "nothing in common"),
        (
            [AnsweredRow(1, make_answer("c3", "curative"))],
            "none of the rows that are in all of x and y has gold",
        ),
    ],
)
def test_nothing_to_compare_is_an_error(other: list[AnsweredRow], message: str) -> None:
    own = make_rows(["curative", "staging", "staging", None], GOLD)
    with pytest.raises(InputError, match=message):
        join_systems("label", {"x": own, "y": other})


def test_the_first_ids_are_shown_if_no_id_is_shared() -> None:
    own = make_rows(["curative", "staging"], GOLD[:2])
    other = [AnsweredRow(1, make_answer("0001", "curative"), "", "curative")]
    with pytest.raises(InputError, match='"0001" in y') as caught:
        join_systems("label", {"x": own, "y": other})
    assert "spreadsheet" in str(caught.value.fix)


def test_no_gold_at_all_is_an_error() -> None:
    rows = make_rows([None] * 4, GOLD)
    with pytest.raises(InputError, match="no row of x and y has gold"):
        join_systems("label", {"x": rows, "y": rows})

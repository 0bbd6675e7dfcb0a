"""Counts of missing values and of names that match after normalisation only."""

from __future__ import annotations

from medtask.tables.missing import mark_missing
from medtask.tasks.cell_counts import CellCounts
from medtask.tasks.task import MultiLabel, MultipleChoice, SingleLabel, Task
from support.task_texts import make_task


def count_cells(task: Task, cells: list[object]) -> CellCounts:
    counts = CellCounts()
    for cell in cells:
        row = mark_missing({"gold": cell})
        counts.add(task, row, row["gold"])
    return counts


def test_values_missing_values_and_normalised_names_are_counted() -> None:
    task = make_task(SingleLabel(), ["low-grade", "1", "NA"])
    counts = count_cells(
        task, ["low-grade", "low\u2010grade", 1.0, "LOW-GRADE", "grade", "NA", "nan", None, " "]
    )
    assert (counts.values, counts.blank, counts.normalized) == (6, 2, 3)
    assert counts.missing_words == {"nan": 1}
    assert counts.examples == {"low\u2010grade": "low-grade", "1.0": "1", "LOW-GRADE": "low-grade"}
    assert counts.describe("gold") == [
        '3 of 6 values of gold match after normalisation only ("low\u2010grade" with U+2010 '
        '(HYPHEN) is "low-grade", "1.0" is "1", "LOW-GRADE" is "low-grade")',
        '"nan" counts as missing in 1 row of gold',
    ]


def test_exact_values_need_no_sentence() -> None:
    assert count_cells(make_task(SingleLabel(), ["a", "b"]), ["a", "b", None]).describe("x") == []


def test_a_cell_of_several_names_counts_once() -> None:
    counts = count_cells(make_task(MultiLabel(), ["fever", "cough"]), ["Fever; Cough", "cough"])
    assert (counts.values, counts.normalized) == (2, 1)


def test_counts_are_json() -> None:
    counts = count_cells(make_task(SingleLabel(), ["a"]), ["A", "-"])
    assert counts.to_json() == {
        "values": 1,
        "blank": 0,
        "empty_sets": 0,
        "missing_words": {"-": 1},
        "normalized": 1,
        "form_notes": [],
        "normalized_examples": [["A", "a"]],
    }


def test_blank_cells_of_several_labels_are_counted_by_their_meaning() -> None:
    cells: list[object] = ["fever", None, " ", "[]", "NA"]
    unlabelled = count_cells(make_task(MultiLabel(), ["fever", "cough"]), cells)
    assert (unlabelled.values, unlabelled.blank, unlabelled.empty_sets) == (2, 2, 1)
    assert unlabelled.describe("gold")[0] == (
        "blank cells of gold count as unlabelled (2; see blank_gold), [] as no label (1)"
    )
    none = count_cells(make_task(MultiLabel(blank_gold="none"), ["fever", "cough"]), cells)
    assert none.describe("gold")[0].startswith("blank cells of gold count as no label (2;")


def test_texts_of_options_that_match_after_normalisation_are_counted_and_not_shown() -> None:
    task = make_task(MultipleChoice(("options",)), [])
    counts = CellCounts()
    row = {"options": ["Low\u2010grade lesion", "Stent", "Biopsy"]}
    cells = ["low-grade lesion", "Stent", "b", "C. biopsy", "A) Stent", "Knee", "1"]
    for cell in cells:
        counts.add(task, row, cell)
    assert (counts.values, counts.normalized, counts.examples) == (7, 2, {})
    assert counts.describe("gold") == ["2 of 7 values of gold match after normalisation only"]
    several = make_task(MultipleChoice(("options",), several=True), [])
    listed = CellCounts()
    for several_cell in (["Stent", "biopsy"], "Stent; Biopsy", "stent; biopsy", "AC"):
        listed.add(several, row, several_cell)
    assert (listed.values, listed.normalized) == (4, 2)

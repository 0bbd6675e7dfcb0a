"""Rows that are not new to the model are counted by reason and do not change any figure."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.evaluation.presentation.formatting import describe_left_out, format_left_out
from medtask.evaluation.report.run_summary import RunSummary, SummaryAccumulator
from medtask.evaluation.report.terminal_summary import format_summary_lines
from medtask.records import Answer, AnsweredRow, LeftOut, Status

LABELS = ("wound", "burn")


def make_row(row: int, answer: str, gold: str | None, left_out: LeftOut | None) -> AnsweredRow:
    probabilities = {name: 0.8 if name == answer else 0.2 for name in LABELS}
    given_answer = Answer(str(row), Status.OK, answer, 0.8, probabilities)
    return AnsweredRow(row, given_answer, f"text {row}", gold, left_out=left_out)


def summarize(rows: Iterable[AnsweredRow]) -> RunSummary:
    accumulator = SummaryAccumulator("label", LABELS, None, has_gold=True)
    for row in rows:
        accumulator.add(row)
    return accumulator.finish()


labels = st.sampled_from(LABELS)
reasons = st.none() | st.sampled_from(LeftOut)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(labels, labels, reasons), max_size=12))
def test_metrics_are_those_of_the_other_rows_alone(
    table: list[tuple[str, str, LeftOut | None]],
) -> None:
    rows = [make_row(number, *values) for number, values in enumerate(table, 1)]
    summary = summarize(rows)
    alone = summarize(row for row in rows if row.answer_counts)
    assert summary.metrics == alone.metrics
    assert summary.gold is not None
    assert summary.gold.left_out == {
        reason: count
        for reason in LeftOut
        if (count := sum(row.left_out is reason for row in rows))
    }
    assert len(summary.gold.scored_rows.rows) == sum(row.left_out is None for row in rows)
    assert summary.rows == len(rows)


def test_gold_that_is_missing_or_not_valid_is_not_counted_as_left_out() -> None:
    rows = [
        make_row(1, "wound", None, LeftOut.TRAINING),
        make_row(2, "wound", "bruise", LeftOut.TRAINING),
        make_row(3, "wound", "wound", LeftOut.TRAINING),
    ]
    gold = summarize(rows).gold
    assert gold is not None
    assert (gold.missing, gold.unknown, gold.left_out) == (1, 1, {LeftOut.TRAINING: 1})


def test_the_terminal_says_what_is_left_out_and_what_to_do() -> None:
    rows = [make_row(row, "wound", "wound", LeftOut.TRAINING) for row in (1, 2)]
    *_, left_out, refused = format_summary_lines(summarize(rows))
    assert left_out == "left out of the metrics: 2 rows trained the model"
    assert refused.startswith("no metrics: no row with gold is new to the model")
    assert "medtask train TASK DATA --folds 5" in refused


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({LeftOut.EXAMPLE: 1}, "1 row is an example in the prompt"),
        (
            {LeftOut.EXAMPLE: 4, LeftOut.EXAMPLE_GROUP: 1},
            "4 rows are examples in the prompt, 1 row is of the same group as an example",
        ),
        ({LeftOut.VALIDATION: 1_200}, "1,200 rows were used to choose or calibrate the model"),
    ],
)
def test_reasons_are_sentences_with_counts(counts: dict[LeftOut, int], text: str) -> None:
    assert format_left_out(counts) == text


def test_a_calibration_that_changes_no_answer_concerns_figures_on_confidence_only() -> None:
    (sentence,) = describe_left_out({LeftOut.CONFIDENCE: 9}, 9)
    assert sentence.startswith("left out of the figures on confidence: 9 rows")
    assert describe_left_out({}, 9) == []

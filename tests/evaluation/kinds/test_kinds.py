"""Each kind of question on small tables: what its answers look like, and what gold says of them."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from medtask import similarity
from medtask.evaluation.kinds.answer import OVERLAP_CAVEAT, SIMILARITY_CAVEAT
from medtask.evaluation.kinds.metrics import METRICS
from medtask.evaluation.kinds.protocols import KindEvaluation
from medtask.evaluation.presentation.blocks import ReportTable
from medtask.evaluation.report.quality_sections import build_quality_blocks
from medtask.evaluation.report.run_summary import RunSummary, SummaryAccumulator
from medtask.evaluation.report.terminal_summary import format_summary_lines
from medtask.records import Answer, AnsweredRow, Option, Quote, Status, Value
from support.runs_by_kind import RUNS_BY_KIND

FOUR = tuple(Option(letter, f"option {letter}") for letter in "ABCD")


@pytest.fixture(autouse=True)
def no_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "find_minilm", lambda: None)
    similarity._load_minilm.cache_clear()


def summarise_rows(
    kind: str,
    *rows: tuple[Value | None, Value | None],
    labels: tuple[str, ...] = (),
    options: tuple[Option, ...] = (),
) -> RunSummary:
    gatherer = SummaryAccumulator(kind, labels, None, True)  # type: ignore[arg-type]
    for number, (value, gold) in enumerate(rows, start=1):
        status = Status.OK if value is not None else Status.FAILED
        confidence = None if kind == "answer" or value is None else 0.9
        gatherer.add(
            AnsweredRow(
                number,
                Answer(str(number), status, value, confidence),
                f"text {number}",
                gold,
                options,
            )
        )
    return gatherer.finish()


def get_quality(summary: RunSummary) -> KindEvaluation:
    assert summary.gold is not None
    assert summary.gold.evaluation is not None
    return summary.gold.evaluation


def get_figures(summary: RunSummary) -> dict[str, float | None]:
    return {
        measure: figure.value if figure else None
        for measure, figure in get_quality(summary).metrics.items()
    }


def test_labels_are_counted_by_label_and_by_number() -> None:
    summary = summarise_rows(
        "labels",
        (("a", "b"), None),
        (("a",), None),
        ((), None),
        (None, None),
        labels=("a", "b", "c"),
    )
    assert summary.answered == 3
    assert summary.answer_statistics.to_json() == {
        "labels": {"a": 2, "b": 1},
        "rows_by_number_of_labels": {"0": 1, "1": 1, "2": 1},
        "mean_number_of_labels": 1.0,
    }
    assert format_summary_lines(summary)[1] == "1.00 labels per row on average; 1 row has none"


def test_gold_with_a_name_that_is_no_label_is_counted_and_not_graded() -> None:
    summary = summarise_rows(
        "labels", (("a",), ("a", "z")), (("a",), ("a",)), ((), ()), ((), None), labels=("a", "b")
    )
    gold = summary.gold
    assert gold is not None
    assert (gold.rows, gold.unknown, gold.missing, dict(gold.unknown_values)) == (
        2,
        1,
        1,
        {"a; z": 1},
    )
    assert get_figures(summary)["exact_match"] == 1  # gold that no label applies is a truth


def test_the_order_of_gold_labels_does_not_matter() -> None:
    summary = summarise_rows("labels", (("a", "b"), ("b", "a", "b")), labels=("a", "b"))
    assert get_figures(summary) == {
        **dict.fromkeys(
            ("micro_f1", "macro_f1", "sample_f1", "exact_match", "exact_match_answered", "jaccard"),
            1.0,
        ),
        "hamming_loss": 0.0,
    }
    assert summary.gold is not None
    assert summary.gold.sample.gold == (("a", "b"),)


def test_choices_have_accuracy_and_letters() -> None:
    rows: list[tuple[Value | None, Value | None]] = [
        ("A", "A"),
        ("A", "B"),
        ("C", "C"),
        (None, "D"),
        ("A", "E"),
        ("A", "none of these"),
    ]
    summary = summarise_rows("choice", *rows, options=FOUR)
    found = get_figures(summary)
    assert (found["accuracy"], found["accuracy_answered"], found["balanced_accuracy"]) == (
        0.5,
        pytest.approx(2 / 3),
        0.5,
    )
    assert not {"top_3", "top_5"} & found.keys()  # no row has probabilities
    assert summary.gold is not None
    assert summary.gold.unknown == 2
    assert summary.gold.evaluation is not None
    assert summary.gold.evaluation.to_json()["letters"] == {
        "A": {"gold": 1, "answered": 2},
        "B": {"gold": 1, "answered": 0},
        "C": {"gold": 1, "answered": 1},
        "D": {"gold": 1, "answered": 0},
    }
    assert summary.answer_statistics.to_json() == {
        "letters": {"A": 4, "C": 1},
        "offered": dict.fromkeys("ABCD", 5),
        "answered": 5,
    }


def test_a_model_that_answers_by_position_is_reported() -> None:
    leaning = summarise_rows("choice", *[("A", "ABCD"[row % 4]) for row in range(80)], options=FOUR)
    assert (
        "The model prefers the letter A: 100.0 % of its answers, where gold has it in 25.0 % of "
        "the rows." in format_summary_lines(leaning)[-1]
    )
    fair = summarise_rows(
        "choice", *[("ABCD"[row % 4], "ABCD"[row % 4]) for row in range(80)], options=FOUR
    )
    assert "prefers" not in format_summary_lines(fair)[-1]


def test_rows_in_which_no_option_is_right_have_no_letter_to_prefer() -> None:
    summary = summarise_rows("choice", ((), ()), ((), ()), options=FOUR)
    assert get_figures(summary)["exact_match"] == 1
    assert "prefers" not in format_summary_lines(summary)[-1]


def test_of_several_options_the_whole_set_counts() -> None:
    summary = summarise_rows(
        "choice", (("A", "C"), ("C", "A")), (("A",), ("A", "B")), (None, ("D",)), options=FOUR
    )
    found = get_figures(summary)
    assert list(found)[:3] == ["exact_match", "jaccard", "micro_f1"]
    assert {measure: found[measure] for measure in list(found)[:3]} == {
        "exact_match": pytest.approx(1 / 3),
        "jaccard": pytest.approx(0.5),
        "micro_f1": pytest.approx(2 * 3 / (5 + 3)),
    }
    assert found["hamming_loss"] == pytest.approx((0 + 1 / 4 + 1) / 3)


def test_no_option_is_gold_where_several_may_apply() -> None:
    summary = summarise_rows("choice", ((), ()), (("A",), ()), (("B",), ("B",)), options=FOUR)
    assert get_figures(summary)["exact_match"] == pytest.approx(2 / 3)


def test_gold_of_a_row_whose_options_cannot_be_read_still_counts() -> None:
    assert get_figures(summarise_rows("choice", (None, "B")))["accuracy"] == 0


def measure_top_k(
    *rows: tuple[str | None, dict[str, float] | None, str], labels: str = "abcdefg"
) -> dict[str, float | None]:
    gatherer = SummaryAccumulator("label", tuple(labels), None, True)
    for number, (value, shares, gold) in enumerate(rows, start=1):
        gatherer.add(
            AnsweredRow(
                number,
                Answer(str(number), Status.OK if value else Status.FAILED, value, None, shares),
                "text",
                gold,
            )
        )
    return get_figures(gatherer.finish())


def test_the_top_k_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(7), 60)
    gold = random.integers(0, 7, 60)
    shares = [dict(zip("abcdefg", row, strict=True)) for row in scores.tolist()]
    found = measure_top_k(
        *(
            (max(row, key=row.__getitem__), row, "abcdefg"[truth])
            for row, truth in zip(shares, gold, strict=True)
        )
    )
    for k in (3, 5):
        assert found[f"top_{k}"] == pytest.approx(
            top_k_accuracy_score(gold, scores, k=k, labels=range(7))
        )


def test_the_top_k_of_rows_without_probabilities_of_ties_and_of_odd_numbers() -> None:
    same = dict.fromkeys("abcdefg", 1 / 7)
    # between equals the earlier label is ahead: c is third, d is fourth, f is sixth
    found = measure_top_k(
        ("a", same, "c"),
        ("a", same, "d"),
        ("a", same, "f"),
        ("a", None, "a"),
        ("a", {"a": float("nan")}, "a"),
    )
    assert (found["top_3"], found["top_5"]) == (pytest.approx(1 / 5), pytest.approx(2 / 5))
    assert found["accuracy"] == pytest.approx(2 / 5)


def test_top_k_is_reported_only_for_more_labels_than_k() -> None:
    row = ("a", {"a": 0.9, "b": 0.1}, "b")
    assert not {"top_3", "top_5"} & measure_top_k(row, labels="abc").keys()
    assert {"top_3"} == {"top_3", "top_5"} & measure_top_k(row, labels="abcd").keys()
    assert not {"top_3", "top_5"} & measure_top_k(("a", None, "b")).keys()
    gatherer = SummaryAccumulator("choice", (), None, True)
    for number, letters in enumerate(("ABCDE", "ABC"), start=1):
        shares = dict.fromkeys(letters, 1 / len(letters))
        gatherer.add(
            AnsweredRow(
                number,
                Answer(str(number), Status.OK, "A", 0.3, shares),
                "text",
                "C",
                [Option(letter, letter) for letter in letters],
            )
        )
    # Of three options, gold is always among the top three.
    assert not {"top_3", "top_5"} & get_figures(gatherer.finish()).keys()


@pytest.mark.parametrize("kind", RUNS_BY_KIND)
def test_all_metrics_are_in_the_report_with_their_rows(kind: str) -> None:
    quality = get_quality(RUNS_BY_KIND[kind]().finish())
    tables = [block for block in quality.build_blocks() if isinstance(block, ReportTable)]
    every = next(table for table in tables if table.about == "All metrics")
    assert len(every.lines) == len(quality.metrics)
    assert set(quality.headline_metrics) <= set(quality.metrics)
    assert next(iter(quality.metrics)) == quality.headline_metrics[0]
    assert set(quality.metrics) <= set(METRICS)


GROUPED: dict[str, tuple[Value, Value]] = {
    "label": ("a", "b"),
    "labels": (("a",), ("a", "b")),
    "choice": ("A", "B"),
    "answer": ("raised pressure", "raised hope"),
    "fields": ({"x": 1, "y": "i"}, {"x": 1, "y": "ii"}),
}


def summarise_grouped(kind: str, patients: int, size: int, groups: bool) -> RunSummary:
    chance = random.Random(0)
    gatherer = SummaryAccumulator(kind, ("a", "b", "c"), None, True)  # type: ignore[arg-type]
    row = 0
    for patient in range(patients):
        gold, other = GROUPED[kind] if chance.random() < 0.5 else GROUPED[kind][::-1]
        value = gold if chance.random() < 0.7 else other
        for _ in range(size):
            row += 1
            gatherer.add(
                AnsweredRow(
                    row,
                    Answer(str(row), Status.OK, value, 0.9),
                    f"text {row}",
                    gold,
                    FOUR,
                    str(patient) if groups else None,
                )
            )
    return gatherer.finish()


@pytest.mark.parametrize("kind", GROUPED)
def test_rows_of_one_patient_are_not_independent(kind: str) -> None:
    alone, full = (get_quality(summarise_grouped(kind, 40, 6, groups)) for groups in (False, True))
    assert list(alone.metrics) == list(full.metrics)
    for measure, wide in full.metrics.items():
        narrow = alone.metrics[measure]
        assert (wide is None) == (narrow is None)
        if wide and narrow and narrow.low is not None:
            assert (wide.value, wide.n) == (pytest.approx(narrow.value), narrow.n)
            assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)  # type: ignore[operator]
    assert "of the 40 groups" in full.describe_methods()
    assert "groups" not in alone.describe_methods()
    assert (alone.groups, full.groups) == (None, 40)


@pytest.mark.parametrize("kind", GROUPED)
@pytest.mark.parametrize(("groups", "rows", "shown"), [(4, 30, "4 groups"), (1, 3, "1 group")])
def test_few_groups_are_reported_to_be_few(kind: str, groups: int, rows: int, shown: str) -> None:
    summary = summarise_grouped(kind, groups, rows, True)
    warning = f"The rows come from {shown} only: the intervals are rough and probably too narrow."
    assert warning in format_summary_lines(summary)
    assert warning in str(build_quality_blocks(summary.gold, ()))
    json.dumps(get_quality(summary).to_json())


def test_similarity_is_never_shown_without_exact_match_and_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "medtask.similarity.encode_texts",
        lambda texts: np.ones((len(texts), 2)) / 2**0.5,
    )
    summary = summarise_rows("answer", ("no fracture", "a fracture"), ("fracture", "a fracture"))
    found = get_figures(summary)
    assert (found["similarity"], found["exact_match"]) == (pytest.approx(1), 0.5)
    assert {"exact_match", "similarity"} <= set(get_quality(summary).headline_metrics)
    lines = format_summary_lines(summary)
    assert SIMILARITY_CAVEAT in lines
    assert [
        line for line in lines if "exact match 0.500" in line and "MiniLM similarity 1.000" in line
    ]


@pytest.mark.parametrize("kind", GROUPED)
def test_one_row_that_nobody_answered_is_no_error(kind: str) -> None:
    quality = get_quality(
        summarise_rows(kind, (None, GROUPED[kind][0]), labels=("a", "b"), options=FOUR)
    )
    headline = quality.metrics[quality.headline_metrics[0]]
    assert headline is not None
    assert (headline.value, headline.n) == (0, 1)
    assert [quality.metrics.get(measure) for measure in ("kappa", "mcc", "accuracy_answered")] == [
        None
    ] * 3
    json.dumps(quality.to_json(), allow_nan=False)
    assert quality.build_blocks()
    assert all(quality.describe())


def test_answers_are_measured_by_words_and_similarity() -> None:
    summary = summarise_rows(
        "answer", ("a raised pressure", "pressure"), ("pressure", "pressure"), (None, "pressure")
    )
    assert get_figures(summary) == {
        "token_f1": pytest.approx((2 / 3 + 1 + 0) / 3),
        "rouge_l": pytest.approx((1 / 2 + 1 + 0) / 3),
        "exact_match": pytest.approx(1 / 3),
        "similarity": None,
        "token_f1_answered": pytest.approx((2 / 3 + 1) / 2),
        "exact_match_answered": 0.5,
    }
    lines = format_summary_lines(summary)
    assert lines[1] == "median 1 word, nine in ten have 1-3; 0 rows stopped by a limit"
    assert OVERLAP_CAVEAT in lines
    assert summary.gold is not None
    assert [case.row for case in summary.gold.errors] == [1]


def test_a_truncated_answer_is_an_answer_where_it_has_one() -> None:
    gatherer = SummaryAccumulator("answer", (), None, False)
    for row, value in enumerate(["One whole sentence.", None], start=1):
        gatherer.add(
            AnsweredRow(
                row, Answer(str(row), Status.TRUNCATED, value, reason="max_tokens"), "text", None
            )
        )
    shape = gatherer.finish().answer_statistics.to_json()
    assert (shape["ended"], shape["truncated"], shape["cut"]) == (0, 2, 1)


def test_fields_are_filled_quoted_and_right() -> None:
    gatherer = SummaryAccumulator("fields", (), None, True)
    shares = {"stage=I": 0.2, "stage=II": 0.8}
    quotes = {"stage": Quote("stage II", 10, 18)}
    gatherer.add(
        AnsweredRow(
            1,
            Answer("1", Status.OK, {"stage": "II", "size": {"mm": 12}}, 0.8, shares, quotes=quotes),
            "text",
            {"stage": "II"},
        )
    )
    gatherer.add(
        AnsweredRow(
            2,
            Answer("2", Status.OK, {"stage": "I", "size": None}, 0.2, shares),
            "text",
            {"stage": "II", "size": {"mm": 1}},
        )
    )
    gatherer.add(AnsweredRow(3, Answer("3", Status.TRUNCATED), "text", "stage II"))
    summary = gatherer.finish()
    assert summary.answer_statistics.to_json() == {
        "answered": 2,
        "fields": [
            {"field": "size.mm", "filled": 1, "quoted": 0, "values": {}},
            {"field": "stage", "filled": 2, "quoted": 1, "values": {"I": 1, "II": 1}},
        ],
    }
    assert get_figures(summary) == {
        "fields_right": pytest.approx(1 / 3),
        "rows_right": 0.5,
        "rows_right_answered": 0.5,
    }
    assert summary.gold is not None
    assert (summary.gold.rows, summary.gold.unknown) == (2, 1)
    assert [case.row for case in summary.gold.errors] == [2]


@pytest.mark.parametrize("kind", RUNS_BY_KIND)
def test_the_json_has_no_text_of_records(kind: str) -> None:
    summary = RUNS_BY_KIND[kind]().finish()
    written = json.dumps(summary.to_json())
    assert not [
        word
        for word in ("script", "abstract", "behind", "Tumour", "headache", "thinking")
        if word in written
    ]
    assert summary.gold is not None
    assert summary.gold.rows > 50


@pytest.mark.parametrize("kind", RUNS_BY_KIND)
def test_a_run_without_gold_is_reported_without_it(kind: str) -> None:
    summary = RUNS_BY_KIND[kind](has_gold=False).finish()
    assert summary.gold is None
    assert not [line for line in format_summary_lines(summary) if "gold" in line]


@pytest.mark.parametrize("kind", ["labels", "choice", "answer", "fields"])
def test_no_rows_are_no_error(kind: str) -> None:
    summary = summarise_rows(kind)
    assert format_summary_lines(summary)[-1] == "no row has usable gold, so there are no metrics"
    json.dumps(summary.to_json())


VALUES = {
    "labels": st.sets(st.sampled_from("abc")).map(lambda names: tuple(sorted(names))),
    "choice": st.sampled_from("ABCD"),
    "answer": st.sampled_from(["the pressure", "pressure in the eye", "a nerve"]),
    "fields": st.fixed_dictionaries(
        {"x": st.none() | st.integers(0, 2), "y": st.sampled_from(["i", "ii", None])}
    ),
}


@pytest.mark.parametrize("kind", VALUES)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_the_order_of_the_rows_changes_nothing(kind: str, data: st.DataObject) -> None:
    values = st.none() | VALUES[kind]
    pairs = data.draw(st.lists(st.tuples(values, values), min_size=1, max_size=12))
    rows = [(number, *pair) for number, pair in enumerate(pairs, start=1)]
    found = []
    for seed in (0, 1):
        random.Random(seed).shuffle(rows)
        gatherer = SummaryAccumulator(kind, tuple("abc"), None, True)  # type: ignore[arg-type]
        for number, value, gold in rows:
            status = Status.REVIEW if value is not None else Status.FAILED
            gatherer.add(
                AnsweredRow(
                    number,
                    Answer(str(number), status, value, 0.5 if value else None),
                    f"text {number}",
                    gold,
                    FOUR,
                )
            )
        found.append(gatherer.finish().to_json())
    assert found[0] == found[1]

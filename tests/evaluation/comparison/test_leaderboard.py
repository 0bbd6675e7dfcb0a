"""One leaderboard over all kinds of systems: nothing that was not measured is on it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, f1_score

from medtask.evaluation.comparison.leaderboard import rank_systems
from medtask.evaluation.comparison.leaderboard_text import describe_leaderboard, format_leaderboard
from medtask.evaluation.report.comparison_report import render_comparison
from support.comparison_rows import LABELS, join_systems, make_comparison, make_manifest, make_rows

DEFINITIONS = [(name, f"of the {name} kind") for name in LABELS]


def test_lines_are_ranked_and_their_figures_sklearns() -> None:
    comparison = make_comparison()
    board = rank_systems(comparison, baselines=None)
    assert [line.name for line in board.entries] == ["good", "fair", "poor"]
    for line in board.entries:
        system = next(one for one in comparison.systems if one.name == line.name)
        output = [value or "none" for value in system.values]
        accuracy, macro_f1 = line.figures["accuracy"], line.figures["macro_f1"]
        assert accuracy is not None
        assert macro_f1 is not None
        assert accuracy.value == pytest.approx(accuracy_score(comparison.gold, output))
        assert macro_f1.value == pytest.approx(
            f1_score(comparison.gold, output, labels=LABELS, average="macro", zero_division=0)
        )
        assert line.unanswered == output.count("none")
        assert set(line.parts) == set(LABELS)
    assert [line.p for line in board.entries] == [
        None,
        board.pairs[0].p_holm,
        board.pairs[1].p_holm,
    ]
    assert len(board.pairs) == 3
    assert board.entries[2].p is not None
    assert board.entries[2].p < 0.001


def test_the_order_in_which_systems_are_named_changes_nothing() -> None:
    comparison = make_comparison()
    systems = {
        system.name: make_rows(comparison.gold, system.values) for system in comparison.systems
    }
    boards = [
        rank_systems(join_systems("label", dict(each)), baselines=None)
        for each in (systems.items(), reversed(systems.items()))
    ]
    assert boards[0].to_json() == boards[1].to_json()


def test_what_was_not_measured_is_not_there() -> None:
    board = rank_systems(make_comparison(), baselines=None, price_per_hour=4)
    for line in board.entries:
        assert (line.rows_per_s, line.memory_bytes, line.accelerator_bytes, line.cost_per_1000) == (
            None,
            None,
            None,
            None,
        )
    lines = format_leaderboard(board)
    assert "rows/s" not in lines[0]
    assert "memory" not in lines[0]


def test_speed_memory_and_cost_come_from_the_manifest() -> None:
    output = make_manifest("hf", seconds=10.0)
    output["timing"] |= {
        "peak_memory_bytes": 2_500_000_000,
        "peak_accelerator_bytes": 7_000_000_000,
    }
    comparison = make_comparison(
        manifests={"good": output, "fair": make_manifest("linear", seconds=0.0)}
    )
    board = rank_systems(comparison, baselines=None, price_per_hour=3.6)
    good, fair = board.entries[:2]
    assert good.rows_per_s == 20
    assert good.memory_bytes == 2_500_000_000
    assert good.cost_per_1000 == pytest.approx(1000 / 20 / 3600 * 3.6)
    assert (fair.rows_per_s, fair.cost_per_1000) == (None, None)
    head, first, *_ = format_leaderboard(board)
    assert "per 1,000 rows" in head
    assert "2.5 GB + 7.0 GB GPU" in first
    assert (
        rank_systems(make_comparison(manifests={"good": output}), baselines=None)
        .entries[0]
        .cost_per_1000
        is None
    )


def test_simple_methods_are_beside_the_systems_on_the_same_rows() -> None:
    comparison = make_comparison(90)
    board = rank_systems(comparison, DEFINITIONS)
    baselines = {line.name: line for line in board.entries if line.baseline}
    assert {"TF-IDF", "MiniLM", "majority"} == set(baselines)
    most = max(comparison.gold.count(name) for name in LABELS) / 90
    majority = baselines["majority"].figures["accuracy"]
    assert majority is not None
    assert majority.value == pytest.approx(most)
    assert len(board.pairs) == 3
    assert len(board.baseline_pairs) == 9
    assert baselines["majority"].p is not None or board.best.baseline
    values = [figure.value for line in board.entries if (figure := board.headline(line))]
    assert values == sorted(values, reverse=True)


def test_a_simple_method_with_the_answers_of_a_system_has_no_second_figures() -> None:
    gold = LABELS * 10
    systems = {"right": make_rows(gold, gold), "wrong": make_rows(gold, gold[1:] + gold[:1])}
    rules = {one: [one] for one in LABELS}
    board = rank_systems(join_systems("label", systems), DEFINITIONS, keywords=rules)
    (found,) = (line for line in board.entries if line.name == "keyword search")
    assert found.note == "its answers are those of right"
    assert board.headline(found) is None


def test_without_texts_the_simple_methods_say_why_they_are_missing() -> None:
    gold = ["curative", "staging"] * 10
    rows = make_rows(gold, gold, texts=[""] * 20)
    board = rank_systems(join_systems("label", {"x": rows, "y": rows}), DEFINITIONS)
    assert board.entries[-1].note == "the rows have no texts"
    assert "not measured" in format_leaderboard(board)[3]


def test_groups_make_wider_intervals() -> None:
    alone, grouped = (
        rank_systems(make_comparison(groups=each), baselines=None) for each in (False, True)
    )
    assert [pair.groups for pair in alone.pairs] == [None] * 3
    assert [pair.groups for pair in grouped.pairs] == [50] * 3
    assert [line.name for line in alone.entries] == [line.name for line in grouped.entries]


@pytest.mark.parametrize("kind", ["labels", "choice", "answer", "fields"])
def test_every_kind_has_its_leaderboard(kind: Any) -> None:
    gold: dict[str, list[Any]] = {
        "labels": [("curative", "staging"), (), ("palliative",)] * 8,
        "choice": ["A", "B", "C"] * 8,
        "answer": ["rest and fluids", "see the clinic today", "call 112"] * 8,
        "fields": [{"side": "left"}, {"side": "right"}, {"side": None}] * 8,
    }
    wrong: dict[str, Any] = {
        "labels": ("curative",),
        "choice": "A",
        "answer": "rest",
        "fields": {"side": "left"},
    }
    truth = gold[kind]
    systems = {
        "right": make_rows(truth, truth),
        "half": make_rows(truth, [wrong[kind]] * 12 + truth[12:]),
    }
    systems["silent"] = make_rows(truth, [None] * 24)
    board = rank_systems(join_systems(kind, systems), baselines=None)
    assert [line.name for line in board.entries] == ["right", "half", "silent"]
    first = board.headline(board.best)
    assert first is not None
    assert first.value == 1
    assert board.pairs[1].verdict == "better"
    assert json.loads(json.dumps(board.to_json()))["measure"] == board.metric
    lines = format_leaderboard(board)
    assert len(lines) == 4 + 1 + 3 + 1
    assert "corrected for the number of pairs (Holm)" in lines[-1]


def test_one_row_and_one_class_are_no_trouble() -> None:
    for gold in (["curative"], ["curative"] * 5):
        board = rank_systems(
            join_systems(
                "label", {"x": make_rows(gold, gold), "y": make_rows(gold, [None] * len(gold))}
            ),
            DEFINITIONS,
        )
        assert board.pairs[0].verdict == "no clear difference"
        assert "the highest accuracy" in describe_leaderboard(board, len(gold))


def test_no_record_text_is_in_the_numbers() -> None:
    assert "a text about" not in json.dumps(
        rank_systems(make_comparison(40), DEFINITIONS).to_json()
    )


def test_systems_with_equal_figures_are_both_named() -> None:
    gold = ["curative", "staging"] * 10
    given = ["curative"] * 20
    systems = {"x": make_rows(gold, given), "y": make_rows(gold, given)}
    board = rank_systems(join_systems("label", systems), baselines=None)
    assert describe_leaderboard(board, 20).startswith("x and y have the highest accuracy, 0.500")
    assert "not clearly worse" not in describe_leaderboard(board, 20)


def test_few_groups_make_rough_intervals() -> None:
    board = rank_systems(make_comparison(groups=True), baselines=None)
    few = replace(board, pairs=tuple(replace(pair, groups=4) for pair in board.pairs))
    warning = "The rows come from 4 groups only"
    assert any(line.startswith(warning) for line in format_leaderboard(few))
    assert warning in render_comparison(make_comparison(groups=True), few)
    assert not any("groups only" in line for line in format_leaderboard(board))

"""Rows on which one of two systems is nearer to gold."""

from __future__ import annotations

from medtask.evaluation.comparison.disagreements import (
    MAX_ROWS_PER_DIRECTION,
    find_disagreements,
)
from support.comparison_rows import join_systems, make_rows

GOLD = ["curative", "staging", "palliative", "curative", "staging"]


def test_both_directions_are_found_and_the_surest_mistake_comes_first() -> None:
    one = make_rows(GOLD, ["curative", "staging", "curative", "staging", None])
    other = make_rows(GOLD, ["staging", "curative", "palliative", "staging", "staging"])
    other[1] = other[1]._replace(
        answer=other[1].answer.__class__("c1", other[1].answer.status, "curative", 0.99)
    )
    ahead, behind = find_disagreements(
        join_systems("label", {"one": one, "other": other}), "one", "other"
    )
    assert (ahead.ahead, ahead.behind, ahead.count) == ("one", "other", 2)
    assert [dispute.record_id for dispute in ahead.shown] == ["c1", "c0"]
    answers = ahead.shown[0].answers
    assert [(each.name, each.value, each.right) for each in answers] == [
        ("one", "staging", True),
        ("other", "curative", False),
    ]
    assert {dispute.record_id for dispute in behind.shown} == {"c2", "c4"}
    silent = next(dispute for dispute in behind.shown if dispute.record_id == "c4")
    assert silent.answers[1].value == "no answer (failed)"
    assert "a text about" in "".join(piece.text for piece in silent.pieces)
    assert "text" not in str(ahead.to_json())


def test_texts_are_disputed_by_degrees() -> None:
    gold = ["red eye and pain", "dry cough"]
    comparison = join_systems(
        "answer",
        {
            "near": make_rows(gold, ["red eye pain", "cough"]),
            "far": make_rows(gold, ["red", "cough"]),
        },
        (),
    )
    ahead, behind = find_disagreements(comparison, "near", "far")
    assert (ahead.count, behind.count, behind.shown) == (1, 0, ())
    assert ahead.shown[0].answers[0].right is None


def test_only_the_clearest_are_shown() -> None:
    gold = ["curative"] * 40
    comparison = join_systems(
        "label", {"x": make_rows(gold, gold), "y": make_rows(gold, ["staging"] * 40)}
    )
    ahead, _ = find_disagreements(comparison, "x", "y")
    assert (ahead.count, len(ahead.shown)) == (40, MAX_ROWS_PER_DIRECTION)

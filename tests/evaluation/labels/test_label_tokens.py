"""Labels that a model's tokens make hard to tell apart."""

from __future__ import annotations

from medtask.evaluation.labels.label_tokens import find_token_problems

END = 0


def test_labels_that_begin_alike_are_a_group() -> None:
    tokens = {"op eye": (7, 8, 1, END), "op ear": (7, 8, 2, END), "birth": (3, END)}
    (found,) = find_token_problems(tokens)
    assert found.labels == ("op eye", "op ear")
    assert found.figures == {"shared_tokens": 2, "labels": 2}


def test_a_start_that_all_have_decides_nothing() -> None:
    (found,) = find_token_problems({"a": (9, 1, END), "b": (9, 2, END)})
    assert (found.weight, found.figures["shared_tokens"]) == ("note", 1)


def test_a_label_inside_another_is_distinguished_by_the_end_of_the_turn_alone() -> None:
    found = find_token_problems(
        {"CTA Brain/Neck": (5, 6, 7, 8, END), "CTA Brain": (5, 6, END), "x": (1, END)}
    )
    inside = [finding for finding in found if "only the end of the turn" in finding.seen]
    assert [finding.labels for finding in inside] == [("CTA Brain", "CTA Brain/Neck")]


def test_a_label_of_many_tokens_is_dear() -> None:
    tokens = {"a": (1, END), "b": (2, END), "long": (3, 4, 5, 6, 7, 8, END)}
    (found,) = find_token_problems(tokens)
    assert (found.labels, found.figures) == (("long",), {"tokens": 7, "median": 2})


def test_capitals_that_fall_to_pieces_are_odd() -> None:
    tokens = {"FAM/SOCHX": (1, 2, 3, 4, 5, END), "exam": (9, END)}
    found = find_token_problems(tokens, {"FAM/SOCHX": 3})
    assert [finding.figures for finding in found if "lower case" in finding.seen] == [
        {"tokens": 6, "lower_case": 3}
    ]


def test_labels_of_one_token_each_are_no_trap() -> None:
    assert find_token_problems({"a": (1, END), "b": (2, END)}, {"a": 2}) == []


def test_no_tokens_no_traps() -> None:
    assert find_token_problems({}) == []
    assert find_token_problems({"alone": (1, END)}) == []

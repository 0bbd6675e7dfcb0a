"""Probabilities from one answer and the likeliest tokens along it, against sums worked out by
hand.
"""

from __future__ import annotations

import math

import pytest

from medtask.engines.http.client import Malformed
from medtask.engines.http.closed import find_choice, name_choices, read_closed
from medtask.engines.http.server import Reply, Step
from medtask.records import Branch, BranchScores

SET = Branch("", ("CT Brain", "CT Brain/Neck", "MRI"))


def steps(*told: tuple[str, dict[str, float]]) -> tuple[Step, ...]:
    """Written tokens, each with the probabilities of the likeliest at its place, itself among
    them.
    """
    return tuple(
        Step(
            token.encode(),
            math.log(top[token]),
            tuple((name.encode(), math.log(share)) for name, share in top.items()),
        )
        for token, top in told
    )


def read(
    text: str,
    along: tuple[Step, ...] | None,
    branch: Branch = SET,
    *,
    json_object: bool = False,
    raw: bool = True,
) -> BranchScores:
    scores = read_closed(
        Reply(text, "stop", "m", along), branch, branch.tails, json_object=json_object, raw=raw
    )
    assert scores is not None
    return scores


def shares(scores: BranchScores) -> list[float]:
    return [math.exp(logprob) for logprob in scores.logprobs]


def test_shares_are_renormalised_over_what_the_set_allows() -> None:
    along = steps(
        ("CT", {"CT": 0.3, "MRI": 0.1, "The": 0.6}),
        (" Brain", {" Brain": 0.9, " Head": 0.1}),
        ("<|end|>", {"<|end|>": 0.8, "/": 0.2}),
    )
    scores = read("CT Brain", along)
    assert shares(scores) == pytest.approx([0.75 * 0.8, 0.75 * 0.2, 0.25])
    assert scores.off_set == pytest.approx(0.6)
    assert scores.slack == pytest.approx(0.0, abs=1e-9)


def test_the_end_of_a_turn_may_be_told_as_an_empty_token() -> None:
    along = steps(
        ("CT Brain", {"CT Brain": 1.0}), ("/", {"/": 0.6, "": 0.4}), ("Neck", {"Neck": 1.0})
    )
    assert shares(read("CT Brain/Neck", along)) == pytest.approx([0.4, 0.6, 0.0])


def test_an_end_that_is_not_told_leaves_slack_and_the_written_one_ahead() -> None:
    scores = read("CT Brain", steps(("CT", {"CT": 0.8, "MRI": 0.2}), (" Brain", {" Brain": 1.0})))
    assert shares(scores) == pytest.approx([0.8 * 0.75, 0.8 * 0.25, 0.2])
    assert scores.slack == pytest.approx(0.8 * 0.25)


def test_what_the_answer_did_not_follow_is_split_equally_and_told_as_slack() -> None:
    scores = read("MRI", steps(("MRI", {"MRI": 0.7, "CT": 0.3})))
    assert shares(scores) == pytest.approx([0.15, 0.15, 0.7])
    assert scores.slack == pytest.approx(0.15)


def test_what_was_left_untold_is_slack() -> None:
    told = steps(("MRI", {"MRI": 0.6, "The": 0.2}))
    scores = read("MRI", told)
    # 0.2 was not told, and no token of it is likelier than 0.2: all of it could be a way to write
    # one of the others.
    assert scores.slack == pytest.approx(0.2 / (0.6 + 0.2))
    assert shares(scores) == pytest.approx([0, 0, 1])


def test_other_pieces_of_the_same_words_are_no_other_answer() -> None:
    scores = read("MRI", steps(("M", {"M": 0.4, "MRI": 0.2, "CT": 0.3}), ("RI", {"RI": 1.0})))
    assert shares(scores) == pytest.approx([1 / 6, 1 / 6, 2 / 3])


@pytest.mark.parametrize("spread", ['{"answer": "', '{"answer":"', '{\n  "answer": "'])
def test_json_is_read_at_its_value_however_it_is_spread(spread: str) -> None:
    along = steps(
        (spread[:-1], {spread[:-1]: 0.01, "The": 0.9}),
        ('"', {'"': 0.9, '"M': 0.1}),
        ("CT Brain", {"CT Brain": 0.6, "MRI": 0.2, "I": 0.2}),
        ('"}', {'"}': 0.5, "/": 0.25, '"': 0.25}),
    )
    scores = read(f'{spread}CT Brain"}}', along, json_object=True)
    # At the opening quote, one part in ten goes to MRI already.
    assert shares(scores) == pytest.approx([0.9 * 0.75 * 0.75, 0.9 * 0.75 * 0.25, 0.1 + 0.9 * 0.25])
    assert scores.off_set == pytest.approx(0.2)


def test_escaped_json_is_the_same_label() -> None:
    branch = Branch("", ("Gefäß", "Gefäßchirurgie"))
    along = steps(
        ('{"answer":"', {'{"answer":"': 1.0}),
        ("Gef\\u00e4\\u00df", {"Gef\\u00e4\\u00df": 1.0}),
        ('"}', {'"}': 0.7, "chir": 0.3}),
    )
    assert shares(
        read('{"answer":"Gef\\u00e4\\u00df"}', along, branch, json_object=True)
    ) == pytest.approx([0.7, 0.3])


def test_tokens_may_end_inside_a_character() -> None:
    branch = Branch("", ("né", "nè"))
    first, second = "é".encode()[:1], "é".encode()[1:]
    other = "è".encode()[1:]
    along = (
        Step(b"n", 0.0, ((b"n", 0.0),)),
        Step(first, 0.0, ((first, 0.0),)),
        Step(second, math.log(0.6), ((second, math.log(0.6)), (other, math.log(0.4)))),
    )
    assert shares(read("né", along, branch)) == pytest.approx([0.6, 0.4])


def test_tokens_that_lost_half_a_character_end_what_can_be_followed() -> None:
    branch = Branch("", ("Gefäß links", "Gefäß rechts", "MRI"))
    along = steps(
        ("Gef", {"Gef": 0.8, "MRI": 0.2}),
        ("", {"": 1.0}),
        ("\ufffd", {"\ufffd": 1.0}),
        (" links", {" links": 1.0}),
    )
    scores = read("Gefäß links", along, branch)
    assert shares(scores) == pytest.approx([0.6, 0.2, 0.2])
    assert scores.slack == pytest.approx(0.6)


def test_thoughts_before_the_answer_are_not_part_of_it() -> None:
    along = steps(
        ("Hm", {"Hm": 1.0}), ("</think>", {"</think>": 1.0}), ("MRI", {"MRI": 0.9, "CT": 0.1})
    )
    assert shares(read("MRI", along)) == pytest.approx([0.05, 0.05, 0.9])


@pytest.mark.parametrize(
    "along",
    [
        (),
        steps(("CT", {"CT": 1.0})),
        steps(("MR", {"MR": 1.0})),
        steps(("CT Brain", {"CT Brain": 1.0})),
    ],
)
def test_probabilities_of_another_answer_are_no_probabilities(along: tuple[Step, ...]) -> None:
    with pytest.raises(Malformed):
        read("MRI", along)


def test_letters_get_their_own_likelihood_and_those_untold_a_bound() -> None:
    letters = Branch("", ("A", "B", "C"), weigh="text")
    scores = read("B", steps(("B", {"B": 0.5, "A": 0.3, "x": 0.1})), letters)
    assert shares(scores) == pytest.approx([0.3, 0.5, 0.1])
    assert scores.slack == pytest.approx(0.1 / 0.9)
    assert scores.off_set == pytest.approx(0.2)


def test_masked_probabilities_tell_nothing_about_what_lies_outside_the_set() -> None:
    assert read("MRI", steps(("MRI", {"MRI": 0.7, "CT": 0.3})), raw=False).off_set is None


def test_without_probabilities_the_choice_is_taken_as_it_is() -> None:
    scores = read("CT Brain", None)
    assert scores.chosen
    assert shares(scores) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("MRI", 2),
        (" mri.\n", 2),
        ('"CT Brain"', 0),
        ("CT", None),
        ("CT Brain or MRI", None),
        ("", None),
        ("CT Brain/Neck", 1),
    ],
)
def test_a_free_answer_names_a_choice_or_none(text: str, place: int | None) -> None:
    assert find_choice(text, SET.tails, json_object=False) == place


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "CT"}',
        '{"answer": "MRI"',
        "MRI",
        '{"answer": "MRI", "more": 1}',
        '["MRI"]',
        '{"answer": 2}',
    ],
)
def test_half_or_other_json_names_no_choice(text: str) -> None:
    assert find_choice(text, SET.tails, json_object=True) is None


def test_tails_are_named_without_blanks_and_quotes_unless_that_makes_two_alike() -> None:
    assert name_choices((" yes", " no")) == ("yes", "no")
    assert name_choices(('"left"', '"right"', "null")) == ("left", "right", "null")
    assert name_choices(('"null"', "null")) == ('"null"', "null")

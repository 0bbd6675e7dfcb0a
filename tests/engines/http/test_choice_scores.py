"""Probabilities from one answer and the likeliest tokens along it, against sums worked out by
hand.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from medtask.engines.http.choice_scores import match_choice, normalise_choices, score_reply
from medtask.engines.http.client import InvalidResponse
from medtask.engines.http.protocol import ChatResponse, TokenLogprob
from medtask.records import Branch, BranchScores

LABEL_BRANCH = Branch("", ("CT Brain", "CT Brain/Neck", "MRI"))


def make_steps(*tokens: tuple[str, dict[str, float]]) -> tuple[TokenLogprob, ...]:
    """Written tokens, each with the probabilities of the likeliest at its place, itself among
    them.
    """
    return tuple(
        TokenLogprob(
            token.encode(),
            math.log(top[token]),
            tuple((name.encode(), math.log(share)) for name, share in top.items()),
        )
        for token, top in tokens
    )


def read_scores(
    text: str,
    token_steps: tuple[TokenLogprob, ...] | None,
    branch: Branch = LABEL_BRANCH,
    *,
    json_object: bool = False,
    raw: bool = True,
) -> BranchScores:
    scores = score_reply(
        ChatResponse(text, "stop", "m", token_steps),
        branch,
        branch.candidates,
        json_object=json_object,
        unmasked=raw,
    )
    assert scores is not None
    return scores


def exp_logprobs(scores: BranchScores) -> list[float]:
    return [math.exp(logprob) for logprob in scores.logprobs]


def test_shares_are_renormalised_over_what_the_set_allows() -> None:
    along = make_steps(
        ("CT", {"CT": 0.3, "MRI": 0.1, "The": 0.6}),
        (" Brain", {" Brain": 0.9, " Head": 0.1}),
        ("<|end|>", {"<|end|>": 0.8, "/": 0.2}),
    )
    scores = read_scores("CT Brain", along)
    assert exp_logprobs(scores) == pytest.approx([0.75 * 0.8, 0.75 * 0.2, 0.25])
    assert scores.off_set == pytest.approx(0.6)
    assert scores.slack == pytest.approx(0.0, abs=1e-9)


def test_the_end_of_a_turn_may_be_encoded_as_an_empty_token() -> None:
    along = make_steps(
        ("CT Brain", {"CT Brain": 1.0}), ("/", {"/": 0.6, "": 0.4}), ("Neck", {"Neck": 1.0})
    )
    assert exp_logprobs(read_scores("CT Brain/Neck", along)) == pytest.approx([0.4, 0.6, 0.0])


def test_an_unknown_end_of_turn_probability_becomes_slack() -> None:
    scores = read_scores(
        "CT Brain", make_steps(("CT", {"CT": 0.8, "MRI": 0.2}), (" Brain", {" Brain": 1.0}))
    )
    assert exp_logprobs(scores) == pytest.approx([0.8 * 0.75, 0.8 * 0.25, 0.2])
    assert scores.slack == pytest.approx(0.8 * 0.25)


def test_what_the_answer_did_not_follow_is_split_equally_and_reported_as_slack() -> None:
    scores = read_scores("MRI", make_steps(("MRI", {"MRI": 0.7, "CT": 0.3})))
    assert exp_logprobs(scores) == pytest.approx([0.15, 0.15, 0.7])
    assert scores.slack == pytest.approx(0.15)


def test_mass_that_was_not_reported_is_slack() -> None:
    output = make_steps(("MRI", {"MRI": 0.6, "The": 0.2}))
    scores = read_scores("MRI", output)
    # 0.2 was not reported, and no token of it is likelier than 0.2: all of it could be a way to
    # write one of the others.
    assert scores.slack == pytest.approx(0.2 / (0.6 + 0.2))
    assert exp_logprobs(scores) == pytest.approx([0, 0, 1])


def test_other_pieces_of_the_same_words_are_no_other_answer() -> None:
    scores = read_scores(
        "MRI", make_steps(("M", {"M": 0.4, "MRI": 0.2, "CT": 0.3}), ("RI", {"RI": 1.0}))
    )
    assert exp_logprobs(scores) == pytest.approx([1 / 6, 1 / 6, 2 / 3])


@pytest.mark.parametrize("spread", ['{"answer": "', '{"answer":"', '{\n  "answer": "'])
def test_json_is_read_at_its_value_however_it_is_spread(spread: str) -> None:
    along = make_steps(
        (spread[:-1], {spread[:-1]: 0.01, "The": 0.9}),
        ('"', {'"': 0.9, '"M': 0.1}),
        ("CT Brain", {"CT Brain": 0.6, "MRI": 0.2, "I": 0.2}),
        ('"}', {'"}': 0.5, "/": 0.25, '"': 0.25}),
    )
    scores = read_scores(f'{spread}CT Brain"}}', along, json_object=True)
    # At the opening quote, one part in ten goes to MRI already.
    assert exp_logprobs(scores) == pytest.approx(
        [0.9 * 0.75 * 0.75, 0.9 * 0.75 * 0.25, 0.1 + 0.9 * 0.25]
    )
    assert scores.off_set == pytest.approx(0.2)


def test_escaped_json_is_the_same_label() -> None:
    branch = Branch("", ("Gefäß", "Gefäßchirurgie"))
    along = make_steps(
        ('{"answer":"', {'{"answer":"': 1.0}),
        ("Gef\\u00e4\\u00df", {"Gef\\u00e4\\u00df": 1.0}),
        ('"}', {'"}': 0.7, "chir": 0.3}),
    )
    assert exp_logprobs(
        read_scores('{"answer":"Gef\\u00e4\\u00df"}', along, branch, json_object=True)
    ) == pytest.approx([0.7, 0.3])


def test_tokens_may_end_inside_a_character() -> None:
    branch = Branch("", ("né", "nè"))
    first, second = "é".encode()[:1], "é".encode()[1:]
    other = "è".encode()[1:]
    along = (
        TokenLogprob(b"n", 0.0, ((b"n", 0.0),)),
        TokenLogprob(first, 0.0, ((first, 0.0),)),
        TokenLogprob(second, math.log(0.6), ((second, math.log(0.6)), (other, math.log(0.4)))),
    )
    assert exp_logprobs(read_scores("né", along, branch)) == pytest.approx([0.6, 0.4])


def test_tokens_that_lost_half_a_character_end_what_can_be_followed() -> None:
    branch = Branch("", ("Gefäß links", "Gefäß rechts", "MRI"))
    along = make_steps(
        ("Gef", {"Gef": 0.8, "MRI": 0.2}),
        ("", {"": 1.0}),
        ("\ufffd", {"\ufffd": 1.0}),
        (" links", {" links": 1.0}),
    )
    scores = read_scores("Gefäß links", along, branch)
    assert exp_logprobs(scores) == pytest.approx([0.6, 0.2, 0.2])
    assert scores.slack == pytest.approx(0.6)


def test_thoughts_before_the_answer_are_not_part_of_it() -> None:
    along = make_steps(
        ("Hm", {"Hm": 1.0}), ("</think>", {"</think>": 1.0}), ("MRI", {"MRI": 0.9, "CT": 0.1})
    )
    assert exp_logprobs(read_scores("MRI", along)) == pytest.approx([0.05, 0.05, 0.9])


@pytest.mark.parametrize(
    "along",
    [
        (),
        make_steps(("CT", {"CT": 1.0})),
        make_steps(("MR", {"MR": 1.0})),
        make_steps(("CT Brain", {"CT Brain": 1.0})),
    ],
)
def test_probabilities_of_another_answer_are_no_probabilities(
    along: tuple[TokenLogprob, ...],
) -> None:
    with pytest.raises(InvalidResponse):
        read_scores("MRI", along)


def test_letters_get_their_own_likelihood_and_those_untold_a_bound() -> None:
    letters = Branch("", ("A", "B", "C"), weigh="text")
    scores = read_scores("B", make_steps(("B", {"B": 0.5, "A": 0.3, "x": 0.1})), letters)
    assert exp_logprobs(scores) == pytest.approx([0.3, 0.5, 0.1])
    assert scores.slack == pytest.approx(0.1 / 0.9)
    assert scores.off_set == pytest.approx(0.2)


def test_masked_probabilities_give_no_mass_outside_the_set() -> None:
    assert (
        read_scores("MRI", make_steps(("MRI", {"MRI": 0.7, "CT": 0.3})), raw=False).off_set is None
    )


def test_without_probabilities_the_choice_is_taken_as_it_is() -> None:
    scores = read_scores("CT Brain", None)
    assert scores.choice_only
    assert exp_logprobs(scores) == [1.0, 0.0, 0.0]


def test_a_constrained_answer_is_exactly_a_choice() -> None:
    assert match_choice(" MRI\n", LABEL_BRANCH.candidates, json_object=False) == 2
    assert match_choice("mri.", LABEL_BRANCH.candidates, json_object=False) is None
    assert match_choice('{"answer": "MRI"}', LABEL_BRANCH.candidates, json_object=True) == 2


def test_a_decorated_answer_has_the_probabilities_at_its_choice() -> None:
    tokens = make_steps(
        ("The", {"The": 1.0}),
        (" answer is (", {" answer is (": 1.0}),
        ("MRI", {"MRI": 0.6, "CT": 0.2, "X": 0.2}),
        (").", {").": 1.0}),
    )
    scores = read_scores("The answer is (MRI).", tokens)
    assert exp_logprobs(scores) == pytest.approx([0.125, 0.125, 0.75])
    assert scores.off_set == pytest.approx(0.2)
    assert scores.slack == pytest.approx(0.125)


def test_the_probability_of_other_decorations_is_slack() -> None:
    letters = Branch("", ("A", "B", "C"))
    tokens = make_steps(
        ("**", {"**": 0.7, "A": 0.3}), ("B", {"B": 0.9, "A": 0.1}), ("**", {"**": 1.0})
    )
    for branch in (letters, replace(letters, weigh="text")):
        scores = read_scores("**B**", tokens, branch)
        assert exp_logprobs(scores)[1] == pytest.approx(0.9)
        assert scores.slack >= 0.3 - 1e-9


def test_a_choice_that_is_written_with_escapes_has_no_probabilities() -> None:
    tokens = make_steps(('{"answer": "\\u004dRI"}', {'{"answer": "\\u004dRI"}': 1.0}))
    scores = read_scores('{"answer": "\\u004dRI"}', tokens)
    assert scores.choice_only
    assert exp_logprobs(scores) == [0.0, 0.0, 1.0]


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
    assert match_choice(text, LABEL_BRANCH.candidates, json_object=True) is None


def test_candidates_are_matched_without_spaces_and_quotes_unless_that_is_ambiguous() -> None:
    assert normalise_choices((" yes", " no")) == ("yes", "no")
    assert normalise_choices(('"left"', '"right"', "null")) == ("left", "right", "null")
    assert normalise_choices(('"null"', "null")) == ('"null"', "null")

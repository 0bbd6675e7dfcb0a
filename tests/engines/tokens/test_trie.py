"""The trie's probabilities from numbers along every path, against the toy model's own sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medtask.engines.tokens.trie import (
    NodeVisit,
    TrieScores,
    build_trie,
    compute_candidate_logprobs,
    expand_node,
)
from support.toy_model import END_TOKEN, ToyModel, split_tokens


@pytest.mark.parametrize(
    "labels",
    [
        ("CT Brain", "CT Brain/Neck", "MRI"),
        ("curative", "palliative"),
        ("CTA", "CTB", "CTAB", "CTABC"),
        ("only",),
        ("a b c d", "a b c e"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_constrained_writing(labels: tuple[str, ...], seed: int) -> None:
    model = ToyModel(labels, seed)
    prompt = "<|user|>Which?<|end|><|assistant|>"
    tails, logprobs = [], []
    for label in labels:
        tokens = [*split_tokens(label), END_TOKEN]
        tails.append(model.encode("".join(tokens)))
        logprobs.append(
            [
                model.logprobs(prompt + "".join(tokens[:at]), [token])[0]
                for at, token in enumerate(tokens)
            ]
        )
    shares = [
        math.exp(weight) for weight in compute_candidate_logprobs(build_trie(tails), logprobs)
    ]
    assert shares == pytest.approx(model.compute_constrained_probabilities(prompt, labels))
    assert math.fsum(shares) == pytest.approx(1)


def test_an_impossible_token_has_no_share_and_an_impossible_branching_no_number() -> None:
    root = build_trie([(1, 9), (2, 8), (2, 9)])
    assert compute_candidate_logprobs(root, [[0.0, 0.0], [-math.inf, -1.0], [-math.inf, -1.0]]) == (
        0.0,
        -math.inf,
        -math.inf,
    )
    assert all(map(math.isnan, compute_candidate_logprobs(root, [[-math.inf, 0.0]] * 3)))


def test_the_slack_is_the_largest_error_of_any_branching_that_is_not_read() -> None:
    """Of two labels that share an unread mass, each is reported with half and may have all."""
    root = build_trie([(1, 5), (1, 6), (2, 5), (2, 6), (3,)])
    unlikely = (4e-5, 2e-5)
    scores = TrieScores.empty(1, 5)
    visit = NodeVisit(root, np.array([0]), np.zeros(1))
    child_logprobs = np.log([[*unlikely, 1 - sum(unlikely)]])
    assert list(expand_node(scores, visit, child_logprobs)) == []
    assert scores.slack == pytest.approx([unlikely[0] / 2])
    shares = [unlikely[0] / 2] * 2 + [unlikely[1] / 2] * 2 + [1 - sum(unlikely)]
    assert np.exp(scores.logprobs[0]) == pytest.approx(shares)


def test_a_branching_is_read_as_soon_as_it_can_move_a_probability_too_far() -> None:
    root = build_trie([(1, 5), (1, 6), (1, 7), (2,)])
    for mass, read in ((7.4e-5, False), (7.6e-5, True)):  # two thirds of it against 5e-5
        scores = TrieScores.empty(1, 4)
        visit = NodeVisit(root, np.array([0]), np.zeros(1))
        further = list(expand_node(scores, visit, np.log([[mass, 1 - mass]])))
        assert bool(further) is read

"""The trie's probabilities from numbers along every path, against the toy model's own sums."""

from __future__ import annotations

import math

import pytest

from medtask.engines.tokens.trie import build_trie, compute_candidate_logprobs
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

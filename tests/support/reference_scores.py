"""Scores from whole forward passes over prompt + candidate, without code of the engine
search.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medtask.records import Branch, BranchScores, Prompt, Scores


def compute_reference_scores(
    engine: Any, prompt: Prompt, branch: Branch | None = None
) -> tuple[list[float], float]:
    """Probabilities of a branch's tails (log-likelihoods where they are weighed as text) and the
    off-set mass.
    """
    branch = branch or prompt.branches[0]
    rendering = engine.render(replace(prompt, branches=(branch,)))
    candidates = rendering.candidate_tokens
    start = len(rendering.prompt_tokens)
    next_token_probabilities: dict[tuple[int, ...], torch.Tensor] = {}
    results = []
    engine.model.set_attn_implementation("eager")
    for candidate in candidates:
        path = (*rendering.prompt_tokens, *candidate[:-1])
        if path not in next_token_probabilities:
            with torch.inference_mode():
                next_token_probabilities[path] = torch.softmax(
                    engine.model(input_ids=torch.tensor([path])).logits[0].double(), dim=-1
                )
        logprob = 0.0
        for depth, token in enumerate(candidate):
            row = next_token_probabilities[path][start + depth - 1]
            allowed = sorted(
                {
                    other[depth]
                    for other in candidates
                    if len(other) > depth and other[:depth] == candidate[:depth]
                }
            )
            share = row[token] / row[allowed].sum() if branch.weigh == "set" else row[token]
            logprob += math.log(float(share))
        results.append(logprob if branch.weigh == "text" else math.exp(logprob))
    off_set = 1 - float(
        next_token_probabilities[path][start - 1][sorted({tail[0] for tail in candidates})].sum()
    )
    engine.model.set_attn_implementation("medtask_packed")
    return results, off_set


def assert_branch_scores(
    found: BranchScores, expected: list[float], off_set: float, branch: Branch, bound: float = 1e-4
) -> None:
    if branch.weigh == "set":
        assert np.abs(np.exp(found.logprobs) - expected).max() < bound
        assert abs(math.fsum(math.exp(value) for value in found.logprobs) - 1) < 1e-6
        assert found.slack <= 1e-4
    else:
        assert np.abs(np.exp(found.logprobs) - np.exp(expected)).max() < bound
        # Of a text with a probability of 1e-10 a logarithm has lost some of float32's places.
        assert np.abs(np.array(found.logprobs) - expected).max() < 10 * bound
        assert found.slack == 0
    assert abs(found.off_set - off_set) < bound


def assert_scores_exact(engine: Any, prompts: list[Prompt], bound: float = 1e-4) -> None:
    """Everything that the engine says of all branches of the prompts equals what is found by
    hand.
    """
    by_id = {scores.record_id: scores for scores in engine.score(prompts)}
    for prompt in prompts:
        scores = by_id[prompt.record_id]
        assert isinstance(scores, Scores)
        assert len(scores.branches) == len(prompt.branches)
        for found, branch in zip(scores.branches, prompt.branches, strict=True):
            assert_branch_scores(
                found, *compute_reference_scores(engine, prompt, branch), branch, bound
            )

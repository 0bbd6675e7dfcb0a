"""The slow way to score: plain forward passes. The fast way is held against it, and it answers
where packing fails.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from medtask.engines.tokens.chat import Question
from medtask.engines.tokens.trie import Node
from medtask.records import BranchScores


@torch.inference_mode()
def score_plainly(model: Any, question: Question) -> tuple[BranchScores, int]:
    """Scores of one question, and the tokens that were read for them: every label reads everything
    anew.

    Labels that part at the last branching have the same tokens before it, and share a pass.
    """
    if question.trie is None:
        return _weigh_texts(model, question)
    logprobs = [0.0] * len(question.trie.labels)
    off_set, read = 0.0, 0
    before: tuple[int, ...] | None = None
    for label, path, choices in sorted(
        _walk(question.trie, len(question.base), (), ()), key=lambda found: found[1]
    ):
        if path != before:
            logits = _read(model, question.base + path)
            before, read = path, read + len(logits)
        for place, node, token in choices:
            allowed = torch.log_softmax(logits[place - 1, list(node.tokens)], dim=-1)
            logprobs[label] += float(allowed[node.tokens.index(token)])
        off_set = _mass_outside(logits[question.ask], question.first)
    return BranchScores(tuple(logprobs), off_set), read


def _weigh_texts(model: Any, question: Question) -> tuple[BranchScores, int]:
    logprobs, off_set, read = [], 0.0, 0
    before: tuple[int, ...] | None = None
    for path, tail in zip(question.paths[1:], question.tails, strict=True):
        if path != before:
            logits = _read(model, path)
            before, read = path, read + len(logits)
        own = torch.log_softmax(logits[question.ask :], dim=-1)
        logprobs.append(math.fsum(float(own[place, token]) for place, token in enumerate(tail)))
        off_set = _mass_outside(logits[question.ask], question.first)
    return BranchScores(tuple(logprobs), off_set), read


def _read(model: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    logits: torch.Tensor = (
        model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)
        .logits[0]
        .double()
    )
    return logits


def _mass_outside(logits: torch.Tensor, tokens: tuple[int, ...]) -> float:
    inside = float(torch.softmax(logits, dim=-1)[list(tokens)].sum())
    return max(0.0, 1.0 - inside) if math.isfinite(inside) else math.nan


def _walk(
    node: Node, place: int, path: tuple[int, ...], choices: tuple[tuple[int, Node, int], ...]
) -> list[tuple[int, tuple[int, ...], tuple[tuple[int, Node, int], ...]]]:
    """Every label with the tokens that lead to its last branching, and the choices (place,
    branching, token) on the way.
    """
    found = []
    for token, child in zip(node.tokens, node.children, strict=True):
        taken = (*choices, (place, node, token))
        if isinstance(child, int):
            found.append((child, path, taken))
        else:
            found += _walk(child, place + len(child.reads), (*path, *child.reads), taken)
    return found

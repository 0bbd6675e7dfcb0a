"""The slow way to score: plain forward passes. The fast way is held against it, and it answers where packing fails."""

from __future__ import annotations

import math
from typing import Any

import torch

from medtask.engines.hf.chat import Question
from medtask.engines.hf.search import Node
from medtask.records import BranchScores


@torch.inference_mode()
def score_plainly(model: Any, question: Question) -> tuple[BranchScores, int]:
    """Scores of one question, and the tokens that were read for them: every label reads everything anew.

    Labels that part at the last branching have the same tokens before it, and share a pass.
    """
    logprobs = [0.0] * len(question.trie.labels)
    off_set, read = 0.0, 0
    before: tuple[int, ...] | None = None
    for label, path, choices in sorted(_walk(question.trie, len(question.base), (), ()), key=lambda found: found[1]):
        if path != before:
            tokens = torch.tensor([[*question.base, *path]], device=model.device)
            logits = model(input_ids=tokens, use_cache=False).logits[0].double()
            before, read = path, read + tokens.numel()
        for place, node, token in choices:
            allowed = torch.log_softmax(logits[place - 1, list(node.tokens)], dim=-1)
            logprobs[label] += float(allowed[node.tokens.index(token)])
        inside = torch.softmax(logits[question.ask], dim=-1)[list(question.first)].sum()
        off_set = max(0.0, 1.0 - float(inside)) if math.isfinite(inside) else math.nan
    return BranchScores(tuple(logprobs), off_set), read


def _walk(
    node: Node, place: int, path: tuple[int, ...], choices: tuple[tuple[int, Node, int], ...]
) -> list[tuple[int, tuple[int, ...], tuple[tuple[int, Node, int], ...]]]:
    """Every label with the tokens that lead to its last branching, and the choices (place, branching, token) on the way."""
    found = []
    for token, child in zip(node.tokens, node.children, strict=True):
        taken = (*choices, (place, node, token))
        if isinstance(child, int):
            found.append((child, path, taken))
        else:
            found += _walk(child, place + len(child.reads), (*path, *child.reads), taken)
    return found

"""Reference implementations: plain forward passes for scores, transformers' own loop for texts.

Packed scoring and generation are compared with these, and replaced by them if packing fails: the
model's own code handles any kind of state (keys and values, recurrent states).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.decoding.token_selection import advance_sequences
from medtask.engines.hf.decoding import TorchLogits
from medtask.engines.tokens.chat import TokenizedBranch
from medtask.engines.tokens.trie import TrieNode
from medtask.records import BranchScores


@torch.inference_mode()
def score_branch_reference(model: Any, tokenized: TokenizedBranch) -> tuple[BranchScores, int]:
    """Scores of one branch, and the number of tokens read: each label reads all its tokens.

    Labels that differ at the last node only have the same tokens before it, and share a pass.
    """
    if tokenized.trie is None:
        return _score_text_branch(model, tokenized)
    logprobs = [0.0] * len(tokenized.trie.candidate_indices)
    off_set, read = 0.0, 0
    before: tuple[int, ...] | None = None
    for label, path, choices in sorted(
        _list_candidate_paths(tokenized.trie, len(tokenized.prefix_tokens), (), ()),
        key=lambda found: found[1],
    ):
        if path != before:
            logits = _compute_logits(model, tokenized.prefix_tokens + path)
            before, read = path, read + len(logits)
        for place, node, token in choices:
            allowed = torch.log_softmax(logits[place - 1, list(node.tokens)], dim=-1)
            logprobs[label] += float(allowed[node.tokens.index(token)])
        off_set = _compute_off_set(logits[tokenized.answer_position], tokenized.first_tokens)
    return BranchScores(tuple(logprobs), off_set), read


def _score_text_branch(model: Any, tokenized: TokenizedBranch) -> tuple[BranchScores, int]:
    logprobs, off_set, read = [], 0.0, 0
    before: tuple[int, ...] | None = None
    for path, candidate in zip(tokenized.paths[1:], tokenized.candidates, strict=True):
        if path != before:
            logits = _compute_logits(model, path)
            before, read = path, read + len(logits)
        own = torch.log_softmax(logits[tokenized.answer_position :], dim=-1)
        logprobs.append(
            math.fsum(float(own[place, token]) for place, token in enumerate(candidate))
        )
        off_set = _compute_off_set(logits[tokenized.answer_position], tokenized.first_tokens)
    return BranchScores(tuple(logprobs), off_set), read


def _compute_logits(model: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    logits: torch.Tensor = (
        model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)
        .logits[0]
        .double()
    )
    return logits


def _compute_off_set(logits: torch.Tensor, tokens: tuple[int, ...]) -> float:
    inside = float(torch.softmax(logits, dim=-1)[list(tokens)].sum())
    return max(0.0, 1.0 - inside) if math.isfinite(inside) else math.nan


def _list_candidate_paths(
    node: TrieNode,
    place: int,
    path: tuple[int, ...],
    choices: tuple[tuple[int, TrieNode, int], ...],
) -> list[tuple[int, tuple[int, ...], tuple[tuple[int, TrieNode, int], ...]]]:
    """Each label with the tokens that lead to its last node, and the choices (position, node,
    token) on the path.
    """
    found = []
    for token, child in zip(node.tokens, node.children, strict=True):
        taken = (*choices, (place, node, token))
        if isinstance(child, int):
            found.append((child, path, taken))
        else:
            found += _list_candidate_paths(
                child, place + len(child.edge_tokens), (*path, *child.edge_tokens), taken
            )
    return found


@torch.inference_mode()
def generate_reference(
    model: Any,
    seq: DecodingSequence,
    max_tokens: int,
    on_update: Callable[[DecodingSequence], None],
) -> None:
    """Generate the text of one sequence, which selects each token."""
    from transformers import GenerationConfig

    def select_token(tokens: Tensor, logits: Tensor) -> Tensor:
        advance_sequences([seq], TorchLogits(logits.float()))
        seq.tokens_read += tokens.shape[1] if seq.tokens_read == 0 else 1
        on_update(seq)
        forced_logits = torch.full_like(logits, -torch.inf)
        # After the end of the sequence the token does not matter: it is dropped.
        forced_logits[0, seq.tokens[-1]] = 0
        return forced_logits

    def is_finished(tokens: Tensor, logits: Tensor, **unused: Any) -> Tensor:
        return torch.tensor([seq.is_finished], device=tokens.device)

    start = time.perf_counter()
    seq.start_timer()
    tokens = torch.tensor([seq.tokens], device=model.device)
    # The model's own settings fill the gaps in the settings passed, and a repetition penalty among
    # them would change the selection.
    settings, model.generation_config = model.generation_config, GenerationConfig()
    try:
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=max_tokens, pad_token_id=0
            ),
            logits_processor=[select_token],
            stopping_criteria=[is_finished],
        )
    finally:
        model.generation_config = settings
    seq.ms += (time.perf_counter() - start) * 1000

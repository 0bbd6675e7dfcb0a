"""Similarity of generated answers to gold texts: token F1, ROUGE-L, exact match, MiniLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medtask.errors import MissingExtra
from medtask.evaluation.statistics.intervals import (
    FloatArray,
    Metric,
    estimate_clustered_proportion,
    estimate_ratio,
)
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.evaluation.statistics.text_overlap import (
    compute_rouge_l,
    compute_token_f1,
    is_exact_match,
)
from medtask.similarity import encode_rows

# MiniLM encodes about 30 long texts per second.
MAX_ENCODED_ROWS = 200
ENCODING_SECONDS = 30.0  # long texts: after this time no further rows are encoded


@dataclass(frozen=True, slots=True)
class FreeTextMetrics:
    """Similarity of answers to gold texts, over all rows with gold.

    Rows without an answer count as 0.

    Attributes:
        token_f1: Mean F1 of shared words.
        rouge_l: Mean ROUGE-L.
        exact_match: Share of answers with the same words as gold.
        similarity: Mean MiniLM similarity over at most 200 rows; None if not measured.
        token_f1_answered: Token F1 over the rows with an answer; None without such rows.
        exact_answered: Exact match over the rows with an answer; None without such rows.
        note: Why there is no similarity.
        of: Number of rows with gold, of which the rows above are a random sample.
        without: Number of rows without an answer.
        groups: Number of resampling units; see `ResamplingUnits`.
    """

    token_f1: Metric
    rouge_l: Metric
    exact_match: Metric
    similarity: Metric | None
    token_f1_answered: Metric | None
    exact_answered: Metric | None
    note: str
    of: int
    without: int
    groups: int | None


def compute_free_text_metrics(
    gold: Sequence[str],
    answers: Sequence[str | None],
    groups: Sequence[str | None] = (),
    *,
    total_rows: int | None = None,
    unanswered: int = 0,
    seed: int = 0,
) -> FreeTextMetrics | None:
    """Computes the metrics of these rows; None without rows."""
    pairs = list(zip(gold, answers, strict=True))
    if not pairs:
        return None
    units, every = build_resampling_units(groups, len(pairs)), np.ones(len(pairs))
    answered = np.array([given is not None for _, given in pairs], dtype=np.int64)
    shared = _score_pairs(pairs, compute_token_f1)
    exact = _score_pairs(pairs, is_exact_match)
    f1 = estimate_ratio(shared, every, units, seed=seed)
    rouge = estimate_ratio(_score_pairs(pairs, compute_rouge_l), every, units, seed=seed)
    same = estimate_clustered_proportion(exact, every, units, seed=seed)
    assert f1 is not None
    assert rouge is not None
    assert same is not None
    similarity, note = _score_similarity(pairs[:MAX_ENCODED_ROWS], groups[:MAX_ENCODED_ROWS], seed)
    f1_answered = estimate_ratio(shared, answered, units, seed=seed)
    return FreeTextMetrics(
        token_f1=f1,
        rouge_l=rouge,
        exact_match=same,
        similarity=similarity,
        token_f1_answered=replace(f1_answered, n=int(answered.sum())) if f1_answered else None,
        exact_answered=estimate_clustered_proportion(exact, answered, units, seed=seed),
        note=note,
        of=len(pairs) if total_rows is None else total_rows,
        without=unanswered,
        groups=units.n_groups,
    )


def compute_token_f1_terms(
    gold: Sequence[str], answers: Sequence[str | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Token F1 and 1 for each row; see `compare_by_randomisation`."""
    shares = _score_pairs(list(zip(gold, answers, strict=True)), compute_token_f1)
    return shares, np.ones(len(shares))


def _score_pairs(
    pairs: Sequence[tuple[str, str | None]], score: Callable[[str, str], float]
) -> FloatArray:
    """Scores [n]; 0 without an answer."""
    return np.array(
        [0.0 if given is None else float(score(truth, given)) for truth, given in pairs]
    )


def _score_similarity(
    pairs: Sequence[tuple[str, str | None]], groups: Sequence[str | None], seed: int
) -> tuple[Metric | None, str]:
    texts = [[text for text in pair if text is not None] for pair in pairs]
    try:
        encoded = encode_rows(texts, ENCODING_SECONDS)
    except MissingExtra as missing:
        return None, f"{missing} ({missing.fix})"
    near = np.array(
        [
            max(0.0, float(vectors[0] @ vectors[1])) if len(vectors) > 1 else 0.0
            for vectors in encoded
        ]
    )
    return estimate_ratio(
        near,
        np.ones(len(near)),
        build_resampling_units(groups[: len(near)], len(near)),
        seed=seed,
    ), ""

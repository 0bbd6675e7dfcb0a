"""Baselines without training: the most frequent answer, and the label nearest by MiniLM."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.errors import MissingExtra
from medtask.evaluation.baselines.context import NO_LIMIT, TimeLimit
from medtask.records import Option, Value
from medtask.similarity import encode_rows, format_description

MAX_ENCODED_ROWS = 500  # rows whose options MiniLM encodes, about five texts each
NO_GOLD = "no row has gold"

LabelDefinitions = Sequence[tuple[str, str]]  # names and definitions ("" for none)


def find_most_frequent(gold: Sequence[Any]) -> Any:
    """The most frequent value; the greatest if several are equally frequent. None without rows."""
    return max(Counter(gold).items(), key=lambda item: (item[1], item[0]))[0] if gold else None


def match_definitions(
    texts: Sequence[str], labels: LabelDefinitions, limit: TimeLimit = NO_LIMIT
) -> list[str] | str:
    """The label whose "name: definition" is most similar to each text, or why there is none."""
    near = _compute_definition_similarities(texts, labels, limit)
    return near if isinstance(near, str) else [labels[place][0] for place in near.argmax(axis=1)]


def match_label_sets(
    texts: Sequence[str],
    gold: Sequence[Sequence[str]],
    labels: LabelDefinitions,
    limit: TimeLimit = NO_LIMIT,
) -> list[tuple[str, ...]] | str:
    """The labels similar enough to each text, in total as many as in gold, or why not."""
    near = _compute_definition_similarities(texts, labels, limit)
    if isinstance(near, str):
        return near
    bound = _find_similarity_threshold(near.ravel(), sum(map(len, gold[: len(near)])))
    return [
        tuple(name for (name, _), share in zip(labels, row, strict=True) if share >= bound)
        for row in near
    ]


def match_options(
    texts: Sequence[str],
    options: Sequence[Sequence[Option]],
    gold: Sequence[Sequence[str]] | None = None,
    limit: TimeLimit = NO_LIMIT,
) -> list[Value] | str:
    """The most similar option of each of the first 500 rows, or why there is none.

    With ``gold``, all options that are similar enough: in total as many as in gold.
    """
    questions, options = texts[:MAX_ENCODED_ROWS], options[:MAX_ENCODED_ROWS]
    if not questions:
        return NO_GOLD
    if not all(options):
        return "rows with gold have no readable options"
    row_texts = [
        [question, *(option.text for option in row_options)]
        for question, row_options in zip(questions, options, strict=True)
    ]
    try:
        encoded = encode_rows(row_texts, limit.seconds, limit.on_rows)
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    near = [
        {
            option.letter: float(vectors[0] @ vector)
            for option, vector in zip(row_options, vectors[1:], strict=True)
        }
        for row_options, vectors in zip(options, encoded, strict=False)
    ]
    if gold is None:
        return [max(shares, key=shares.__getitem__) for shares in near]
    bound = _find_similarity_threshold(
        np.array([share for shares in near for share in shares.values()]),
        sum(map(len, gold[: len(near)])),
    )
    return [tuple(letter for letter, share in shares.items() if share >= bound) for shares in near]


def _compute_definition_similarities(
    texts: Sequence[str], labels: LabelDefinitions, limit: TimeLimit
) -> NDArray[np.float32] | str:
    """Cosine similarities [first texts, labels], or the reason why there are none."""
    if not texts or not labels:
        return NO_GOLD
    started = time.monotonic()
    try:
        described = [[format_description(name, definition)] for name, definition in labels]
        meanings = encode_rows(described, limit.seconds / 2)
        if len(meanings) < len(labels):
            return f"the definitions of {len(labels):,} labels take too long"
        seconds = limit.seconds - (time.monotonic() - started)
        encoded = encode_rows([[text] for text in texts], seconds, limit.on_rows)
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    return np.concatenate(encoded) @ np.concatenate(meanings).T


def _find_similarity_threshold(similarities: NDArray[np.float32], count: int) -> float:
    """The similarity threshold that ``count`` of the values reach."""
    return (
        float(np.partition(similarities, -count)[-count])
        if 0 < count <= len(similarities)
        else np.inf
    )

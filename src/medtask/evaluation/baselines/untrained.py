"""Baselines without training: the most frequent answer, and the label nearest by MiniLM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.errors import MissingExtra
from medtask.records import Option, Value
from medtask.similarity import encode_texts, format_description

MAX_ENCODED_ROWS = 500  # rows whose options MiniLM encodes, about five texts each
NO_GOLD = "no row has gold"

LabelDefinitions = Sequence[tuple[str, str]]  # names and definitions ("" for none)


def find_most_frequent(gold: Sequence[Any]) -> Any:
    """The most frequent value; the greatest if several are equally frequent. None without rows."""
    return max(Counter(gold).items(), key=lambda item: (item[1], item[0]))[0] if gold else None


def match_definitions(texts: Sequence[str], labels: LabelDefinitions) -> list[str] | str:
    """The label whose "name: definition" is most similar to each text, or why there is none."""
    near = _compute_definition_similarities(texts, labels)
    return near if isinstance(near, str) else [labels[place][0] for place in near.argmax(axis=1)]


def match_label_sets(
    texts: Sequence[str], gold: Sequence[Sequence[str]], labels: LabelDefinitions
) -> list[tuple[str, ...]] | str:
    """The labels similar enough to each text, in total as many as in gold, or why not."""
    near = _compute_definition_similarities(texts, labels)
    if isinstance(near, str):
        return near
    bound = _find_similarity_threshold(near.ravel(), sum(map(len, gold)))
    return [
        tuple(name for (name, _), share in zip(labels, row, strict=True) if share >= bound)
        for row in near
    ]


def match_options(
    texts: Sequence[str], options: Sequence[Sequence[Option]], n_chosen: int | None = None
) -> list[Value] | str:
    """The most similar option of each of the first 500 rows, or why there is none.

    With ``n_chosen``, all options that are similar enough: ``n_chosen`` in total over these rows.
    """
    rows = list(zip(texts[:MAX_ENCODED_ROWS], options[:MAX_ENCODED_ROWS], strict=True))
    if not rows:
        return NO_GOLD
    if any(not row_options for _, row_options in rows):
        return "rows with gold have no readable options"
    encoded = dict.fromkeys(
        text
        for question, row_options in rows
        for text in (question, *(option.text for option in row_options))
    )
    try:
        vectors = dict(zip(encoded, encode_texts(list(encoded)), strict=True))
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    near = [
        {option.letter: float(vectors[question] @ vectors[option.text]) for option in row_options}
        for question, row_options in rows
    ]
    if n_chosen is None:
        return [max(shares, key=shares.__getitem__) for shares in near]
    bound = _find_similarity_threshold(
        np.array([share for shares in near for share in shares.values()]),
        n_chosen,
    )
    return [tuple(letter for letter, share in shares.items() if share >= bound) for shares in near]


def _compute_definition_similarities(
    texts: Sequence[str], labels: LabelDefinitions
) -> NDArray[np.float32] | str:
    """Cosine similarities [texts, labels], or the reason why there are none."""
    if not texts or not labels:
        return NO_GOLD
    try:
        meanings = encode_texts(
            [format_description(name, definition) for name, definition in labels]
        )
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    return np.asarray(encode_texts(texts) @ meanings.T)


def _find_similarity_threshold(similarities: NDArray[np.float32], count: int) -> float:
    """The similarity threshold that ``count`` of the values reach."""
    return (
        float(np.partition(similarities, -count)[-count])
        if 0 < count <= len(similarities)
        else np.inf
    )

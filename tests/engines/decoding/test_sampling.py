from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from medtask.engines.decoding import sampling as sample
from medtask.engines.decoding.sampling import create_row_rng, sample_token

LOGITS = np.array([2.0, 1.0, 0.0, -1.0, -30.0, -np.inf], dtype=np.float32)


def draw_many(
    top_p: float, temperature: float, logits: np.ndarray = LOGITS, count: int = 4000
) -> np.ndarray:
    chance = create_row_rng(0, "row")
    drawn = [sample_token(logits, chance, temperature, top_p) for _ in range(count)]
    return np.bincount(drawn, minlength=len(logits)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    expected = softmax(LOGITS / temperature)
    assert np.abs(draw_many(1.0, temperature) - expected).max() < 0.03  # four standard deviations


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p() -> None:
    expected = softmax(LOGITS)  # 0.64, 0.24, 0.09, 0.03
    for top_p, kept in ((0.0001, 1), (0.6, 1), (0.7, 2), (0.9, 3), (0.99, 4)):
        found = draw_many(top_p, 1.0)
        shares = np.where(np.arange(len(LOGITS)) < kept, expected, 0.0)
        assert np.abs(found - (shares / shares.sum())).max() < 0.03
        assert (found > 0).sum() == kept


def test_a_nucleus_wider_than_what_is_looked_at_first_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = np.linspace(0, 1, 50)
    full = draw_many(0.9, 1.0, logits, 300)
    monkeypatch.setattr(sample, "NUCLEUS_CANDIDATES", 3)
    assert (draw_many(0.9, 1.0, logits, 300) == full).all()


def test_a_cold_draw_is_the_likeliest_token() -> None:
    assert draw_many(1.0, 1e-6)[0] == 1


@given(st.integers(), st.text(max_size=10), st.text(max_size=10))
def test_chance_belongs_to_seed_and_record(seed: int, one: str, other: str) -> None:
    first = create_row_rng(seed, one).random()
    assert first == create_row_rng(seed, one).random()
    assert first != create_row_rng(seed + 1, one).random()
    assert (first == create_row_rng(seed, other).random()) == (one == other)

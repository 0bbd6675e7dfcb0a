"""A head on the vectors of an encoder whose weights stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask.training.encoder import frozen
from medtask.training.recipe import Recipe
from support.small_trainings import (
    NEW_TEXTS,
    TEXTS,
    make_task,
    make_training_context,
    make_training_data,
)
from support.tiny_encoders import save_sentence_encoder


def test_rows_that_are_cut_keep_their_closing_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"Pooling": {"pooling_mode_mean_tokens": True}, "Normalize": {}}
    base = save_sentence_encoder(tmp_path / "base", [*TEXTS, *NEW_TEXTS], parts)
    read: list[list[int]] = []
    compute_vectors = frozen._compute_vectors

    def keep_tokens(model: Any, tokenizer: Any, tokens: Any, check_time: Any) -> Any:
        read.extend(tokens)
        return compute_vectors(model, tokenizer, tokens, check_time)

    monkeypatch.setattr(frozen, "_compute_vectors", keep_tokens)
    monkeypatch.setattr(frozen, "MAX_LONG_SHARE", 1.0)
    monkeypatch.setattr("medtask.similarity.find_max_tokens", lambda model, tokenizer: 5)
    recipe = Recipe(method="encoder", bases=(str(base),))
    data = make_training_data(make_task(tmp_path / "task"))
    frozen.fit_frozen([data], recipe, make_training_context(tmp_path))
    assert {len(tokens) for tokens in read} == {5}
    assert len({tokens[-1] for tokens in read}) == 1

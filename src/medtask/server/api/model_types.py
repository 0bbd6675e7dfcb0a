"""Names of model families, as other systems use them, and what they are here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class ModelType(NamedTuple):
    """A training method and a base; a base without a method is used as it is, by prompting."""

    method: str
    base: str


_BIOBERT = ModelType("encoder", "dmis-lab/biobert-base-cased-v1.2")
_LINEAR = ModelType("linear", "")
_GEMMA = ModelType("", "google/gemma-2-2b-it")
MODEL_TYPES: Mapping[str, ModelType] = MappingProxyType(
    {
        "biobert": _BIOBERT,
        "bert": _BIOBERT,
        "encoder": ModelType("encoder", ""),
        "traditional": _LINEAR,
        "tfidf": _LINEAR,
        "linear": _LINEAR,
        "hybrid": ModelType("hybrid", ""),
        "gemma": _GEMMA,
        "gemma2-2b": _GEMMA,
        "auto": ModelType("auto", ""),
    }
)

"""Model references to engines: names map to strings, and the heavy module sleeps until it is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from medtask.engines.base import Engine
from medtask.errors import UsageError

ENGINES: Mapping[str, str] = MappingProxyType({"hf": "medtask.engines.hf.load:load_hf", "fake": "medtask.engines.fake:load_fake"})

# What the reference of a model begins with, where that names its engine. Everything else is for `hf`.
_SCHEMES = MappingProxyType({"fake:": "fake"})
_UNKNOWN_SCHEMES = ("ollama:", "vllm:", "mlx:", "http:", "https:")

DEFAULT_MODEL = "smollm2-135m"


def load_model(reference: str = DEFAULT_MODEL, **options: Any) -> Engine:
    """Load the model that a reference names and see that it works.

    ``reference``: ``smollm2-135m`` (built in), ``org/name[@revision]`` of the Hub, a folder (a model or a PEFT adapter),
    a ``.gguf`` file, or ``fake:`` (no model: for tests). ``options`` for models of transformers: ``dtype`` ("auto",
    "float32", "bfloat16", "float16"), ``device`` ("auto", "cpu", "cuda", "mps"), ``quantize`` ("4bit", "8bit"; CUDA
    only), ``memory`` (bytes that may be used), ``adapter`` (a PEFT folder).

    Raises ModelNotFound, MissingExtra, TooBig, EngineError or UsageError; each says what to do.
    """
    scheme = next((scheme for scheme in (*_SCHEMES, *_UNKNOWN_SCHEMES) if reference.startswith(scheme)), None)
    if scheme in _UNKNOWN_SCHEMES:
        raise UsageError(
            f"this version of medtask has no engine for {scheme} references",
            fix="name a model of the Hub (org/name), a folder or a .gguf file: the hf engine runs it on this machine",
        )
    module, _, name = ENGINES[_SCHEMES.get(scheme or "", "hf")].partition(":")
    load: Callable[..., Engine] = getattr(importlib.import_module(module), name)
    return load(reference, **options)

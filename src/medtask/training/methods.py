"""The methods by name; the heavy modules sleep until one is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from medtask.training.recipe import LANGUAGE_METHODS, Method
from medtask.training.training_context import FitFunction

METHODS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(LANGUAGE_METHODS, "medtask.training.language.fit:fit_language"),
        "encoder": "medtask.training.encoder:fit_encoder",
        "linear": "medtask.training.linear:fit_linear",
        "hybrid": "medtask.training.hybrid:fit_hybrid",
    }
)


def load_fit_function(method: Method) -> FitFunction:
    """The function that trains by a method."""
    module, _, name = METHODS[method].partition(":")
    fit: FitFunction = getattr(importlib.import_module(module), name)
    return fit

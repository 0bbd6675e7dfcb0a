"""The methods by name; the heavy modules sleep until one is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from medtask.train.desk import Fit
from medtask.train.recipe import LANGUAGE, Method

METHODS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(LANGUAGE, "medtask.train.language.fit:fit_language"),
        "encoder": "medtask.train.encoder:fit_encoder",
        "linear": "medtask.train.linear:fit_linear",
        "hybrid": "medtask.train.hybrid:fit_hybrid",
    }
)


def find_fit(method: Method) -> Fit:
    """The function that trains by a method."""
    module, _, name = METHODS[method].partition(":")
    fit: Fit = getattr(importlib.import_module(module), name)
    return fit

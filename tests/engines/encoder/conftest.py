from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny models spend their time in handing work to threads."""
    torch = pytest.importorskip("torch", reason="the hf engine is not installed")
    torch.set_num_threads(1)

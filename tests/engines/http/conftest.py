from __future__ import annotations

from collections.abc import Iterator

import pytest

from served import Opener


@pytest.fixture
def open_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """A function that opens an engine on a fault server; see Opener."""
    opener = Opener(monkeypatch)
    yield opener
    opener.close()

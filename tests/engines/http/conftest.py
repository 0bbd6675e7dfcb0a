from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.http_engines import EngineOpener


@pytest.fixture
def open_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineOpener]:
    """A function that opens an engine on a fault server; see Opener."""
    opener = EngineOpener(monkeypatch)
    yield opener
    opener.close()

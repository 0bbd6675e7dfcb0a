"""A server and a browser for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from support.live_server import Browser, LiveServer, run_browser, run_live_server


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on a port, with an empty SQLite database and without a worker."""
    with run_live_server(tmp_path_factory.mktemp("server") / "data", workers=0) as server:
        yield server


@pytest.fixture(scope="module")
def browser_of_module(live_server: LiveServer) -> Iterator[Browser]:
    """A browser; use ``browser``, which checks what the pages have done."""
    with run_browser(live_server) as browser:
        yield browser


@pytest.fixture
def browser(browser_of_module: Browser) -> Iterator[Browser]:
    """A browser; the test fails if a page has logged an error or asked another host."""
    browser_of_module.faults.clear()
    yield browser_of_module
    for context in browser_of_module.chromium.contexts:
        context.close()
    assert browser_of_module.faults == []

"""A server that listens on a port of this machine, and a real browser for its pages."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI

from medtask.server.access import accounts
from medtask.server.access.guard import get_cookie_name
from medtask.server.access.roles import Role
from medtask.server.app import create_app
from medtask.server.database.connect import Database
from medtask.server.settings import ServerSettings
from support.browser import CHROMIUM
from support.server import open_fast_database

DESKTOP, PHONE = (1280, 900), (390, 844)


@dataclass
class LiveServer:
    """A running server.

    Attributes:
        address: Its URL without a path.
    """

    app: FastAPI
    settings: ServerSettings
    database: Database
    address: str

    def sign_in(self, role: Role, name: str = "") -> dict[str, Any]:
        """The cookie of a browser that is signed in with a role."""
        chosen = name or f"{role.label} of the tests"
        with self.database.write() as session:
            account = accounts.find_account(session, chosen)
            if account is None:
                account = accounts.create_account(session, chosen, role)
            token = accounts.sign_in(session, account, 1)
        return {"name": get_cookie_name(self.settings), "value": token, "url": self.address}


@contextlib.contextmanager
def run_live_server(folder: Path, database_url: str = "", **settings: Any) -> Iterator[LiveServer]:
    """Serve an application on a free port until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        chosen = ServerSettings(
            data_folder=folder, database_url=database_url, port=port, **settings
        )
        database = open_fast_database(chosen)
        app = create_app(chosen, database)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.02)
            yield LiveServer(app, chosen, database, f"http://127.0.0.1:{port}")
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            database.close()


@dataclass
class Browser:
    """A Chromium for one server, which records everything that a page must not do.

    Attributes:
        faults: Errors on the console, violations of the content security policy, responses with a
            status of 500 or more, and requests to other hosts.
    """

    chromium: Any
    server: LiveServer
    faults: list[str] = field(default_factory=list)

    def open(
        self,
        path: str,
        role: Role = Role.ADMIN,
        *,
        size: tuple[int, int] = DESKTOP,
        dark: bool = False,
        name: str = "",
    ) -> Any:
        """Open a page of the server in a new profile, signed in with a role."""
        context = self.chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        context.add_cookies([self.server.sign_in(role, name)])
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("request", self._note_request)
        page.on("response", self._note_response)
        page.goto(self.server.address + path)
        return page

    def _note_message(self, message: Any) -> None:
        # Chromium also logs refused requests, which tests provoke; scripts show them to the user.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(f"console: {message.text}")

    def _note_request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.server.address).netloc:
            self.faults.append(f"request to another host: {request.url}")

    def _note_response(self, response: Any) -> None:
        if response.status >= 500:
            self.faults.append(f"status {response.status}: {response.url}")


@contextlib.contextmanager
def run_browser(server: LiveServer) -> Iterator[Browser]:
    """Run a headless Chromium until the block ends."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            yield Browser(chromium, server)
        finally:
            chromium.close()

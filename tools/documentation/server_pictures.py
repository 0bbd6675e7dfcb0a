"""Write the pictures of the server's pages that the documentation shows.

    make server-pictures

Starts `medtask serve` on the example of `make serve`, creates the first account with the link that
it prints, and visits the pages. Needs Chromium, playwright and pillow.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from documentation.pictures import find_chromium, write_small_picture

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 1100, 720  # pixels of the browser's window
TIMEOUT_MS = 180_000
PASSPHRASE = secrets.token_urlsafe()
TEXT = "Sudden left facial droop and arm weakness since this morning, now resolved. TIA?"


@contextmanager
def run_example_server(data: Path) -> Iterator[str]:
    """Serve the example; yields the link that creates the first account."""
    script = str(ROOT / "examples" / "prepare_server.py")
    subprocess.run([sys.executable, script, str(data)], check=True)
    command = [sys.executable, "-m", "medtask", "serve", "--data", str(data), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(
                match[0]
                for line in process.stdout
                if (match := re.search(r"http://\S+/\S+", line)) and match[0].count("/") > 3
            )
        finally:
            process.terminate()


def write_pictures(link: str) -> None:
    """Sign in as the first administrator, and take the pictures."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium())
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(link)
        page.fill("#name", "anna")
        page.fill("#password", PASSPHRASE)
        page.fill("#repeated", PASSPHRASE)
        page.click("form button")
        origin = "/".join(link.split("/")[:3])
        show_start(page, origin)
        for name in ("run", "model"):
            page.goto(f"{origin}/{name}s/1", wait_until="networkidle")
            write_picture(page, f"server_{name}.png")
        show_review(page, origin)
        browser.close()


def show_start(page: Any, origin: str) -> None:
    """The start page with the answer to a text."""
    page.goto(origin)
    page.fill("#column-1", TEXT)
    page.click("#question button")
    page.locator("#answer .bar, #answer svg, #answer table").first.wait_for()
    write_picture(page, "server_start.png")


def show_review(page: Any, origin: str) -> None:
    """A review of the run, and the page for reading."""
    page.goto(f"{origin}/reviews")
    page.select_option("#order", "table")
    page.click("text=Create the review")
    page.locator("a[href='/reviews/1']").first.click()
    page.locator("#review:not(.is-empty)").wait_for()
    write_picture(page, "server_review.png")


def write_picture(page: Any, name: str) -> None:
    """A small PNG of what the window shows."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / name
        page.screenshot(path=shot)
        write_small_picture(shot, ROOT / "docs" / "assets" / name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work, run_example_server(Path(work) / "data") as address:
        write_pictures(address)

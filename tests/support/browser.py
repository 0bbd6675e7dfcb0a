"""A real browser for pages that are looked at, and a frame as wide as a phone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# The same engine without a window needs a third of the processor time.
_COMMANDS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _COMMANDS)), None)
CHROMIUM_FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
    ),
)
# A page of ours, without the report's policy, that measures the report in a frame as wide as a
# phone.
PHONE_PAGE = """<!doctype html><iframe id=phone src=REPORT style="width:390px;height:900px;border:0"></iframe><p id=found></p><script>
phone.onload = () => {
  for (const one of phone.contentDocument.querySelectorAll("details")) one.open = true
  const page = phone.contentDocument, out = [...page.querySelectorAll("body *")].filter(one => !one.closest(".scroll, title")
    && one.getBoundingClientRect().right > 391).map(one => one.tagName + "." + one.className)
  const sizes = [...page.querySelectorAll("svg text")].map(one => one.getBoundingClientRect().height)
  found.textContent = `width ${page.documentElement.scrollWidth} out ${out.length} ${out.slice(0, 5)} text ${Math.min(...sizes)}`
}</script>"""  # noqa: E501 - data as it is read


def open_in_chromium(address: str, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM
    command = [CHROMIUM, *CHROMIUM_FLAGS, f"--user-data-dir={profile}", *flags, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

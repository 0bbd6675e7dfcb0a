"""Pictures of pages: the browser that takes them, and their small files."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

COLORS = 48


def find_chromium() -> str:
    """The path of Chromium or Chrome."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        sys.exit("Chromium is not installed: install it, for example with `apt install chromium`")
    return found


def write_small_picture(source: Path, target: Path) -> None:
    """Write a PNG with few colours, which is small."""
    from PIL import Image

    with Image.open(source) as image:
        image.convert("RGB").quantize(COLORS).save(target, optimize=True)

"""Build the documentation: docs/ and the generated pages become build/docs.

    python tools/documentation/build.py

A broken link, an unknown anchor, or a page that would load something from another host is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "build" / "docs-source"
SITE = ROOT / "build" / "docs"
_REMOTE_SHIM = "https://unpkg.com/iframe-worker/shim"
_LOCAL_SHIM = "assets/vendor/iframe-worker.js"

# What a browser loads by itself. Links that a reader follows may lead elsewhere.
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^\s>"']+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon))"""
    r"""[^>]*\bhref=["']?(?:https?:)?//[^\s>"']+"""
    r"""|(?:@import|url\()\s*["']?(?:https?:)?//[^\s)"']+"""
)

_FILE = re.compile(
    r"^(?P<indent> *)<!-- file: (?P<name>\S+) -->\n *```(?P<language>\w*)$", re.MULTILINE
)


def write_source() -> None:
    """Write all pages as Markdown."""
    from documentation.example_tables import write_example_tables
    from documentation.generated_pages import write_generated_pages

    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE)
    for path, text in write_generated_pages().items():
        file = SOURCE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    for page in SOURCE.rglob("*.md"):
        page.write_text(name_files(page.read_text("utf-8")), "utf-8")
    write_example_tables(SOURCE / "assets" / "data")


def name_files(text: str) -> str:
    """Show the name of a file above its block, which is a comment in the Markdown."""
    return _FILE.sub(r'\g<indent>```\g<language> title="\g<name>"', text)


def build_site() -> None:
    """Build the site from `SOURCE`, and check what it loads."""
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    finished = subprocess.run(command, cwd=ROOT, check=False)
    if finished.returncode:
        sys.exit("the documentation has faults: see above")
    use_local_shim(SITE)
    if found := list(find_loaded_urls(SITE)):
        sys.exit("the site would load from other hosts:\n" + "\n".join(found[:20]))


def use_local_shim(site: Path) -> None:
    """Load the script that makes search work from files from the site, not from another host."""
    for page in site.rglob("*.html"):
        depth = len(page.relative_to(site).parts) - 1
        text = page.read_text("utf-8")
        page.write_text(text.replace(_REMOTE_SHIM, "../" * depth + _LOCAL_SHIM), "utf-8")


def find_loaded_urls(site: Path) -> Iterator[str]:
    """What the pages and style sheets of a site load from other hosts."""
    for path in sorted(site.rglob("*")):
        if path.suffix in {".html", ".css"}:
            for match in _LOADED.finditer(path.read_text("utf-8")):
                yield f"{path.relative_to(site)}: {match[0][:120]}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tools"))
    write_source()
    build_site()

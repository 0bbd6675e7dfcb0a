"""Pages of the site that are files of the project outside of docs/."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]

# File of the project -> page of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "explanation/security.md",
    **{
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "benchmarks").glob("*.md"))
    },
    **{
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "benchmarks").glob("*.svg"))
    },
}

_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s]+)\)")


def read_project_pages() -> dict[str, str]:
    """The pages by their paths, with links that lead to pages of the site."""
    return {
        page: rewrite_links((ROOT / file).read_text("utf-8"), file, page)
        for file, page in PAGES.items()
    }


def rewrite_links(text: str, file: str, page: str) -> str:
    """Replace links between files of the project by links between pages of the site.

    A link to a file that is not on the site becomes its path.

    Args:
        text: The Markdown of the file.
        file: Its path in the project.
        page: Its path on the site.
    """

    def rewrite(match: re.Match[str]) -> str:
        image, label, link = match.groups()
        target, anchor, fragment = link.partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = os.path.normpath(PurePosixPath(file).parent / target)
        site_path = PAGES.get(path) or (
            path.removeprefix("docs/") if path.startswith("docs/") else None
        )
        if site_path is None:
            return label if label == f"`{path}`" else f"{label} (`{path}`)"
        relative = os.path.relpath(site_path, PurePosixPath(page).parent)
        return f"{image}[{label}]({PurePosixPath(relative)}{anchor}{fragment})"

    return _LINK.sub(rewrite, text)

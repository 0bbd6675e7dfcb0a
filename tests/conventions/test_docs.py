"""What the documents say about the code is true: the verbs in the README, the modules in
docs/architecture.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medtask.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def read_tree(text: str) -> dict[str, str]:
    """Path under src/medtask -> phrase, from the code block whose first line is `src/medtask/`.

    One name a line, folders by indentation and a closing slash, two or more spaces before the
    phrase.
    """
    block = re.search(r"^src/medtask/\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert block, "docs/architecture.md has no code block that begins with src/medtask/"
    phrases: dict[str, str] = {}
    folders: list[tuple[int, str]] = []
    for line in block[1].splitlines():
        found = re.fullmatch(r"( +)([\w.]+/?)(?: {2,}(\S.*))?", line)
        assert found, f"this line of the tree is not understood: {line!r}"
        indent, name, phrase = len(found[1]), found[2], found[3] or ""
        while folders and folders[-1][0] >= indent:
            folders.pop()
        if name.endswith("/"):
            folders.append((indent, name))
        phrases[
            "".join(folder for _, folder in folders) + (name if not name.endswith("/") else "")
        ] = phrase
    return phrases


@pytest.mark.parametrize("verb", COMMANDS, ids=lambda verb: verb.__name__)
def test_a_command_has_a_help_text(verb: object) -> None:
    first = (verb.__doc__ or "").strip().partition("\n")[0]
    assert first.endswith(".")


@pytest.mark.skipif(
    "| `medtask " not in README.read_text("utf-8"), reason="the README has no table of verbs"
)
@pytest.mark.parametrize("verb", COMMANDS, ids=lambda verb: verb.__name__)
def test_a_command_is_in_the_readme(verb: object) -> None:
    assert f"| `medtask {verb.__name__}" in README.read_text("utf-8")  # type: ignore[attr-defined]


def test_every_page_is_linked_in_the_readme() -> None:
    text = README.read_text("utf-8")
    folders = ("tutorials", "how-to", "reference", "explanation")
    pages = (page for folder in folders for page in (ROOT / "docs" / folder).glob("*.md"))
    assert not [page.name for page in pages if f"({page.relative_to(ROOT)})" not in text]


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="there is no docs/architecture.md")
def test_the_tree_of_the_architecture_has_a_phrase_for_every_module_and_folder() -> None:
    phrases = read_tree(ARCHITECTURE.read_text("utf-8"))
    source = ROOT / "src" / "medtask"
    modules = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if path.read_text("utf-8").strip()
    }
    named = {path for path in phrases if path.endswith(".py")}
    assert named == modules
    assert not [path for path, phrase in phrases.items() if phrase in ("", "TODO")]

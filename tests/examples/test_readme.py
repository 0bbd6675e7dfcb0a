"""The page of the examples names all of them."""

from __future__ import annotations

from support.example_files import EXAMPLE_NAMES, EXAMPLES


def test_every_example_is_on_the_page_of_the_examples() -> None:
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert not [name for name in EXAMPLE_NAMES if f"({name})" not in page]

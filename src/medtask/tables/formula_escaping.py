"""Text in files for people must not run as a formula when a spreadsheet opens them (OWASP, CSV
injection).
"""

from __future__ import annotations

import re

# Apostrophes before the character count too: otherwise "'=1" and a guarded "=1" would be the same
# text.
_FORMULA_START = re.compile("'*[=+\\-@\t\r\0]")
_FORMULA_CHARACTERS = frozenset("=+-@\t\r\0'")


def escape_formula(text: str) -> str:
    """The text, with an apostrophe before it where a spreadsheet could take it for a formula."""
    return (
        f"'{text}"
        if text and text[0] in _FORMULA_CHARACTERS and _FORMULA_START.match(text)
        else text
    )


def unescape_formula(text: str) -> str:
    """What ``guard`` was given."""
    return text[1:] if text.startswith("'") and _FORMULA_START.match(text) else text

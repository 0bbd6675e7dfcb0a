"""Text in files for people must not run as a formula when a spreadsheet opens them (OWASP, CSV
injection).
"""

from __future__ import annotations

import re

# Apostrophes before the character count too: otherwise "'=1" and a guarded "=1" would be the same
# text.
_FORMULA = re.compile("'*[=+\\-@\t\r\0]")
_FIRST = frozenset("=+-@\t\r\0'")


def guard(text: str) -> str:
    """The text, with an apostrophe before it where a spreadsheet could take it for a formula."""
    return f"'{text}" if text and text[0] in _FIRST and _FORMULA.match(text) else text


def unguard(text: str) -> str:
    """What ``guard`` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text

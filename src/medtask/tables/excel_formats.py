"""Numbers of a sheet that are shown with leading zeros or fixed letters: 00123, P-0123.

The reader of workbooks returns their values, 123, without the format. Ids are what is shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Literal text is quoted, or one character after a backslash; these need neither.
_LITERAL = re.compile(r'"([^"]*)"|\\(.)|([- ()])')
_ZEROS = re.compile(r"0+")
_MAX_CODE_LENGTH = 255  # Excel's limit


@dataclass(frozen=True, slots=True)
class ZeroFormat:
    """A number format of literal text and zeros.

    Attributes:
        parts: Literal texts and runs of zeros, in order.
    """

    parts: tuple[str, ...]

    def apply(self, number: int) -> str:
        """The number as it is shown: digits fill the zeros from the right."""
        width = sum(len(part) for part in self.parts if _ZEROS.fullmatch(part))
        digits = f"{abs(number):0{width}}"
        extra = len(digits) - width
        shown, position = "", 0
        for part in self.parts:
            if _ZEROS.fullmatch(part):
                size = len(part) + (extra if position == 0 else 0)
                shown += digits[position : position + size]
                position += size
            else:
                shown += part
        return f"-{shown}" if number < 0 else shown


def parse_zero_format(code: str) -> ZeroFormat | None:
    """The format of such a code: 00000, "P-"0000, 000\\-000; None for all others."""
    if len(code) > _MAX_CODE_LENGTH:
        return None
    code = re.sub(r"^\[\$[^\]]*\]", "", code.split(";")[0])
    parts: list[str] = []
    position = 0
    while position < len(code):
        if zeros := _ZEROS.match(code, position):
            parts.append(zeros[0])
            position = zeros.end()
        elif literal := _LITERAL.match(code, position):
            # A literal zero would be taken for a digit.
            text = literal[1] or literal[2] or literal[3] or ""
            if _ZEROS.search(text):
                return None
            parts.append(text)
            position = literal.end()
        else:
            return None
    zeros_and_text = [part for part in parts if part]
    width = sum(len(part) for part in zeros_and_text if _ZEROS.fullmatch(part))
    # 0 "mg" is a quantity with its unit, not an id.
    is_id = width > 1 or (width == 1 and not _ZEROS.fullmatch(zeros_and_text[0]))
    return ZeroFormat(tuple(zeros_and_text)) if is_id else None

"""The tags around a record in a prompt, which the record itself cannot contain.

Without them, a record with a line such as "Text: ..." could imitate the end of its own text. The
tags depend on the instructions of the prompt, not on the time: the same task and table give the
same prompts, so runs can be resumed and repeated. They need not be secret, because a tag in a
record is rewritten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from itertools import permutations

FENCED_VERSION = 2  # the first version of prompts with tags

# Two letters are one or two tokens of usual vocabularies. These letters form no word, no common
# abbreviation and no HTML tag.
_LETTERS = "fgjkqvwxz"
_NAMES = tuple(map("".join, permutations(_LETTERS, 2)))
# A tag of any prompt.
FENCE_TAG = re.compile(
    rf"<\s{{0,5}}/?\s{{0,5}}[{_LETTERS}]{{2}}\s{{0,5}}/?\s{{0,5}}>", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Fence:
    """A pair of tags, such as ``<kq>`` and ``</kq>``."""

    name: str

    @property
    def start(self) -> str:
        return f"<{self.name}>"

    @property
    def end(self) -> str:
        return f"</{self.name}>"

    def describe(self, part: str) -> str:
        """The sentence of a prompt about the tags around a part of the record."""
        # "Follow no instruction in it" makes small models follow more of them: see
        # benchmarks/injection.md.
        return f"The {part} is between {self.start} and {self.end}."

    def enclose(self, text: str) -> str:
        """The text between the tags. A tag in the text loses its angle brackets."""
        if "<" in text:
            # Possessive: a text of "<" and a million blanks is searched once.
            tag = re.compile(rf"<(\s*+/?+\s*+{self.name}\s*+/?+\s*+)>", re.IGNORECASE)
            text = tag.sub(r"(\1)", text)
        return f"{self.start} {text} {self.end}"


def choose_fence(instructions: str) -> Fence:
    """The tags for a prompt with these instructions."""
    number = int.from_bytes(blake2b(instructions.encode(), digest_size=8).digest())
    return Fence(_NAMES[number % len(_NAMES)])

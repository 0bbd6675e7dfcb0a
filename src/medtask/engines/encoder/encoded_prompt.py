"""The tokens that an encoder reads for one prompt."""

from __future__ import annotations

from dataclasses import dataclass

from medtask.records import Prompt


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as encoder input.

    Attributes:
        prompt: The prompt.
        tokens: The tokens of the prompt's text.
        max_candidate_tokens: Tokens of the longest description that the text is compared with, 0
            for none.
    """

    prompt: Prompt
    tokens: list[int]
    max_candidate_tokens: int = 0

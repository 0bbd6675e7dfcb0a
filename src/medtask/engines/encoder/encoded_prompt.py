"""The tokens that an encoder reads for one prompt."""

from __future__ import annotations

from dataclasses import dataclass

from medtask.records import Prompt


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """``tokens``: of the prompt's text. ``max_candidate_tokens``: tokens of the longest text
    that is compared with it, 0 for none.
    """

    prompt: Prompt
    tokens: list[int]
    max_candidate_tokens: int = 0

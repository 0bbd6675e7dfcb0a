"""What an encoder has to read for one prompt."""

from __future__ import annotations

from dataclasses import dataclass

from medtask.records import Prompt


@dataclass(frozen=True, slots=True)
class Reading:
    """``tokens``: of the prompt's text. ``longest_candidate``: tokens of the longest text that is
    compared with it, 0 for none.
    """

    prompt: Prompt
    tokens: list[int]
    longest_candidate: int = 0

"""Texts that a model reads as the structure of a chat, which a record must not contain.

They are of three kinds: tokens that were added to the vocabulary, whether the tokenizer calls them
special or not (DeepSeek's ``<｜User｜>`` is an ordinary added token); the fixed texts that the chat
template writes around messages (``[INST]``, ``### Response:``), which are read as several tokens;
and the tokens of common model families, for servers whose tokenizer is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Control tokens in the chat templates of common model families.
COMMON_MARKER = (
    r"<\|[^<>|\s]{1,40}\|?>|<[^<>|\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
    r"|<unused\d+>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|THINK)\]"
    r"|<</?SYS>>|</?think>|</?seed:\w{1,40}>|<\uff5c[^<>]{1,40}\uff5c>"
    # EXAONE, ChatGLM, MiniMax, Ling; the tokens of T5, Baichuan and Nemotron; calls of tools.
    r"|\[\|[^\[\]|\s]{1,40}\|\]|\[gMASK\]|<[se]op>|\]~!?b[\[\]]|\[e~\["
    r"|<(?:beginning|end)_of_(?:sentence|utterance)>|</?tool_(?:call|response)>"
    r"|<role>(?:SYSTEM|HUMAN|ASSISTANT|OBSERVATION)</role>|<(?:extra_id|reserved|SPECIAL)_\d+>"
)
_MAX_LENGTH = 40  # characters; longer fixed texts of a template are sentences, such as a greeting
_BRACKETS = frozenset("<>[]{}#|")


@dataclass(frozen=True, slots=True)
class Markers:
    """The texts that are broken up in records.

    Attributes:
        pattern: Matches each of them.
    """

    pattern: re.Pattern[str]

    def escape(self, text: str) -> str:
        """The text with a space after the first character of every marker."""
        return self.pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def compile_markers(
    added_tokens: Iterable[str] = (), template_texts: Iterable[str] = ()
) -> Markers:
    """The markers of a model.

    Args:
        added_tokens: The tokens that were added to the vocabulary. Those without a letter, such as
            runs of blanks, and plain words are left out.
        template_texts: What the chat template writes around messages.
    """
    tokens = {token for token in added_tokens if _is_marker_token(token)}
    words = {word for text in template_texts for word in _split_template_text(text, tokens)}
    by_length = sorted(tokens | words, key=lambda marker: (-len(marker), marker))
    # Without regard to case: a tokenizer may normalise a text before it looks for its tokens.
    own = "|".join(
        f"(?i:{re.escape(marker)})" if marker in tokens else rf"(?<!\w){re.escape(marker)}"
        for marker in by_length
    )
    return Markers(re.compile(f"{own}|{COMMON_MARKER}" if own else COMMON_MARKER))


def _is_marker_token(token: str) -> bool:
    return len(token) > 1 and any(map(str.isalpha, token)) and not token.strip().isalnum()


def _split_template_text(text: str, tokens: Iterable[str]) -> Iterable[str]:
    """The parts of a template's text that are recognisable as structure."""
    for token in tokens:
        text = text.replace(token, "\n")
    for line in re.split(r"\s{2,}|\n", text):
        part = line.strip()
        if not any(map(str.isalpha, part)) or len(part) > _MAX_LENGTH:
            continue
        if part.endswith(":") or not _BRACKETS.isdisjoint(part):
            yield part


COMMON_MARKERS = compile_markers()

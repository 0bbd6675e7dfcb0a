"""A chat template as the fixed texts around each message, for systems with other templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medtask.engines.tokens.chat_format import apply_chat_template
from medtask.engines.tokens.tokenizer import Tokenizer
from medtask.records import Message

_FIRST, _SECOND, _THIRD = "\u2042 first \u2042", "\u2042 second \u2042", "\u2042 third \u2042"
_USER, _ANSWER, _SYSTEM = (
    Message("user", _FIRST),
    Message("assistant", _SECOND),
    Message("system", _THIRD),
)


@dataclass(frozen=True, slots=True)
class ChatParts:
    """The texts around messages.

    Attributes:
        default_system: What a chat without a system message begins with.
        around: The text before and after a message, by its role: user, assistant, and system if
            the model has such messages.
        prompt_end: What follows the last message, before the model's answer.
    """

    default_system: str
    around: Mapping[str, tuple[str, str]]
    prompt_end: str

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a chat before the model's answer."""
        turns = (
            self.around[turn.role][0] + turn.content + self.around[turn.role][1]
            for turn in messages
        )
        start = "" if messages[0].role == "system" else self.default_system
        return start + "".join(turns) + self.prompt_end


def find_chat_parts(tokenizer: Tokenizer) -> ChatParts | None:
    """The fixed texts of a tokenizer's chat template.

    Returns:
        The parts; None if the template is not made of fixed texts around its messages.
    """
    try:
        whole = _render(tokenizer, _USER, _ANSWER, _USER)
        end = _split(_render(tokenizer, _USER), _FIRST)[1]
        closed = apply_chat_template(tokenizer, [_USER], add_generation_prompt=False)
        prompt_end = end.removeprefix(_split(closed, _FIRST)[1])
        head, between, rest = _split(whole, _FIRST, _SECOND)
        after_answer = _split(rest, _FIRST)[0]
    except Exception:
        return None  # templates may raise anything
    # What is common to the beginning and the middle of a chat belongs to the user's message.
    user_before = _find_common_end(head, after_answer)
    user_after = end.removesuffix(prompt_end)
    around = {
        "user": (user_before, user_after),
        "assistant": (between.removeprefix(user_after), after_answer.removesuffix(user_before)),
    }
    try:
        before, after, _ = _split(_render(tokenizer, _SYSTEM, _USER), _THIRD, _FIRST)
        around["system"] = (before, after.removesuffix(user_before))
    except Exception:  # noqa: S110 - models without system messages
        pass
    parts = ChatParts(head.removesuffix(user_before), around, prompt_end)
    chats = [(_USER,), (_USER, _ANSWER, _USER)]
    if "system" in around:
        chats += [(_SYSTEM, *chat) for chat in chats]
    is_equal = all(parts.render(chat) == _render(tokenizer, *chat) for chat in chats)
    return parts if is_equal else None


def _render(tokenizer: Tokenizer, *messages: Message) -> str:
    return apply_chat_template(tokenizer, messages, add_generation_prompt=True)


def _split(text: str, *marks: str) -> list[str]:
    """The texts before, between and after the first occurrences of ``marks``."""
    found = []
    for mark in marks:
        before, mark_found, text = text.partition(mark)
        if not mark_found:
            raise ValueError(mark)
        found.append(before)
    return [*found, text]


def _find_common_end(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-length - 1] == second[-length - 1]:
        length += 1
    return first[len(first) - length :]

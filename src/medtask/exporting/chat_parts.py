"""A chat template as the fixed texts around each message, for systems with other templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medtask.engines.tokens.tokenizer import Tokenizer

_FIRST, _SECOND, _THIRD = "\u2042 first \u2042", "\u2042 second \u2042", "\u2042 third \u2042"


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

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a chat before the model's answer."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        turns = (
            self.around[turn["role"]][0] + turn["content"] + self.around[turn["role"]][1]
            for turn in messages
        )
        return ("" if has_system else self.default_system) + "".join(turns) + self.prompt_end


def find_chat_parts(tokenizer: Tokenizer) -> ChatParts | None:
    """The fixed texts of a tokenizer's chat template.

    Returns:
        The parts; None if the template is not made of fixed texts around its messages.
    """

    user, answer = ("user", _FIRST), ("assistant", _SECOND)
    try:
        whole = _apply(tokenizer, user, answer, user)
        end = _split(_apply(tokenizer, user), _FIRST)[1]
        prompt_end = end.removeprefix(
            _split(_apply(tokenizer, user, add_generation_prompt=False), _FIRST)[1]
        )
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
        before, after, _ = _split(_apply(tokenizer, ("system", _THIRD), user), _THIRD, _FIRST)
        around["system"] = (before, after.removesuffix(user_before))
    except Exception:  # noqa: S110 - models without system messages
        pass
    parts = ChatParts(head.removesuffix(user_before), around, prompt_end)
    return parts if all(_renders(parts, tokenizer, chat) for chat in _list_chats(parts)) else None


def _list_chats(parts: ChatParts) -> list[list[tuple[str, str]]]:
    user, answer = ("user", _FIRST), ("assistant", _SECOND)
    chats = [[user], [user, answer, user]]
    return chats + (
        [[("system", _THIRD), *chat] for chat in chats] if "system" in parts.around else []
    )


def _renders(parts: ChatParts, tokenizer: Tokenizer, chat: Sequence[tuple[str, str]]) -> bool:
    messages = [{"role": role, "content": content} for role, content in chat]
    return parts.render(messages) == _apply(tokenizer, *chat)


def _apply(
    tokenizer: Tokenizer, *turns: tuple[str, str], add_generation_prompt: bool = True
) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, enable_thinking=False
    )


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

"""Builds the chat messages of a prompt and the prefix of the model's turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medtask.engines.tokens.markers import COMMON_MARKERS
from medtask.engines.tokens.thinking import PROMPTED_THINKING
from medtask.records import Branch, Message, Prompt

# Added to the question for servers that do not continue an assistant's turn.
_THOUGHTS_INTRO = "\n\nThis was thought about it before:\n"
_WRITTEN_INTRO = (
    "\n\nThe answer begins as follows. Go on right behind it and repeat nothing of it:\n"
)
_PREFIX_INTRO = "\n\nAnswer for: "
_THINK_INSTRUCTION = (
    "\n\nDo not answer yet. Reason about it first, step by step and in plain sentences."
)
_CHOICES_INSTRUCTION = "\n\nAnswer with exactly one of these and nothing else:\n"


def build_messages(
    prompt: Prompt, branch: Branch | None, *, can_continue: bool
) -> tuple[tuple[Message, ...], str]:
    """The messages, and the prefix of the assistant's turn ("" without ``can_continue``).

    Thoughts, partial response and a branch's prefix are put into the assistant's turn if the server
    can continue one, as with local engines; otherwise they are appended to the question as text.
    """
    messages = _append_text(prompt.messages, branch.ask if branch else "")
    thoughts = None if prompt.thoughts is None else COMMON_MARKERS.escape(prompt.thoughts)
    written = COMMON_MARKERS.escape(prompt.partial_response)
    prefix = COMMON_MARKERS.escape(branch.prefix) if branch else ""
    if can_continue:
        opening = ""
        if thoughts is not None:
            opening = PROMPTED_THINKING.start_text + thoughts + PROMPTED_THINKING.end_text
        return messages, opening + written + prefix
    continuation = "" if thoughts is None else _THOUGHTS_INTRO + thoughts
    if written:
        continuation += _WRITTEN_INTRO + written
    if prefix:
        continuation += _PREFIX_INTRO + prefix.strip().removesuffix(":")
    return _append_text(messages, continuation, escaped=True), ""


def build_thinking_messages(
    prompt: Prompt, *, can_continue: bool, native: bool
) -> tuple[tuple[Message, ...], str]:
    """The messages that request thoughts: natively, or by an instruction to think aloud."""
    # The options of a multiple-choice question are part of its first branch's ``ask``.
    messages = _append_text(prompt.messages, prompt.branches[0].ask if prompt.branches else "")
    if native:
        return messages, ""
    return (
        (messages, PROMPTED_THINKING.start_text)
        if can_continue
        else (_append_text(messages, _THINK_INSTRUCTION, escaped=True), "")
    )


def list_choices(messages: Sequence[Message], choices: Sequence[str]) -> tuple[Message, ...]:
    """The messages with all choices listed at the end, for a second attempt."""
    return _append_text(messages, _CHOICES_INSTRUCTION + "\n".join(choices), escaped=True)


def _append_text(
    turns: Sequence[Message], text: str, *, escaped: bool = False
) -> tuple[Message, ...]:
    """Append ``text`` to the last message, with control tokens broken up unless ``escaped``."""
    messages = list(turns)
    if not escaped:
        text = COMMON_MARKERS.escape(text)
        messages = [Message(one.role, COMMON_MARKERS.escape(one.content)) for one in turns]
    last = messages.pop()
    return (*messages, replace(last, content=last.content + text))

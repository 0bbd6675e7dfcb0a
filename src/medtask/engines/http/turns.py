"""A prompt as the turns of a chat, with what the model's own turn already holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medtask.engines.http.server import defuse
from medtask.engines.tokens.thinking import ALOUD
from medtask.records import Branch, Message, Prompt

# For servers that do not go on with an assistant's turn, in words at the end of the question.
_THOUGHT = "\n\nThis was thought about it before:\n"
_WRITTEN = "\n\nThe answer begins as follows. Go on right behind it and repeat nothing of it:\n"
_ABOUT = "\n\nAnswer for: "
_THINK = "\n\nDo not answer yet. Reason about it first, step by step and in plain sentences."
_ONE_OF = "\n\nAnswer with exactly one of these and nothing else:\n"


def write_turns(
    prompt: Prompt, branch: Branch | None, *, goes_on: bool
) -> tuple[tuple[Message, ...], str]:
    """The turns, and what the assistant's turn begins with ("" where the server cannot go on with
    one).

    Thoughts, what is written so far and a branch's lead stand in the assistant's turn where the
    server goes on with it, as engines in this process have it; elsewhere in words at the end of the
    question.
    """
    turns = _add(prompt.messages, branch.ask if branch else "")
    lead = branch.lead if branch else ""
    if goes_on:
        thoughts = (
            "" if prompt.thoughts is None else ALOUD.open + defuse(prompt.thoughts) + ALOUD.close
        )
        return turns, thoughts + defuse(prompt.written) + defuse(lead)
    words = "" if prompt.thoughts is None else _THOUGHT + defuse(prompt.thoughts)
    words += _WRITTEN + defuse(prompt.written) if prompt.written else ""
    words += _ABOUT + defuse(lead).strip().removesuffix(":") if lead else ""
    return _add(turns, words, clean=True), ""


def write_thinking(
    prompt: Prompt, *, goes_on: bool, native: bool
) -> tuple[tuple[Message, ...], str]:
    """The turns that ask for thoughts: by the server's own means, or else aloud."""
    # The options of a choice stand in what its first branch asks: there is nothing to think about
    # without them.
    turns = _add(prompt.messages, prompt.branches[0].ask if prompt.branches else "")
    if native:
        return turns, ""
    return (turns, ALOUD.open) if goes_on else (_add(turns, _THINK, clean=True), "")


def insist(turns: Sequence[Message], choices: Sequence[str]) -> tuple[Message, ...]:
    """The same turns with all that may be answered listed at their end: for a second try where
    nothing holds the server to it.
    """
    return _add(turns, _ONE_OF + "\n".join(choices), clean=True)


def _add(turns: Sequence[Message], text: str, *, clean: bool = False) -> tuple[Message, ...]:
    """The turns, broken up where they look like control tokens (``clean``: they are already), with
    ``text`` at their end.
    """
    done = list(turns) if clean else [Message(turn.role, defuse(turn.content)) for turn in turns]
    return (
        *done[:-1],
        replace(done[-1], content=done[-1].content + (text if clean else defuse(text))),
    )

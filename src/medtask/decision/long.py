"""Records that are too long for the model: read by their two ends, or in overlapping parts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from medtask.decision.asking import Heard, ask
from medtask.decision.decide import conclude, decide
from medtask.decision.shares import combine, weigh
from medtask.engines.base import Engine
from medtask.records import Answer, Fault, Prompt, Record, Status
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Gate, Task

ELLIPSIS = "\n[…]\n"
OVERLAP = 8  # a part shares one eighth of its length with the next
_TRIES = 12
_SHRINK = 0.85

_WORD = re.compile(r"\S+")


def ask_long(task: Task, engine: Engine, record: Record, prompt: Prompt, fault: Fault) -> Answer:
    """Answer a record that the engine found too long, as the task's gate wants it; ``fault`` is
    what the engine said.
    """
    characters = _estimate_room(task, engine, prompt)
    for _ in range(_TRIES if characters else 0):
        texts = list(cut_text(prompt.text, task.gate, characters))
        heard = _ask_parts(task, engine, record, texts)
        if not isinstance(heard, Fault):
            return _conclude(task, record.id, heard, prompt.text, texts)
        if heard.status is not Status.TOO_LONG:
            return decide(task, record.id, heard)
        characters = int(characters * _SHRINK)
    return decide(task, record.id, fault)


def cut_text(text: str, gate: Gate, characters: int) -> Iterator[str]:
    """What is read of a text that may have about so many characters: its ends as one text, or parts
    that overlap.

    Cuts are made between words where there are any.
    """
    if gate.too_long == "head_tail":
        half = max(1, (characters - len(ELLIPSIS)) // 2)
        yield (
            text[: _word_end(text, half)].rstrip()
            + ELLIPSIS
            + text[_word_start(text, len(text) - half) :].lstrip()
        )
        return
    step = max(1, characters - characters // OVERLAP)
    start = 0
    while start < len(text):
        end = (
            len(text)
            if start + characters >= len(text)
            else max(_word_end(text, start + characters), start + 1)
        )
        yield text[start:end].strip()
        if end == len(text):
            return
        start = max(_word_start(text, start + step), start + 1) if start + step < end else end


def _estimate_room(task: Task, engine: Engine, prompt: Prompt) -> int:
    """About how many characters of the text fit beside everything else; 0 where the engine cannot
    tell.
    """
    plan = engine.plan([prompt])
    if plan is None:
        return 0
    tokens = plan.shared + plan.own[0]
    characters = (
        len(prompt.text) if plan.bare else sum(len(turn.content) for turn in prompt.messages) or 1
    )
    reserve = (
        (task.reasoning.budget if task.reasoning else 0)
        + int(getattr(task.form, "max_tokens", 0))
        + int(plan.label)
        + 16
    )
    room = int((plan.limit - reserve) * 0.95 * characters / tokens) - (
        characters - len(prompt.text)
    )
    return max(0, min(room, len(prompt.text) - 1))


def _ask_parts(task: Task, engine: Engine, record: Record, texts: list[str]) -> list[Heard] | Fault:
    """What the engine says of each part, in order; the first fault where there is one."""
    prompts = []
    for number, text in enumerate(texts, 1):
        built = build_prompt(task, record, text)
        if isinstance(built, Fault):
            return built
        prompts.append(replace(built, record_id=f"{record.id}\0{number}"))
    heard = {}
    for said in ask(task, engine, prompts):
        if isinstance(said, Fault):
            return replace(said, record_id=record.id)
        heard[said.prompt.record_id] = said
    return [heard[prompt.record_id] for prompt in prompts]


def _conclude(
    task: Task, record_id: str, heard: list[Heard], text: str, texts: list[str]
) -> Answer:
    if len(heard) == 1:
        words = sum(1 for _ in _WORD.finditer(texts[0])) - 1
        note = (
            f"too long for the model: only its beginning and its end were read, {words:,} of "
            f"{len(text.split()):,} words"
        )
        return decide(task, record_id, heard[0].note(note))
    weighed = [weigh(task, one.prompt, one.scores) if one.scores else None for one in heard]
    whole = [one for one in weighed if one is not None]
    merged = (
        combine(whole, task.gate.combine, exclusive=not task.several)
        if len(whole) == len(weighed)
        else None
    )
    answer = conclude(task, record_id, merged)
    rule = {
        "mean": "the mean of their probabilities",
        "max": "their largest probabilities",
        "vote": "one vote each",
    }[task.gate.combine]
    notes = [
        answer.reason,
        f"too long for the model: read in {len(heard)} overlapping parts, combined by {rule}",
    ]
    thoughts = [one.prompt.thoughts for one in heard if one.prompt.thoughts is not None]
    return replace(
        answer,
        reason="; ".join(
            note
            for note in [*notes, *dict.fromkeys(note for one in heard for note in one.notes)]
            if note
        ),
        thoughts="\n\n".join(thoughts) if thoughts else None,
        ms=sum(one.ms for one in heard),
        tokens_read=sum(one.tokens_read for one in heard),
        tokens_reused=sum(one.tokens_reused for one in heard),
    )


def _word_end(text: str, place: int) -> int:
    """The end of the last whole word before ``place``, unless that is far off."""
    space = text.rfind(" ", max(0, place - 50), place + 1)
    return space if space > 0 else place


def _word_start(text: str, place: int) -> int:
    space = text.find(" ", place, place + 50)
    return space + 1 if space >= 0 else place

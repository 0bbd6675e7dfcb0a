"""From prompts to drafts: what the model reads, what ends its text, what a schema allows, and who
has no room to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from medtask.engines.tokens.chat import Chat, count_shared, write_opening, write_thinking
from medtask.engines.writing.constrain import Schemas
from medtask.engines.writing.draft import Draft, Ends
from medtask.records import Limits, Prompt, Status


def begin_drafts(
    chat: Chat,
    prompts: Sequence[Prompt],
    limits: Limits,
    ends: Ends,
    context_tokens: int,
    schemas: Callable[[], Schemas],
) -> list[Draft]:
    """A draft for each prompt; those that cannot be written bear their fault.

    ``context_tokens``: what the model reads at most, with what it writes. ``schemas`` is called
    where ``limits`` have one.
    """
    texts = [_write_opening(chat, prompt, limits) for prompt in prompts]
    # " A" and "A" are different tokens: the model writes the space itself.
    tokens = chat.tokenizer.encode([text.rstrip(" ") for text in texts])
    drafts = [
        Draft(prompt, own, limits, ends, chat.tokenizer)
        for prompt, own in zip(prompts, tokens, strict=True)
    ]
    for draft in drafts:
        longest = draft.asked + limits.max_tokens
        if longest > context_tokens:
            most = f"the model reads at most {context_tokens:,}"
            draft.fail(
                f"{longest:,} tokens with the {limits.max_tokens:,} that may be written; {most}",
                Status.TOO_LONG,
            )
    if limits.schema is not None and prompts:
        make = schemas().read(limits.schema, space=not chat.template or texts[0].endswith(" "))
        for draft, prompt in zip(drafts, prompts, strict=True):
            if draft.fault is None:
                draft.hold_to(make(prompt.text))
    return drafts


def find_ends(chat: Chat, limits: Limits, named: Iterable[int | None] = ()) -> Ends:
    """What ends a text by itself: the end tokens that the model's settings have ``named``, the
    tokenizer's own, the end of a turn, the stop texts.
    """
    closing = chat.tokenizer.special_ids.intersection(chat.tokenizer.encode([chat.closing])[0])
    tokens = frozenset(
        int(token) for token in {*named, chat.tokenizer.end_id, *closing} if token is not None
    )
    if limits.think:
        return Ends(tokens, (*limits.stop, *chat.thinking.stops), specials=chat.tokenizer.specials)
    # Without a chat template an answer ends with its line (see Chat); a JSON text has no lines.
    return Ends(tokens, limits.stop, line=not closing)


def find_prefix(drafts: Sequence[Draft]) -> tuple[int, ...]:
    """The tokens that all drafts begin with; each keeps at least its last one, which must be read
    to go on.
    """
    shared = min(
        count_shared([tuple(draft.tokens) for draft in drafts]),
        min(draft.asked for draft in drafts) - 1,
    )
    return tuple(drafts[0].tokens[:shared])


def _write_opening(chat: Chat, prompt: Prompt, limits: Limits) -> str:
    if not limits.think:
        return write_opening(chat, prompt)
    # The options of a choice stand in what its first branch asks: there is nothing to think about
    # without them.
    return write_thinking(chat, prompt, prompt.branches[0].ask if prompt.branches else "")

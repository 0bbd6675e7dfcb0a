"""From prompts to drafts: what the model reads, what ends its text, what a schema allows, and who
has no room to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from medtask.engines.decoding.constraints import ConstraintFactory
from medtask.engines.decoding.sequence import DecodingSequence, StopConditions
from medtask.engines.tokens.chat import (
    ChatFormat,
    count_common_prefix,
    render_generation_prompt,
    render_thinking_prompt,
)
from medtask.records import Limits, Prompt, Status


def create_sequences(
    chat: ChatFormat,
    prompts: Sequence[Prompt],
    limits: Limits,
    stop_conditions: StopConditions,
    context_tokens: int,
    get_constraint_factory: Callable[[], ConstraintFactory],
) -> list[DecodingSequence]:
    """A draft for each prompt; those that cannot be written bear their fault.

    ``context_tokens``: what the model reads at most, with what it writes.
    ``get_constraint_factory`` is called where ``limits`` have one.
    """
    texts = [_render_opening(chat, prompt, limits) for prompt in prompts]
    # " A" and "A" are different tokens: the model writes the space itself.
    tokens = chat.tokenizer.encode([text.rstrip(" ") for text in texts])
    seqs = [
        DecodingSequence(prompt, own, limits, stop_conditions, chat.tokenizer)
        for prompt, own in zip(prompts, tokens, strict=True)
    ]
    for seq in seqs:
        needed_tokens = seq.prompt_length + limits.max_tokens
        if needed_tokens > context_tokens:
            limit_text = f"the model reads at most {context_tokens:,}"
            seq.fail(
                f"{needed_tokens:,} tokens with the {limits.max_tokens:,} that may be written; "
                f"{limit_text}",
                Status.TOO_LONG,
            )
    if limits.schema is not None and prompts:
        make_constraint = get_constraint_factory().compile_schema(
            limits.schema, leading_space=not chat.has_template or texts[0].endswith(" ")
        )
        for seq, prompt in zip(seqs, prompts, strict=True):
            if seq.fault is None:
                seq.set_constraint(make_constraint(prompt.text))
    return seqs


def find_stop_conditions(
    chat: ChatFormat, limits: Limits, eos_token_ids: Iterable[int | None] = ()
) -> StopConditions:
    """What ends a text by itself: the end tokens that the model's settings have
    ``eos_token_ids``, the tokenizer's own, the end of a turn, the stop texts.
    """
    turn_end_ids = chat.tokenizer.special_token_ids.intersection(
        chat.tokenizer.encode([chat.turn_end])[0]
    )
    tokens = frozenset(
        int(token)
        for token in {*eos_token_ids, chat.tokenizer.eos_token_id, *turn_end_ids}
        if token is not None
    )
    if limits.think:
        return StopConditions(
            tokens,
            (*limits.stop, *chat.thinking.stop_texts),
            special_tokens=chat.tokenizer.special_tokens,
        )
    # Without a chat template an answer ends with its line (see Chat); a JSON text has no lines.
    return StopConditions(tokens, limits.stop, stop_at_newline=not turn_end_ids)


def find_common_prefix(seqs: Sequence[DecodingSequence]) -> tuple[int, ...]:
    """The tokens that all drafts begin with; each keeps at least its last one, which must be read
    to go on.
    """
    shared = min(
        count_common_prefix([tuple(seq.tokens) for seq in seqs]),
        min(seq.prompt_length for seq in seqs) - 1,
    )
    return tuple(seqs[0].tokens[:shared])


def _render_opening(chat: ChatFormat, prompt: Prompt, limits: Limits) -> str:
    if not limits.think:
        return render_generation_prompt(chat, prompt)
    # The options of a choice stand in what its first branch asks: there is nothing to think about
    # without them.
    return render_thinking_prompt(chat, prompt, prompt.branches[0].ask if prompt.branches else "")

"""Prepares prompts for decoding: input tokens, stop conditions and constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from medtask.engines.decoding.constraints import ConstraintFactory
from medtask.engines.decoding.sequence import DecodingSequence, StopConditions
from medtask.engines.tokens.chat import (
    count_common_prefix,
    render_generation_prompt,
    render_thinking_prompt,
)
from medtask.engines.tokens.chat_format import ChatFormat
from medtask.records import Limits, Prompt, Status


def create_sequences(
    chat: ChatFormat,
    prompts: Sequence[Prompt],
    limits: Limits,
    stop_conditions: StopConditions,
    context_tokens: int,
    get_constraint_factory: Callable[[], ConstraintFactory],
) -> list[DecodingSequence]:
    """Create a sequence for each prompt; a prompt that cannot be continued gets a fault.

    ``context_tokens`` limits a prompt together with its text. ``get_constraint_factory`` is called
    only if ``limits`` have a schema.
    """
    texts = [_render_opening(chat, prompt, limits) for prompt in prompts]
    # " A" and "A" are different tokens: the model generates the space itself.
    tokens = chat.tokenizer.encode([text.rstrip(" ") for text in texts])
    seqs = [
        DecodingSequence(prompt, own, limits, stop_conditions, chat.tokenizer)
        for prompt, own in zip(prompts, tokens, strict=True)
    ]
    for seq in seqs:
        needed_tokens = seq.prompt_length + limits.max_tokens
        if needed_tokens > context_tokens:
            reason = (
                f"{needed_tokens:,} tokens with the {limits.max_tokens:,} that may be written; "
                f"the model reads at most {context_tokens:,}"
            )
            seq.fail(reason, Status.TOO_LONG)
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
    """The conditions that end a text: the ``eos_token_ids`` of the model's settings, the
    tokenizer's own, the end of a turn, and the stop texts.
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
    # Without a chat template an answer ends with its line (see ChatFormat); JSON has no newlines.
    return StopConditions(tokens, limits.stop, stop_at_newline=not turn_end_ids)


def find_common_prefix(seqs: Sequence[DecodingSequence]) -> tuple[int, ...]:
    """The tokens with which all sequences begin, without the last prompt token of any of them: it
    must be read to continue.
    """
    shared = min(
        count_common_prefix([tuple(seq.tokens) for seq in seqs]),
        min(seq.prompt_length for seq in seqs) - 1,
    )
    return tuple(seqs[0].tokens[:shared])


def _render_opening(chat: ChatFormat, prompt: Prompt, limits: Limits) -> str:
    if not limits.think:
        return render_generation_prompt(chat, prompt)
    # The options of a multiple-choice question are in the first branch's ``ask``.
    return render_thinking_prompt(chat, prompt, prompt.branches[0].ask if prompt.branches else "")

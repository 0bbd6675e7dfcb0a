"""The chat format of a model, as its tokenizer and its chat template say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medtask.engines.tokens.chat_template import render_chat_template
from medtask.engines.tokens.markers import Markers, compile_markers
from medtask.engines.tokens.thinking import ThinkingFormat, detect_thinking_format
from medtask.engines.tokens.tokenizer import Tokenizer
from medtask.errors import InputError
from medtask.records import Message

# replaces an answer while a template is analysed; no template treats it specially
_ANSWER_PLACEHOLDER = "\u2042 answer \u2042"
_CANARY = "canary"  # found in the rendered text if the template does not leave it out
_CANARY_FILLER = "a long record " * 500


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The chat format of a model.

    Attributes:
        tokenizer: The tokenizer of the model.
        has_template: False if the tokenizer has no chat template. Turns are then written as plain
            paragraphs, and an answer ends with its line.
        bos_text: Text of the token that the tokenizer adds at the start by default.
        answer_prefix: Text between the prompt and an answer.
        turn_end: Text that ends the turn of an answer.
        thinking: The thinking format of the model.
        markers: The texts that are broken up in a record, so that it cannot end its own turn.
    """

    tokenizer: Tokenizer
    has_template: bool
    bos_text: str
    answer_prefix: str
    turn_end: str
    thinking: ThinkingFormat
    markers: Markers


def detect_chat_format(tokenizer: Tokenizer) -> ChatFormat:
    """Determine the chat format of a tokenizer's model."""
    thinking = detect_thinking_format(tokenizer.name, tokenizer.chat_template, tokenizer.vocabulary)
    markers = compile_markers((*tokenizer.special_tokens, *tokenizer.added_tokens))
    plain = ChatFormat(tokenizer, False, tokenizer.bos_text, "", "\n", thinking, markers)
    if not tokenizer.chat_template:
        return plain
    user_turns = [Message("user", "?")]
    try:
        before = apply_chat_template(tokenizer, user_turns, add_generation_prompt=True)
        full_text = apply_chat_template(
            tokenizer,
            [*user_turns, Message("assistant", _ANSWER_PLACEHOLDER)],
            add_generation_prompt=False,
        )
    except Exception as error:
        raise InputError(
            f"the model's chat template cannot be used ({type(error).__name__})",
            fix="take another model, or repair chat_template in its tokenizer_config.json",
        ) from None
    _check_template(tokenizer)
    head, found, candidate = full_text.partition(_ANSWER_PLACEHOLDER)
    answer_prefix = head.removeprefix(before) if found and head.startswith(before) else ""
    ends = [token for token in tokenizer.special_tokens if candidate.lstrip().startswith(token)]
    turn_end = tokenizer.eos_token or "\n"
    if ends:
        before_end, longest, _ = candidate.partition(max(ends, key=len))
        turn_end = before_end + longest
    return replace(
        plain,
        has_template=True,
        bos_text="",
        answer_prefix=answer_prefix,
        turn_end=turn_end,
        markers=compile_markers(
            (*tokenizer.special_tokens, *tokenizer.added_tokens), _list_template_texts(tokenizer)
        ),
    )


def _list_template_texts(tokenizer: Tokenizer) -> list[str]:
    """What the chat template writes before, between and after messages, if it accepts them."""
    chat = [
        Message("system", _ANSWER_PLACEHOLDER),
        Message("user", _ANSWER_PLACEHOLDER),
        Message("assistant", _ANSWER_PLACEHOLDER),
        Message("user", _ANSWER_PLACEHOLDER),
    ]
    texts = []
    for messages in (chat, chat[1:]):
        try:
            rendered = apply_chat_template(tokenizer, messages, add_generation_prompt=True)
        except Exception:  # noqa: S112 - a template may reject a system message or several turns
            continue
        texts += rendered.split(_ANSWER_PLACEHOLDER)
    return texts


def _check_template(tokenizer: Tokenizer) -> None:
    """Raise InputError for a chat template that leaves out a turn, or a part of it."""
    texts = [f"{_CANARY} {number}: {_CANARY_FILLER} {_CANARY} {number}" for number in range(3)]
    chat = [Message("user", texts[0]), Message("assistant", texts[1]), Message("user", texts[2])]
    for messages in (chat[:1], chat):
        try:
            rendered = apply_chat_template(tokenizer, messages, add_generation_prompt=True)
        except Exception:  # noqa: S112 - a template may reject several turns
            continue
        if any(message.content not in rendered for message in messages):
            raise InputError(
                "the model's chat template leaves out what it is given: the model would answer "
                "without reading the record",
                fix="repair chat_template.jinja, or chat_template in tokenizer_config.json",
            )


def apply_chat_template(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    enable_thinking: bool = False,
) -> str:
    """The text of a chat; with ``add_generation_prompt`` up to where the model's turn begins.

    Raises the errors of `render_chat_template`.
    """
    # Not by transformers, which renders without limits.
    return render_chat_template(
        tokenizer.chat_template,
        {
            **tokenizer.template_tokens,
            "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            # Models that support thinking read one of two switches (Qwen 3 the first, Granite the
            # second); other templates ignore them.
            "enable_thinking": enable_thinking,
            "thinking": enable_thinking,
        },
    )

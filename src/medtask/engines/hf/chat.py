"""Messages to the exact text and tokens that a model reads: its chat template, the border to the answer, its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medtask.engines.base import Rendering
from medtask.engines.hf.search import Node, grow_trie
from medtask.errors import InputError
from medtask.records import Branch, Message

_MARK = "\u2042 answer \u2042"  # stands for an answer while a template is looked at; no template treats it specially


@dataclass(frozen=True, slots=True)
class Chat:
    """How a model is spoken to. ``lead`` stands between the prompt and an answer, ``closing`` ends the answer's turn.

    ``template`` False: the tokenizer has no chat template; turns are written as plain paragraphs and an answer ends
    with its line. ``opening``: text of the token that the tokenizer would put first by itself.
    """

    tokenizer: Any
    template: bool
    opening: str
    lead: str
    closing: str
    specials: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A tokenised prompt. ``base``: all tokens up to the first branching of ``trie``; ``tail_tokens``: see Rendering.

    ``ask``: index into ``base`` of the token after which the answer begins (the place that tells the off-set mass).
    ``first``: the tokens with which an answer of the set can begin. ``longest``: tokens of the longest tail.
    """

    base: tuple[int, ...]
    trie: Node
    ask: int
    first: tuple[int, ...]
    longest: int


@dataclass(frozen=True, slots=True)
class Border:
    """What the end of every prompt of a run has in common: from its last special token on, tokens cannot merge backwards."""

    suffix: str
    stem: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]


def read_chat(tokenizer: Any) -> Chat:
    """Find out how this tokenizer's model is spoken to."""
    specials = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
    specials.update(str(token) for token in tokenizer.all_special_tokens)
    plain = Chat(tokenizer, False, _opening(tokenizer), "", "\n", tuple(sorted(specials, key=len, reverse=True)))
    if not tokenizer.chat_template:
        return plain
    asked = [Message("user", "?")]
    try:
        before = _apply(tokenizer, asked, generate=True)
        whole = _apply(tokenizer, [*asked, Message("assistant", _MARK)], generate=False)
    except Exception as error:
        raise InputError(
            f"the model's chat template cannot be used ({type(error).__name__})",
            fix="take another model, or repair chat_template in its tokenizer_config.json",
        ) from None
    head, found, tail = whole.partition(_MARK)
    lead = head.removeprefix(before) if found and head.startswith(before) else ""
    ends = [token for token in specials if tail.lstrip().startswith(token)]
    closing = tail[: tail.index(max(ends, key=len)) + len(max(ends, key=len))] if ends else str(tokenizer.eos_token or "\n")
    return Chat(tokenizer, True, "", lead, closing, plain.specials)


def write_prompt(chat: Chat, messages: Sequence[Message], branch: Branch) -> tuple[str, tuple[str, ...]]:
    """The text of the prompt up to its answer, and each tail as the text that would continue it."""
    clean = [Message(turn.role, defuse(chat, turn.content)) for turn in messages]
    prompt = _apply(chat.tokenizer, clean, generate=True) if chat.template else chat.opening + _write_plain(clean)
    lead = chat.lead + branch.lead
    # " A" and "A" are different tokens: a tail owns its leading space.
    bare = lead.rstrip(" ")
    space = lead[len(bare) :] if chat.template else " "
    return prompt + bare, tuple(f"{space}{defuse(chat, tail)}{chat.closing}" for tail in branch.tails)


def defuse(chat: Chat, text: str) -> str:
    """Break up whatever the tokenizer would read as one of its special tokens: a record must not end its own turn."""
    for token in chat.specials:
        if len(token) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def render(chat: Chat, messages: Sequence[Message], branch: Branch) -> Rendering:
    """The exact text of prompt and tails with their tokens."""
    prompt, tails = write_prompt(chat, messages, branch)
    base = _tokenise(chat, [prompt])[0]
    wholes = _tokenise(chat, [prompt + tail for tail in tails])
    shared = count_shared([base, *wholes])
    return Rendering(prompt, tails, base[:shared], tuple(whole[shared:] for whole in wholes))


def ask_questions(chat: Chat, asked: Sequence[tuple[Sequence[Message], Branch]]) -> list[Question]:
    """Tokenise prompts with their tails: whole, since a tokenizer may merge across any border that text only looks to have.

    Tokenising every tail behind every prompt would cost more than the model on short rows. It is done once for all
    prompts that end alike behind a special token, because nothing merges across one; others pay the full price.
    """
    written = [write_prompt(chat, messages, branch) for messages, branch in asked]
    tokens = _tokenise(chat, [prompt for prompt, _ in written])
    borders: dict[tuple[str, ...], Border | None] = {}
    tries: dict[tuple[tuple[int, ...], ...], tuple[Node, int]] = {}
    questions = []
    for (prompt, tails), base in zip(written, tokens, strict=True):
        if tails not in borders:
            borders[tails] = _find_border(chat, prompt, base, tails)
        border = borders[tails]
        if border and prompt.endswith(border.suffix) and base[len(base) - len(border.stem) :] == border.stem:
            start, tail_tokens = len(base) - len(border.stem), border.tails
        else:
            wholes = _tokenise(chat, [prompt + tail for tail in tails])
            start = count_shared([base, *wholes])
            tail_tokens = tuple(whole[start:] for whole in wholes)
        stem = count_shared([base[start:], *tail_tokens])
        if tail_tokens not in tries:
            tries[tail_tokens] = grow_trie(tail_tokens, stem), max(map(len, tail_tokens))
        trie, longest = tries[tail_tokens]
        first = tuple(dict.fromkeys(tail[stem] for tail in tail_tokens))
        questions.append(Question((*base[:start], *trie.reads), trie, start + stem - 1, first, longest))
    return questions


def count_shared(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all sequences begin with alike. Between the first and the last in order lie all others."""
    first, last = min(sequences), max(sequences)
    return next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))


def _find_border(chat: Chat, prompt: str, base: tuple[int, ...], tails: Sequence[str]) -> Border | None:
    special = set(chat.tokenizer.all_special_ids) | {i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special}
    cut = next((place + 1 for place in range(len(base) - 1, -1, -1) if base[place] in special), 0)
    if cut == 0:
        return None
    mark = str(chat.tokenizer.convert_ids_to_tokens(base[cut - 1]))
    wholes = _tokenise(chat, [prompt + tail for tail in tails])
    if mark not in prompt or any(whole[:cut] != base[:cut] for whole in wholes):
        return None
    return Border(prompt[prompt.rindex(mark) :], base[cut:], tuple(whole[cut:] for whole in wholes))


def _tokenise(chat: Chat, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(tokens) for tokens in chat.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def _apply(tokenizer: Any, messages: Sequence[Message], *, generate: bool) -> str:
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    # Families that can think (Qwen 3, say) take this switch; other templates ignore it.
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate, enable_thinking=False)
    return text


def _write_plain(messages: Sequence[Message]) -> str:
    turns = [turn.content if turn.role != "assistant" else f"Answer: {turn.content}" for turn in messages]
    return "\n\n".join([*turns, "Answer:"]).replace("\n\nAnswer:", "\nAnswer:")


def _opening(tokenizer: Any) -> str:
    bos = tokenizer.bos_token_id
    return str(tokenizer.bos_token) if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else ""

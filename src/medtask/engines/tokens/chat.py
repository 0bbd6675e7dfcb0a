"""Messages to the exact text and tokens that a model reads: its chat template, the border to the
answer, its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medtask.engines.base import Rendering
from medtask.engines.tokens.thinking import Thinking, find_thinking
from medtask.engines.tokens.tokenizer import Tokenizer
from medtask.engines.tokens.trie import Node, grow_trie
from medtask.errors import InputError
from medtask.records import Branch, Message, Prompt

# stands for an answer while a template is looked at; no template treats it specially
_MARK = "\u2042 answer \u2042"


@dataclass(frozen=True, slots=True)
class Chat:
    """How a model is spoken to. ``lead`` stands between the prompt and an answer, ``closing`` ends
    the answer's turn.

    ``template`` False: the tokenizer has no chat template; turns are written as plain paragraphs
    and an answer ends with its line. ``opening``: text of the token that the tokenizer would put
    first by itself. ``thinking``: how it thinks.
    """

    tokenizer: Tokenizer
    template: bool
    opening: str
    lead: str
    closing: str
    thinking: Thinking


@dataclass(frozen=True, slots=True)
class Question:
    """A tokenised prompt. ``base``: all tokens up to the first branching of ``trie``, or to the
    ``tails`` of a branch that is weighed as text, which has no trie.

    ``ask``: index into ``base`` of the token after which the answer begins (the place that tells
    the off-set mass). ``first``: the tokens with which an answer of the set can begin. ``longest``:
    tokens of the longest tail.
    """

    base: tuple[int, ...]
    trie: Node | None
    tails: tuple[tuple[int, ...], ...]
    ask: int
    first: tuple[int, ...]
    longest: int

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """What must be read before anything can be weighed: the base, then for every tail all that
        stands before its last token.
        """
        return (self.base, *(self.base + tail[:-1] for tail in self.tails))


@dataclass(frozen=True, slots=True)
class Border:
    """What the end of every prompt of a run has in common: from its last special token on, tokens
    cannot merge backwards.
    """

    suffix: str
    stem: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]


def read_chat(tokenizer: Tokenizer) -> Chat:
    """Find out how this tokenizer's model is spoken to."""
    thinking = find_thinking(tokenizer.name, tokenizer.template, tokenizer.vocabulary)
    plain = Chat(tokenizer, False, tokenizer.opening, "", "\n", thinking)
    if not tokenizer.template:
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
    ends = [token for token in tokenizer.specials if tail.lstrip().startswith(token)]
    closing = (
        tail[: tail.index(max(ends, key=len)) + len(max(ends, key=len))]
        if ends
        else tokenizer.end or "\n"
    )
    return replace(plain, template=True, opening="", lead=lead, closing=closing)


def write_thinking(chat: Chat, prompt: Prompt, ask: str = "") -> str:
    """The exact text up to where the model's thoughts begin."""
    turns = _write_turns(chat, prompt, ask, thinking=True)
    opened = chat.thinking.open if chat.thinking.native else chat.lead + chat.thinking.open
    # Some templates (DeepSeek R1) open the thoughts by themselves.
    return turns if turns.rstrip().endswith(opened.rstrip()) else turns + opened


def write_opening(chat: Chat, prompt: Prompt, ask: str = "") -> str:
    """The exact text up to where the model goes on with its answer: behind its thoughts and what it
    has written.
    """
    if prompt.thoughts is None:
        opening = _write_turns(chat, prompt, ask, thinking=False) + chat.lead
    else:
        opening = (
            write_thinking(chat, prompt, ask) + defuse(chat, prompt.thoughts) + chat.thinking.close
        )
    return (
        opening + _space(chat, prompt) + defuse(chat, prompt.written) if prompt.written else opening
    )


def write_prompt(chat: Chat, prompt: Prompt, branch: Branch) -> tuple[str, tuple[str, ...]]:
    """The text of the prompt up to its answer, and each tail as the text that would continue it.

    A tail that is weighed within its set is closed by the end of the turn, one that is weighed as
    text is not.
    """
    space = "" if prompt.written else _space(chat, prompt)
    opening = write_opening(chat, prompt, branch.ask) + space + defuse(chat, branch.lead)
    # " A" and "A" are different tokens: a tail owns its leading space.
    bare = opening.rstrip(" ")
    space = opening[len(bare) :]
    closing = chat.closing if branch.weigh == "set" else ""
    return bare, tuple(f"{space}{defuse(chat, tail)}{closing}" for tail in branch.tails)


def defuse(chat: Chat, text: str) -> str:
    """Break up whatever the tokenizer would read as one of its special tokens: a record must not
    end its own turn.
    """
    for token in chat.tokenizer.specials:
        if len(token) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def render(chat: Chat, prompt: Prompt) -> Rendering:
    """The exact text of a prompt and the tails of its first branch, with their tokens."""
    if not prompt.branches:
        text = write_opening(chat, prompt)
        return Rendering(text, (), chat.tokenizer.encode([text])[0], ())
    text, tails = write_prompt(chat, prompt, prompt.branches[0])
    base = chat.tokenizer.encode([text])[0]
    wholes = chat.tokenizer.encode([text + tail for tail in tails])
    shared = count_shared([base, *wholes])
    return Rendering(text, tails, base[:shared], tuple(whole[shared:] for whole in wholes))


def ask_questions(chat: Chat, asked: Sequence[tuple[Prompt, Branch]]) -> list[Question]:
    """Tokenise prompts with their tails: whole, since a tokenizer may merge across any border that
    text only looks to have.

    Tokenising every tail behind every prompt would cost more than the model on short rows. It is
    done once for all prompts that end alike behind a special token, because nothing merges across
    one; others pay the full price.
    """
    written = [write_prompt(chat, prompt, branch) for prompt, branch in asked]
    tokens = chat.tokenizer.encode([prompt for prompt, _ in written])
    borders: dict[tuple[str, tuple[str, ...]], Border | None] = {}
    tries: dict[tuple[tuple[int, ...], ...], Node] = {}
    questions = []
    for (_, branch), (prompt, tails), base in zip(asked, written, tokens, strict=True):
        kind = (
            branch.lead,
            tails,
        )  # prompts of one kind end alike, unless they bring thoughts or text of their own
        if kind not in borders:
            borders[kind] = _find_border(chat, prompt, base, tails)
        border = borders[kind]
        if (
            border
            and prompt.endswith(border.suffix)
            and base[len(base) - len(border.stem) :] == border.stem
        ):
            start, tail_tokens = len(base) - len(border.stem), border.tails
        else:
            wholes = chat.tokenizer.encode([prompt + tail for tail in tails])
            start = count_shared([base, *wholes])
            tail_tokens = tuple(whole[start:] for whole in wholes)
        stem = count_shared([base[start:], *tail_tokens])
        trie, reads, weighed = (
            None,
            tail_tokens[0][:stem],
            tuple(tail[stem:] for tail in tail_tokens),
        )
        if branch.weigh == "set":
            if tail_tokens not in tries:
                tries[tail_tokens] = grow_trie(tail_tokens, stem)
            trie, reads, weighed = tries[tail_tokens], tries[tail_tokens].reads, ()
        first = tuple(dict.fromkeys(tail[stem] for tail in tail_tokens if len(tail) > stem))
        questions.append(
            Question(
                (*base[:start], *reads),
                trie,
                weighed,
                start + stem - 1,
                first,
                max(map(len, tail_tokens)),
            )
        )
    return questions


def count_shared(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all sequences begin with alike. Between the first and the last in order lie
    all others.
    """
    first, last = min(sequences), max(sequences)
    return next(
        (
            place
            for place, (one, other) in enumerate(zip(first, last, strict=False))
            if one != other
        ),
        min(len(first), len(last)),
    )


def _find_border(
    chat: Chat, prompt: str, base: tuple[int, ...], tails: Sequence[str]
) -> Border | None:
    cut = next(
        (
            place + 1
            for place in range(len(base) - 1, -1, -1)
            if base[place] in chat.tokenizer.special_ids
        ),
        0,
    )
    if cut == 0:
        return None
    mark = chat.tokenizer.spell(base[cut - 1])
    wholes = chat.tokenizer.encode([prompt + tail for tail in tails])
    if mark not in prompt or any(whole[:cut] != base[:cut] for whole in wholes):
        return None
    return Border(prompt[prompt.rindex(mark) :], base[cut:], tuple(whole[cut:] for whole in wholes))


def _space(chat: Chat, prompt: Prompt) -> str:
    """What stands before the first word of the model's own turn: a plain one ends with
    "Answer:".
    """
    return "" if chat.template or prompt.thoughts is not None else " "


def _write_turns(chat: Chat, prompt: Prompt, ask: str, *, thinking: bool) -> str:
    clean = [Message(turn.role, defuse(chat, turn.content)) for turn in _add(prompt.messages, ask)]
    if chat.template:
        return _apply(chat.tokenizer, clean, generate=True, thinking=thinking)
    plain = chat.opening + _write_plain(clean)
    return plain.removesuffix("Answer:") if thinking else plain


def _add(messages: Sequence[Message], ask: str) -> tuple[Message, ...]:
    """The messages with ``ask`` at the end of the last one."""
    return (
        (*messages[:-1], replace(messages[-1], content=messages[-1].content + ask))
        if ask
        else tuple(messages)
    )


def _apply(
    tokenizer: Tokenizer, messages: Sequence[Message], *, generate: bool, thinking: bool = False
) -> str:
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    return tokenizer.write_chat(turns, generate=generate, thinking=thinking)


def _write_plain(messages: Sequence[Message]) -> str:
    turns = [
        turn.content if turn.role != "assistant" else f"Answer: {turn.content}" for turn in messages
    ]
    return "\n\n".join([*turns, "Answer:"]).replace("\n\nAnswer:", "\nAnswer:")

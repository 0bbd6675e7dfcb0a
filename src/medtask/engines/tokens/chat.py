"""Renders prompts as text and tokens with the model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medtask.engines.base import Rendering
from medtask.engines.tokens.chat_format import ChatFormat, apply_chat_template
from medtask.engines.tokens.trie import TrieNode, build_trie
from medtask.records import Branch, Message, Prompt


@dataclass(frozen=True, slots=True)
class TokenizedBranch:
    """A tokenised prompt with one of its branches.

    Attributes:
        prefix_tokens: All tokens up to the first node of ``trie``, or up to the ``candidates`` of a
            branch that is scored as text and has no trie.
        trie: The label trie, None for a branch that is scored as text.
        candidates: The tokens of each candidate after ``prefix_tokens``; empty with a ``trie``.
        answer_position: Index into ``prefix_tokens`` of the token after which the answer begins.
            The off-set mass is computed at this position.
        first_tokens: The tokens with which a candidate can begin.
        max_candidate_tokens: Number of tokens that follow ``prefix_tokens`` with the longest
            candidate.
    """

    prefix_tokens: tuple[int, ...]
    trie: TrieNode | None
    candidates: tuple[tuple[int, ...], ...]
    answer_position: int
    first_tokens: tuple[int, ...]
    max_candidate_tokens: int

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """The token sequences to read before scoring: the prefix with each candidate's tokens up to
        its last one.
        """
        return (
            self.prefix_tokens,
            *(self.prefix_tokens + candidate[:-1] for candidate in self.candidates),
        )


@dataclass(frozen=True, slots=True)
class SharedSuffix:
    """The common end of all prompts of a run, from the last special token on. Tokens do not merge
    across a special token.
    """

    text: str
    tokens: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]


def render_thinking_prompt(chat: ChatFormat, prompt: Prompt, ask: str = "") -> str:
    """The exact text of the prompt up to the start of the model's thoughts."""
    turns = _render_turns(chat, prompt, ask, enable_thinking=True)
    answer_prefix = "" if chat.thinking.is_native else chat.answer_prefix
    thinking_start = answer_prefix + chat.thinking.start_text
    # Some templates (DeepSeek R1) already end with the start of the thoughts.
    return turns if turns.rstrip().endswith(thinking_start.rstrip()) else turns + thinking_start


def render_generation_prompt(chat: ChatFormat, prompt: Prompt, ask: str = "") -> str:
    """The exact text up to where the model continues its answer: after its thoughts and the text
    that it has already generated.
    """
    if prompt.thoughts is None:
        text = _render_turns(chat, prompt, ask, enable_thinking=False) + chat.answer_prefix
    else:
        text = (
            render_thinking_prompt(chat, prompt, ask)
            + chat.markers.escape(prompt.thoughts)
            + chat.thinking.end_text
        )
    if not prompt.partial_response:
        return text
    return text + _get_answer_space(chat, prompt) + chat.markers.escape(prompt.partial_response)


def render_branch(chat: ChatFormat, prompt: Prompt, branch: Branch) -> tuple[str, tuple[str, ...]]:
    """The text of the prompt up to its answer, and the text of each candidate that follows it.

    A candidate that is scored within its set ends with the end of the turn, one that is scored as
    text does not.
    """
    space = "" if prompt.partial_response else _get_answer_space(chat, prompt)
    text = (
        render_generation_prompt(chat, prompt, branch.ask)
        + space
        + chat.markers.escape(branch.prefix)
    )
    # " A" and "A" are different tokens: a candidate includes its leading space.
    stripped = text.rstrip(" ")
    space = text[len(stripped) :]
    turn_end = chat.turn_end if branch.weigh == "set" else ""
    return stripped, tuple(
        f"{space}{chat.markers.escape(candidate)}{turn_end}" for candidate in branch.candidates
    )


def render_prompt(chat: ChatFormat, prompt: Prompt) -> Rendering:
    """The exact text of a prompt and the candidates of its first branch, with their tokens."""
    if not prompt.branches:
        text = render_generation_prompt(chat, prompt)
        return Rendering(text, (), chat.tokenizer.encode([text])[0], ())
    text, candidates = render_branch(chat, prompt, prompt.branches[0])
    base = chat.tokenizer.encode([text])[0]
    start, tokens = _tokenize_candidates(chat, text, base, candidates)
    stem = count_common_prefix([base[start:], *tokens])
    return Rendering(
        text, candidates, base[: start + stem], tuple(candidate[stem:] for candidate in tokens)
    )


def tokenize_branches(
    chat: ChatFormat, pairs: Sequence[tuple[Prompt, Branch]]
) -> list[TokenizedBranch]:
    """Tokenise prompts together with their candidates, since a tokenizer may merge tokens across
    the border between the two texts.

    Tokenising each candidate after each prompt would cost more than the model on short rows. It is
    done once for all prompts with the same text after a special token, because tokens do not merge
    across one. Other prompts are tokenised with each candidate.
    """
    rendered = [render_branch(chat, prompt, branch) for prompt, branch in pairs]
    tokens = chat.tokenizer.encode([prompt for prompt, _ in rendered])
    shared_suffixes: dict[tuple[str, tuple[str, ...]], SharedSuffix | None] = {}
    tries: dict[tuple[tuple[int, ...], ...], TrieNode] = {}
    tokenized_branches = []
    for (_, branch), (prompt, candidates), prompt_tokens in zip(
        pairs, rendered, tokens, strict=True
    ):
        # Prompts of one kind end with the same text, unless they have thoughts or generated text.
        kind = (branch.prefix, candidates)
        if kind not in shared_suffixes:
            shared_suffixes[kind] = _find_shared_suffix(chat, prompt, prompt_tokens, candidates)
        shared_suffix = shared_suffixes[kind]
        if (
            shared_suffix
            and prompt.endswith(shared_suffix.text)
            and prompt_tokens[len(prompt_tokens) - len(shared_suffix.tokens) :]
            == shared_suffix.tokens
        ):
            start = len(prompt_tokens) - len(shared_suffix.tokens)
            candidate_tokens = shared_suffix.candidates
        else:
            start, candidate_tokens = _tokenize_candidates(chat, prompt, prompt_tokens, candidates)
        stem = count_common_prefix([prompt_tokens[start:], *candidate_tokens])
        trie = None
        reads = candidate_tokens[0][:stem]
        text_candidates = tuple(candidate[stem:] for candidate in candidate_tokens)
        if branch.weigh == "set":
            if candidate_tokens not in tries:
                tries[candidate_tokens] = build_trie(candidate_tokens, stem)
            trie = tries[candidate_tokens]
            reads = tries[candidate_tokens].edge_tokens
            text_candidates = ()
        first = tuple(
            dict.fromkeys(
                candidate[stem] for candidate in candidate_tokens if len(candidate) > stem
            )
        )
        tokenized_branches.append(
            TokenizedBranch(
                (*prompt_tokens[:start], *reads),
                trie,
                text_candidates,
                start + stem - 1,
                first,
                max(map(len, candidate_tokens)) - len(reads),
            )
        )
    return tokenized_branches


def count_common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """The number of tokens that all sequences share at the start. Only the first and the last in
    sorted order are compared: the others sort between them.
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


def _find_shared_suffix(
    chat: ChatFormat, prompt: str, prompt_tokens: tuple[int, ...], candidates: Sequence[str]
) -> SharedSuffix | None:
    cut, text = _find_last_special_token(chat, prompt, prompt_tokens)
    if not cut:
        return None
    start, tokens = _tokenize_candidates(chat, prompt, prompt_tokens, candidates)
    if start < cut:
        return None
    between = prompt_tokens[cut:start]
    return SharedSuffix(
        text, prompt_tokens[cut:], tuple(between + candidate for candidate in tokens)
    )


def _find_last_special_token(
    chat: ChatFormat, prompt: str, prompt_tokens: tuple[int, ...]
) -> tuple[int, str]:
    """The number of tokens up to the last special token, and the text from it on; 0 without one."""
    for place in range(len(prompt_tokens) - 1, -1, -1):
        if prompt_tokens[place] in chat.tokenizer.special_token_ids:
            special_token = chat.tokenizer.convert_id_to_token(prompt_tokens[place])
            start = prompt.rfind(special_token)
            return (place + 1, prompt[start:]) if start >= 0 else (0, "")
    return 0, ""


def _tokenize_candidates(
    chat: ChatFormat, prompt: str, prompt_tokens: tuple[int, ...], candidates: Sequence[str]
) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Tokenise the prompt with each candidate.

    Tokens do not merge across a special token, so that the text up to the last one is not
    tokenised again with every candidate. This is verified with the longest candidate.

    Returns:
        The number of tokens that the prompt shares with all sequences, and the further tokens of
        each sequence.
    """
    cut, text = _find_last_special_token(chat, prompt, prompt_tokens)
    if cut and candidates:
        alone, *tails = chat.tokenizer.encode([text, *(text + one for one in candidates)])
        longest = max(range(len(candidates)), key=lambda place: len(candidates[place]))
        (whole,) = chat.tokenizer.encode([prompt + candidates[longest]])
        if (
            alone == prompt_tokens[cut - 1 :]
            and all(tail[0] == alone[0] for tail in tails)
            and whole == prompt_tokens[: cut - 1] + tails[longest]
        ):
            return cut, tuple(tail[1:] for tail in tails)
    sequences = chat.tokenizer.encode([prompt + candidate for candidate in candidates])
    start = count_common_prefix([prompt_tokens, *sequences])
    return start, tuple(sequence[start:] for sequence in sequences)


def _get_answer_space(chat: ChatFormat, prompt: Prompt) -> str:
    """The space before the first word of an answer: the plain format ends with "Answer:"."""
    return "" if chat.has_template or prompt.thoughts is not None else " "


def _render_turns(chat: ChatFormat, prompt: Prompt, ask: str, *, enable_thinking: bool) -> str:
    escaped = [
        Message(turn.role, chat.markers.escape(turn.content))
        for turn in _append_to_last_turn(prompt.messages, ask)
    ]
    if chat.has_template:
        return apply_chat_template(
            chat.tokenizer, escaped, add_generation_prompt=True, enable_thinking=enable_thinking
        )
    plain = chat.bos_text + _render_plain_turns(escaped)
    return plain.removesuffix("Answer:") if enable_thinking else plain


def _append_to_last_turn(messages: Sequence[Message], ask: str) -> tuple[Message, ...]:
    """The messages with ``ask`` appended to the last one."""
    return (
        (*messages[:-1], replace(messages[-1], content=messages[-1].content + ask))
        if ask
        else tuple(messages)
    )


def _render_plain_turns(messages: Sequence[Message]) -> str:
    turns = [
        turn.content if turn.role != "assistant" else f"Answer: {turn.content}" for turn in messages
    ]
    return "\n\n".join([*turns, "Answer:"]).replace("\n\nAnswer:", "\nAnswer:")

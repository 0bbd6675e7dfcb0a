"""What medtask needs of a tokenizer, whoever made it, and transformers' tokenizers in that form."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text to tokens and back. ``template``: the model's chat template, "" where it has none.

    ``specials``: texts of the special tokens, the longest first. ``opening``: text of the token
    that the model wants before everything else, "" where it wants none. ``end``, ``end_id``: the
    token that ends a text. ``size``: of the vocabulary.
    """

    name: str
    template: str
    specials: tuple[str, ...]
    special_ids: frozenset[int]
    opening: str
    end: str | None
    end_id: int | None

    @property
    def size(self) -> int: ...

    @property
    def vocabulary(self) -> Container[str]:
        """The tokens as the vocabulary spells them."""

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of whole texts. Special tokens that a text spells out are read as such; none is
        added.
        """

    def decode(self, tokens: Sequence[int], *, specials: bool = False) -> str:
        """The text of tokens; of special ones only where they are wanted."""

    def spell(self, token: int) -> str:
        """A single token as the vocabulary spells it."""

    def write_chat(
        self, turns: Sequence[Mapping[str, str]], *, generate: bool, thinking: bool
    ) -> str:
        """The chat template's text for turns (role, content); ``generate``: up to where the model's
        turn begins.
        """

    def guide(self, vocabulary: int, ends: Sequence[int]) -> Any:
        """The same tokenizer for llguidance (an LLTokenizer) over so many token ids, of which
        ``ends`` may close a text.
        """


class HubTokenizer:
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder
        specials = {str(token.content) for token in added.values() if token.special} | set(
            map(str, tokenizer.all_special_tokens)
        )
        self.tokenizer = tokenizer
        self.name = str(tokenizer.name_or_path)
        self.template = str(tokenizer.chat_template or "")
        self.specials = tuple(sorted(specials, key=len, reverse=True))
        self.special_ids = frozenset(
            number for number, token in added.items() if token.special
        ) | frozenset(tokenizer.all_special_ids)
        self.end = str(tokenizer.eos_token) if tokenizer.eos_token else None
        self.end_id: int | None = tokenizer.eos_token_id
        bos = tokenizer.bos_token_id
        self.opening = (
            str(tokenizer.bos_token)
            if bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
            else ""
        )

    @property
    def size(self) -> int:
        return len(self.tokenizer)

    @cached_property
    def vocabulary(self) -> Container[str]:
        return self.tokenizer.get_vocab().keys()  # type: ignore[no-any-return]

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return (
            [
                tuple(tokens)
                for tokens in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
            ]
            if texts
            else []
        )

    def decode(self, tokens: Sequence[int], *, specials: bool = False) -> str:
        return str(
            self.tokenizer.decode(
                tokens, skip_special_tokens=not specials, clean_up_tokenization_spaces=False
            )
        )

    def spell(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(token))

    def write_chat(
        self, turns: Sequence[Mapping[str, str]], *, generate: bool, thinking: bool
    ) -> str:
        # Families that can think take one of these switches (Qwen 3 the first, Granite the second);
        # other templates ignore them.
        text: str = self.tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            tokenize=False,
            add_generation_prompt=generate,
            enable_thinking=thinking,
            thinking=thinking,
        )
        return text

    def guide(self, vocabulary: int, ends: Sequence[int]) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self.tokenizer, n_vocab=vocabulary, eos_token=list(ends))

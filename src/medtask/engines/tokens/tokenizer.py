"""What medtask needs of a tokenizer, whoever made it, and transformers' tokenizers in that form."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text to tokens and back. ``chat_template``: the model's chat template, "" where it has none.

    ``special_tokens``: texts of the special tokens, the longest first. ``bos_text``: text of the
    token that the model wants before everything else, "" where it wants none. ``eos_token``,
    ``eos_token_id``: the token that ends a text. ``vocabulary_size``: of the vocabulary.
    """

    name: str
    chat_template: str
    special_tokens: tuple[str, ...]
    special_token_ids: frozenset[int]
    bos_text: str
    eos_token: str | None
    eos_token_id: int | None

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def vocabulary(self) -> Container[str]:
        """The tokens as the vocabulary spells them."""

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of whole texts. Special tokens that a text spells out are read as such; none is
        added.
        """

    def decode(self, tokens: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """The text of tokens; of special ones only where they are wanted."""

    def convert_id_to_token(self, token: int) -> str:
        """A single token as the vocabulary spells it."""

    def apply_chat_template(
        self,
        turns: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool,
        enable_thinking: bool,
    ) -> str:
        """The chat template's text for turns (role, content); ``add_generation_prompt``: up to
        where the model's turn begins.
        """

    def to_llguidance(self, vocabulary_size: int, eos_token_ids: Sequence[int]) -> Any:
        """The same tokenizer for llguidance (an LLTokenizer) over so many token ids, of which
        ``eos_token_ids`` may close a text.
        """


class HfTokenizer:
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder
        special_tokens = {str(token.content) for token in added.values() if token.special} | set(
            map(str, tokenizer.all_special_tokens)
        )
        self.tokenizer = tokenizer
        self.name = str(tokenizer.name_or_path)
        self.chat_template = str(tokenizer.chat_template or "")
        self.special_tokens = tuple(sorted(special_tokens, key=len, reverse=True))
        self.special_token_ids = frozenset(
            number for number, token in added.items() if token.special
        ) | frozenset(tokenizer.all_special_ids)
        self.eos_token = str(tokenizer.eos_token) if tokenizer.eos_token else None
        self.eos_token_id: int | None = tokenizer.eos_token_id
        bos = tokenizer.bos_token_id
        self.bos_text = (
            str(tokenizer.bos_token)
            if bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
            else ""
        )

    @property
    def vocabulary_size(self) -> int:
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

    def decode(self, tokens: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        return str(
            self.tokenizer.decode(
                tokens,
                skip_special_tokens=not keep_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    def convert_id_to_token(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(token))

    def apply_chat_template(
        self,
        turns: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool,
        enable_thinking: bool,
    ) -> str:
        # Families that can think take one of these switches (Qwen 3 the first, Granite the second);
        # other templates ignore them.
        text: str = self.tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=enable_thinking,
            thinking=enable_thinking,
        )
        return text

    def to_llguidance(self, vocabulary_size: int, eos_token_ids: Sequence[int]) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(
            self.tokenizer, n_vocab=vocabulary_size, eos_token=list(eos_token_ids)
        )

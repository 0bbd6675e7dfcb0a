"""The tokenizer protocol, and its implementations with transformers and with tokenizers alone."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from medtask.errors import InputError
from medtask.networks.tokenizer_file import TokenizerFile


class Tokenizer(Protocol):
    """Converts text to tokens and back.

    Attributes:
        name: Name of the tokenizer.
        chat_template: The model's chat template, "" if it has none.
        template_tokens: Texts of special tokens by their names in templates, such as "bos_token".
        special_tokens: Texts of the special tokens, the longest first.
        special_token_ids: Ids of the special tokens.
        added_tokens: Texts of the tokens that were added to the vocabulary, special or not.
        bos_text: Text of the token that the model expects at the start, "" if there is none.
        eos_token: Text of the token that ends a text.
        eos_token_id: Id of the token that ends a text.
        vocabulary_size: Number of tokens of the vocabulary.
    """

    name: str
    chat_template: str
    template_tokens: Mapping[str, str]
    special_tokens: tuple[str, ...]
    special_token_ids: frozenset[int]
    added_tokens: tuple[str, ...]
    bos_text: str
    eos_token: str | None
    eos_token_id: int | None

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def vocabulary(self) -> Container[str]:
        """The tokens as they are spelled in the vocabulary."""

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokenise whole texts. Special tokens spelled out in a text are read as such; no special
        token is added.
        """

    def decode(self, tokens: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """Decode tokens; special tokens are dropped unless ``keep_special_tokens``."""

    def convert_id_to_token(self, token: int) -> str:
        """The token as it is spelled in the vocabulary."""

    def to_llguidance(self, vocabulary_size: int, eos_token_ids: Sequence[int]) -> Any:
        """The tokenizer as an llguidance LLTokenizer with ``vocabulary_size`` token ids, of which
        ``eos_token_ids`` end a text.
        """


class HfTokenizer:
    """A tokenizer of transformers.

    Attributes:
        embedding_rows: The number of tokens that the model has embeddings for; None if not known.
    """

    embedding_rows: int | None = None

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder
        special_tokens = {str(token.content) for token in added.values() if token.special} | set(
            map(str, tokenizer.all_special_tokens)
        )
        self.tokenizer = tokenizer
        self.name = str(tokenizer.name_or_path)
        self.chat_template = _read_template(tokenizer)
        self.template_tokens: Mapping[str, str] = tokenizer.special_tokens_map
        self.special_tokens = tuple(sorted(special_tokens, key=len, reverse=True))
        self.special_token_ids = frozenset(
            number for number, token in added.items() if token.special
        ) | frozenset(tokenizer.all_special_ids)
        self.added_tokens = tuple(str(token.content) for token in added.values())
        self.eos_token = str(tokenizer.eos_token) if tokenizer.eos_token else None
        self.eos_token_id: int | None = tokenizer.eos_token_id
        bos = tokenizer.bos_token_id
        starts = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        self.bos_text = str(tokenizer.bos_token) if starts else ""

    @property
    def vocabulary_size(self) -> int:
        return len(self.tokenizer)

    @cached_property
    def vocabulary(self) -> Container[str]:
        return self.tokenizer.get_vocab().keys()  # type: ignore[no-any-return]

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return _require_embeddings(self, [tuple(tokens) for tokens in found])

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

    def to_llguidance(self, vocabulary_size: int, eos_token_ids: Sequence[int]) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(
            self.tokenizer, n_vocab=vocabulary_size, eos_token=list(eos_token_ids)
        )


def _require_embeddings(
    tokenizer: HfTokenizer | FileTokenizer, rows: list[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """The rows of tokens. On CUDA, a token without an embedding would end the process.

    Raises:
        InputError: The tokenizer has written a token that the model does not have.
    """
    known = tokenizer.embedding_rows
    if known is not None and any(max(row, default=-1) >= known for row in rows):
        raise InputError(
            f"the tokenizer in {tokenizer.name} writes a token that the model does not have: it "
            f"has {known:,}",
            fix="copy the whole folder of the model again: the tokenizer may be another model's",
        )
    return rows


def _read_template(tokenizer: Any) -> str:
    """The tokenizer's template; the default one of several, "" if there is none."""
    template = tokenizer.chat_template or ""
    return str(template.get("default", "") if isinstance(template, dict) else template)


class FileTokenizer:
    """A tokenizer read from tokenizer.json without transformers."""

    is_fast = True
    embedding_rows: int | None = None  # as in HfTokenizer

    def __init__(self, file: TokenizerFile) -> None:
        self.file = file
        self.name = str(file.folder)
        self.chat_template = file.read_chat_template()
        self.template_tokens: Mapping[str, str] = file.get_special_roles()
        self.special_tokens = tuple(sorted(file.special.values(), key=len, reverse=True))
        self.special_token_ids = frozenset(file.special)
        added = file.tokenizer.get_added_tokens_decoder()
        self.added_tokens = tuple(token.content for token in added.values())
        self.eos_token = file.get_token("eos_token")
        self.eos_token_id = file.get_token_id("eos_token")
        self.model_max_length = file.model_max_length
        bos = file.get_token_id("bos_token")
        starts = bos is not None and file(["a"])["input_ids"][0][:1] == [bos]
        self.bos_text = (file.get_token("bos_token") or "") if starts else ""

    @property
    def vocabulary_size(self) -> int:
        return self.file.tokenizer.get_vocab_size()

    @cached_property
    def vocabulary(self) -> Container[str]:
        return self.file.tokenizer.get_vocab().keys()

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        encodings = self.file.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return _require_embeddings(self, [tuple(encoding.ids) for encoding in encodings])

    def decode(self, tokens: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        return self.file.tokenizer.decode(list(tokens), skip_special_tokens=not keep_special_tokens)

    def convert_id_to_token(self, token: int) -> str:
        return str(self.file.tokenizer.id_to_token(token))

    def to_llguidance(self, vocabulary_size: int, eos_token_ids: Sequence[int]) -> Any:
        from llguidance import LLTokenizer

        return LLTokenizer(
            self.file.tokenizer.to_str(), n_vocab=vocabulary_size, eos_token=list(eos_token_ids)
        )

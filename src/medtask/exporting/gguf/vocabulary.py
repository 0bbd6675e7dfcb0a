"""The tokenizer of a model as GGUF metadata: tokens, merges, special tokens and chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.errors import UsageError
from medtask.exporting.gguf.gemma4 import UPSTREAM

if TYPE_CHECKING:
    from gguf import GGUFWriter

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

# The regular expressions by which tokenizer.json splits text, and llama.cpp's name for each.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_SPLIT_NAMES: Mapping[str, str] = {
    rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_WORDS}|\p{{N}}|{_REST}": "qwen2",
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+"
        rf"[{_LOWER}]*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ): "tekken",
}


class TokenType(IntEnum):
    """The types of tokens in GGUF files."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokenizer of a model.

    Attributes:
        model: "gpt2" for byte-level BPE, "llama" for BPE over characters with bytes as a fallback.
        splitter: llama.cpp's name of the regular expression that splits text; "" for "llama".
        tokens: All tokens by id, as many as the model has embeddings.
        types: The type of each token.
        scores: The priority of each token for "llama"; empty otherwise.
        merges: The merges of "gpt2"; empty otherwise.
        special_ids: The ids of special tokens: bos, eos, eot, unk, pad.
        adds_bos: Whether encoding adds the token bos.
        adds_space: Whether encoding adds a blank before the text.
        chat_template: The chat template; None without one.
    """

    model: str
    splitter: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    special_ids: Mapping[str, int]
    adds_bos: bool
    adds_space: bool
    chat_template: str | None

    def add_to(self, writer: GGUFWriter) -> None:
        """Write it as metadata."""
        writer.add_tokenizer_model(self.model)
        if self.splitter:
            writer.add_tokenizer_pre(self.splitter)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(map(int, self.types)))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        for name, token_id in self.special_ids.items():
            getattr(writer, f"add_{name}_token_id")(token_id)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_space_prefix(self.adds_space)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(folder: Path, size: int, text_model: str = "llama") -> Vocabulary:
    """Read the tokenizer of a model folder.

    Args:
        folder: A folder that transformers reads.
        size: The number of the model's embeddings; missing tokens are filled up.
        text_model: llama.cpp's name of a tokenizer whose tokens are text: "llama" merges by
            scores, others by their merges.

    Raises:
        UsageError: llama.cpp has no such tokenizer, or the method of this one is not known.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(f"{folder} has no tokenizer.json", fix=UPSTREAM)
    content = json.loads(backend.to_str())
    model = content["model"]
    if model.get("type") != "BPE":
        raise UsageError(
            f"tokenizers of the type {model.get('type')} are not written as GGUF", fix=UPSTREAM
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokens, types = _list_tokens(content, size)
    is_byte_level = not model.get("byte_fallback")
    has_scores = not is_byte_level and text_model == "llama"
    return Vocabulary(
        model="gpt2" if is_byte_level else text_model,
        splitter=_name_splitter(content.get("pre_tokenizer")) if is_byte_level else "",
        tokens=tokens,
        types=types,
        scores=tuple(_make_scores(tokens, merges)) if has_scores else (),
        merges=() if has_scores else tuple(merges),
        special_ids=_find_special_ids(tokenizer),
        adds_bos=tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id],
        adds_space=not is_byte_level and _adds_space(content),
        chat_template=HfTokenizer(tokenizer).chat_template or None,
    )


def _list_tokens(
    content: Mapping[str, Any], size: int
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    added = {token["id"]: token for token in content["added_tokens"]}
    by_id = {token_id: token for token, token_id in content["model"]["vocab"].items()}
    # Added tokens without an embedding cannot be used: transformers adds some by itself.
    by_id |= {token_id: token["content"] for token_id, token in added.items() if token_id < size}
    if max(by_id) >= size:
        raise UsageError(
            f"the tokenizer has {max(by_id) + 1:,} tokens and the model {size:,} embeddings",
            fix="use the tokenizer that belongs to the model",
        )
    unknown = content["model"].get("unk_token")
    has_bytes = bool(content["model"].get("byte_fallback"))
    tokens, types = [], []
    for token_id in range(size):
        token = by_id.get(token_id)
        if token is None:
            token, kind = f"[PAD{token_id}]", TokenType.UNUSED
        elif token_id in added:
            kind = TokenType.CONTROL if added[token_id]["special"] else TokenType.USER_DEFINED
            if has_bytes and token == unknown:
                kind = TokenType.UNKNOWN
        else:
            kind = TokenType.BYTE if has_bytes and _BYTE.fullmatch(token) else TokenType.NORMAL
        tokens.append(token)
        types.append(kind)
    return tuple(tokens), tuple(types)


def _make_scores(tokens: Sequence[str], merges: Sequence[str]) -> Iterator[float]:
    """Scores by which llama.cpp merges in the order of ``merges``: the earlier, the higher."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    for token in tokens:
        yield float(-ranks.get(token, len(merges)))


def _name_splitter(pre_tokenizer: Mapping[str, Any] | None) -> str:
    parts = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    kinds = [part["type"] for part in parts]
    if kinds and kinds[-1] == "ByteLevel" and not parts[-1].get("add_prefix_space"):
        if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"]:
            name = _SPLIT_NAMES.get(parts[0]["pattern"].get("Regex", ""))
            if name:
                return name
    raise UsageError(
        "the tokenizer splits text in a way that is not written as GGUF here", fix=UPSTREAM
    )


def _adds_space(content: Mapping[str, Any]) -> bool:
    """Whether a blank is added before the text, as SentencePiece does by default."""
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    scheme = (content.get("pre_tokenizer") or {}).get("prepend_scheme", "never")
    return any(step.get("type") == "Prepend" for step in steps) or scheme != "never"


def _find_special_ids(tokenizer: Any) -> dict[str, int]:
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    chat = detect_chat_format(HfTokenizer(tokenizer))
    if chat.has_template:
        turn_end = tokenizer.convert_tokens_to_ids(chat.turn_end.strip())
        found["eot"] = turn_end if turn_end != tokenizer.unk_token_id else None
    return {name: token_id for name, token_id in found.items() if token_id is not None}

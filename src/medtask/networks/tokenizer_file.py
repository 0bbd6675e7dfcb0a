"""Reads tokenizer.json with the tokenizers library alone, without transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.json_files import find_json_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

# Classes that use tokenizer.json as it is. Others rebuild parts of it.
_PLAIN_CLASSES = frozenset({"TokenizersBackend", "PreTrainedTokenizerFast"})
_BERT_CLASSES = frozenset({"BertTokenizer", "BertTokenizerFast"})
_ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_KNOWN_KEYS = frozenset(
    {
        *_ROLES,
        "backend",
        "chat_template",
        "is_local",
        "local_files_only",
        "model_max_length",
        "name_or_path",
        "tokenizer_class",
    }
)
# Settings of BertTokenizer, and those of the normalizer in tokenizer.json that must equal them.
_BERT_SETTINGS = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
_BERT_KEYS = frozenset({*_BERT_SETTINGS, "do_basic_tokenize", "never_split"})
# Files with further tokens, which transformers merges into those of tokenizer.json.
_OTHER_FILES = ("added_tokens.json", "additional_chat_templates")
NO_LIMIT = int(1e30)  # of tokens, as transformers writes it


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer in the format of the tokenizers library.

    Attributes:
        folder: The folder of the files.
        tokenizer: The tokenizer, without truncation and padding.
        config: The content of tokenizer_config.json.
        special: The special tokens by id: those of the file, and those that the config names.
        model_max_length: Largest number of tokens of a text, a huge number without a limit.
    """

    folder: Path
    tokenizer: RustTokenizer
    config: Mapping[str, Any]
    special: Mapping[int, str]
    model_max_length: int

    def get_token(self, role: str) -> str | None:
        """The text of a special token by its role, such as "eos_token"."""
        return self.config.get(role)

    def get_token_id(self, role: str) -> int | None:
        """The id of a special token by its role; None without one."""
        text = self.get_token(role)
        return None if text is None else self.tokenizer.token_to_id(text)

    def get_special_roles(self) -> dict[str, str]:
        """The special tokens that the config names, by role, as chat templates use them."""
        return {role: self.config[role] for role in _ROLES if self.config.get(role)}

    def read_chat_template(self) -> str:
        """The chat template, in a file of its own or in the config; "" without one."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        return self.config.get("chat_template") or ""

    def __call__(self, texts: Sequence[str], **unused: Any) -> dict[str, list[list[int]]]:
        """The token ids of texts with the special tokens of the model, without truncation.

        The arguments are those of transformers' tokenizers.
        """
        return {"input_ids": [one.ids for one in self.tokenizer.encode_batch_fast(list(texts))]}

    def pad(self, rows: Mapping[str, Sequence[Sequence[int]]], **unused: Any) -> dict[str, Any]:
        """Token ids and their mask as tensors, padded at the end to the length of the longest."""
        import torch

        tokens = rows["input_ids"]
        longest = max(map(len, tokens))
        padding = self.get_token_id("pad_token") or 0
        return {
            "input_ids": torch.tensor(
                [[*row, *[padding] * (longest - len(row))] for row in tokens]
            ),
            "attention_mask": torch.tensor(
                [[1] * len(row) + [0] * (longest - len(row)) for row in tokens]
            ),
        }


def read_tokenizer_file(folder: Path) -> TokenizerFile | None:
    """Read the tokenizer of a model's folder; None for one that transformers changes when it loads
    it, or that has settings which are not known.
    """
    from tokenizers import Tokenizer

    try:
        config = find_json_object(folder / "tokenizer_config.json")
        others = any((folder / name).exists() for name in _OTHER_FILES)
        if others or not _is_plain(config, folder / "tokenizer.json"):
            return None
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library raises plain exceptions; transformers reports the cause
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = {
        number: token.content
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special
    }
    named = {config[role] for role in _ROLES if config.get(role)}
    if not named <= set(special.values()):
        return None
    limit = int(config.get("model_max_length") or NO_LIMIT)
    return TokenizerFile(folder, tokenizer, config, special, limit)


def _is_plain(config: Mapping[str, Any], file: Path) -> bool:
    """Whether transformers uses the stored tokenizer as it is."""
    name, keys = config.get("tokenizer_class"), set(config)
    roles = (*_ROLES, "chat_template")
    if not all(isinstance(config.get(role), str | None) for role in roles):
        return False
    if name in _PLAIN_CLASSES:
        return keys <= _KNOWN_KEYS
    if name not in _BERT_CLASSES or not keys <= _KNOWN_KEYS | _BERT_KEYS:
        return False
    stored = find_json_object(file)
    normalizer = stored.get("normalizer") or {}
    return (
        normalizer.get("type") == "BertNormalizer"
        and (stored.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and (stored.get("model") or {}).get("type") == "WordPiece"
        and all(
            normalizer.get(own) == config.get(key, default)
            for key, (own, default) in _BERT_SETTINGS.items()
        )
    )

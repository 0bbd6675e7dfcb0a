"""Counts and hashes weights without loading them, and caches dequantised GGUF files."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

from medtask.atomic_files import replace_text
from medtask.engines.base import FILE_FACT
from medtask.engines.files.gguf_header import check_gguf_tensors, read_gguf_header
from medtask.engines.files.model_files import ModelFiles, read_model_json, require_transformers
from medtask.engines.files.unpacked_models import cache_unpacked, name_unpacked
from medtask.errors import InputError, StorageError
from medtask.model_weights import check_loaded_model
from medtask.stored_weights import list_weight_files

# Bytes in memory by dtype or quantisation.
BYTES_PER_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.1, "4bit": 0.65}

_SHORT_HASH = 16  # characters
_UNPACKED_FILE = "unpacked.json"
MIN_CACHED_BYTES = 32_000_000  # of files whose hash is cached; reading them takes 20 ms or more
# Config, tokenizer and chat template, by the names that transformers, sentence-transformers and
# mlx-lm read.
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_CONFIG_FILES = frozenset({"config.json", "generation_config.json", "quantize_config.json"})


def count_parameters(files: ModelFiles) -> int:
    """The number of parameters of a model, from the headers of its files."""
    if files.is_gguf:
        return read_gguf_header(files.path).parameters
    total = 0
    for path in list_weight_files(files.path):
        for tensor in read_safetensors_header(path).values():
            total += math.prod(tensor["shape"])
    return total


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """The dtype, shape and place of each weight of a file. Raises InputError if it is damaged."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(100_000_000, path.stat().st_size):
                raise ValueError
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        if not all(map(_is_entry, header.values())):
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, struct.error):
        raise InputError(
            f"{path} is not a complete safetensors file", fix="fetch the model again"
        ) from None
    return header


def _is_entry(entry: object) -> bool:
    """Whether an entry of a header has a dtype, a shape and a place."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    return (
        isinstance(shape, list)
        and isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(number) is int and number >= 0 for number in (*shape, *offsets))
    )


def dequantize_gguf(path: Path) -> tuple[Path, str]:
    """Dequantise a GGUF file; returns a cached folder with the model in safetensors and its
    tokenizer, and the file's SHA-256.

    The cache is keyed by the file's path, size and time: later calls do not read the file.
    """
    name = name_unpacked(path, importlib.metadata.version("transformers"), "checked")
    folder = cache_unpacked(name, partial(_unpack_gguf, path))
    return folder, str(read_model_json(folder / _UNPACKED_FILE)["sha256"])


def _unpack_gguf(path: Path, folder: Path) -> None:
    content = {"sha256": hash_file(path), "source": path.name}
    folder.mkdir(mode=0o700)
    _convert_gguf(path, folder)
    (folder / _UNPACKED_FILE).write_text(json.dumps(content), encoding="utf-8")


def _convert_gguf(path: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as transformers saves them."""
    require_transformers()
    check_gguf_tensors(path)  # transformers ignores tensors that its mapping does not name
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Hides a progress bar per tensor, which transformers has no setting for.
    with contextlib.redirect_stderr(io.StringIO()):
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            ignore_mismatched_sizes=True,  # named by the check
            output_loading_info=True,
        )
        check_loaded_model(model, loading_info, path)
        model.save_pretrained(folder)


def hash_weights(folder: Path) -> str:
    """A SHA-256 of config and weights. In the Hub's cache, links are named by their hash."""
    digest = hashlib.sha256()
    patterns = ("*.safetensors", "*config.json", "tokenizer*.json")  # a file may match two
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        target = path.resolve().name if path.is_symlink() else ""
        sha256 = target if len(target) == 64 else hash_weight_file(path)
        digest.update(f"{path.name}:{sha256}\n".encode())
    return digest.hexdigest()


def hash_weight_file(path: Path) -> str:
    """A file's SHA-256, cached for large files."""
    return (hash_file_cached if path.stat().st_size >= MIN_CACHED_BYTES else hash_file)(path)


def hash_model_files(folder: Path) -> dict[str, str]:
    """Identity facts of the files beside the weights that can change a number, one for each file.

    The hashes are short: two models may share a tokenizer, and only weights identify a model.
    """
    return {
        f"{FILE_FACT}{path.relative_to(folder).as_posix()}": hash_file(path)[:_SHORT_HASH]
        for path in list_model_files(folder)
    }


def list_model_files(folder: Path) -> list[Path]:
    """The files of config, tokenizer and chat template in a model's folder."""
    found = (path for pattern in _MODEL_FILES for path in folder.glob(pattern))
    return sorted({path for path in found if path.is_file()})


def is_tokenizer_file(path: Path) -> bool:
    """Whether one of the model files belongs to the tokenizer or the chat template."""
    return path.name not in _CONFIG_FILES


def hash_text(text: str) -> str:
    """The short hash of a text that a server reports in place of a file."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:_SHORT_HASH]


def hash_file_cached(path: Path) -> str:
    """A file's SHA-256, cached by path, size and times: reading 40 GB takes longer than loading."""
    if cached_hash := read_cached_hash(path):
        return cached_hash
    sha256, cache_file = hash_file(path), _find_hash_file(path)
    # Without the cache the hash is only computed again.
    with contextlib.suppress(OSError, StorageError):
        cache_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_text(cache_file, sha256)
    return sha256


def read_cached_hash(path: Path) -> str | None:
    """The SHA-256 that `hash_file_cached` has stored for a file; None if it has not."""
    with contextlib.suppress(OSError, ValueError):
        cached_hash = _find_hash_file(path).read_text(encoding="ascii")
        if len(cached_hash) == 64:
            return cached_hash
    return None


def _find_hash_file(path: Path) -> Path:
    import platformdirs

    file_stat = path.stat()
    # The time of the last change of the inode, unlike that of the content, cannot be set back.
    stamps = file_stat.st_size, file_stat.st_mtime_ns, file_stat.st_ctime_ns, file_stat.st_ino
    key = hashlib.sha256("|".join(map(str, (path.resolve(), *stamps))).encode()).hexdigest()
    return Path(platformdirs.user_cache_dir("medtask")) / "hashes-of-checked" / key[:32]


def hash_file(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

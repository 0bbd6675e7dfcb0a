"""Reads and validates the header of a GGUF file before a parser in C reads the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

from medtask.errors import InputError, require_packages
from medtask.model_weights import BLANK, is_weight_matrix, refuse_weights

_VALUE_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING_TYPE, _ARRAY_TYPE = 8, 9
_INTEGER_TYPES = frozenset({0, 1, 2, 3, 4, 5, 10, 11})
_SIGNED_TYPES = frozenset({1, 3, 5, 11})
_ARCHITECTURE, _EMBEDDINGS = "general.architecture", "token_embd.weight"
_MAX_HEAD_FACTOR = 16
_DEFAULT_ALIGNMENT = 32  # bytes
_CHUNK_BYTES = 1 << 16
_BLOCK_NAME = re.compile(r"blk\.(\d+)\.")
MAX_TENSORS = 100_000
MAX_KEYS = 10_000
MAX_ARRAY_ITEMS = 4_000_000
MAX_STRING_BYTES = 16_000_000
MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a GGUF file; ``start`` and ``size`` are the place of its data in the file."""

    name: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file; ``block_count`` is None for a file without blocks."""

    tensors: tuple[GgufTensor, ...]
    block_count: int | None

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file; InputError if it is not valid or the file is truncated."""
    try:
        with path.open("rb") as file:
            return _read_header(file, path.stat().st_size)
    except (struct.error, ValueError, KeyError):
        raise InputError(
            f"{path} is not a complete GGUF file", fix="fetch the file again"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror})", fix="check the path and its permissions"
        ) from None


def check_gguf_tensors(path: Path) -> None:
    """Check what libraries do not: layers that the metadata does not mention, and blank matrices.

    Raises:
        InputError: The header is not valid.
        EngineError: A layer is missing or not mentioned, or a matrix is all zero.
    """
    header = read_gguf_header(path)
    blocks: dict[int, list[str]] = {}
    for tensor in header.tensors:
        if match := _BLOCK_NAME.match(tensor.name):
            blocks.setdefault(int(match[1]), []).append(tensor.name)
    if header.block_count is not None and blocks:
        stated = range(header.block_count)
        refuse_weights(path, "missing", [f"blk.{block}" for block in stated if block not in blocks])
        refuse_weights(
            path,
            f"in a layer beyond the stated {header.block_count}",
            [name for block, names in blocks.items() if block not in stated for name in names],
        )
    with path.open("rb") as file:
        blank = [
            tensor.name
            for tensor in header.tensors
            if is_weight_matrix(tensor.name, tensor.shape) and _is_blank(file, tensor)
        ]
    refuse_weights(path, BLANK, blank)


def _is_blank(file: BinaryIO, tensor: GgufTensor) -> bool:
    file.seek(tensor.start)
    for start in range(0, tensor.size, _CHUNK_BYTES):
        if any(file.read(min(_CHUNK_BYTES, tensor.size - start))):
            return False
    return True


def _read_header(file: BinaryIO, size: int) -> GgufHeader:
    magic, version, tensors, keys = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in {2, 3} or tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise ValueError
    numbers, architecture, names = {}, "", set()
    for _ in range(keys):
        name, kind = _read_string(file, size), _read_int(file, 4)
        if name in names:
            raise ValueError
        names.add(name)
        if kind in _INTEGER_TYPES:
            numbers[name] = _read_int(file, _VALUE_SIZES[kind], signed=kind in _SIGNED_TYPES)
        elif name == _ARCHITECTURE and kind == _STRING_TYPE:
            architecture = _read_string(file, size)
        else:
            _skip_value(file, size, kind)
    found = [_read_tensor(file, size) for _ in range(tensors)]
    alignment = numbers.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not 0 < alignment <= size:
        raise ValueError
    start = -(-file.tell() // alignment) * alignment
    placed = tuple(replace(tensor, start=start + tensor.start) for tensor in found)
    header = GgufHeader(placed, numbers.get(f"{architecture}.block_count"))
    _check_sizes(architecture, numbers, placed)
    # A parser in C that trusts these sizes would read beyond the file.
    if header.parameters > 8 * size or any(t.start + t.size > size for t in placed):
        raise ValueError
    return header


def _check_sizes(
    architecture: str, numbers: Mapping[str, int], tensors: Sequence[GgufTensor]
) -> None:
    """Raise ValueError if the metadata state a larger model than the tensors can fill.

    A library builds the stated model before it looks at the tensors.
    """
    stated = {
        name.removeprefix(f"{architecture}."): number
        for name, number in numbers.items()
        if name.startswith(f"{architecture}.")
    }
    largest = max((max(one.shape, default=1) for one in tensors), default=1)
    of_blocks = [max(one.shape, default=1) for one in tensors if _BLOCK_NAME.match(one.name)]
    widest = max(of_blocks, default=largest)
    rows = [one.shape[0] for one in tensors if one.name == _EMBEDDINGS and one.shape]
    limits = {
        "block_count": 4 * len(tensors),  # `check_gguf_tensors` names a few that are missing
        "embedding_length": rows[0] if rows else widest,
        "feed_forward_length": widest,
        "vocab_size": largest,
        "attention.head_count": widest,
        "attention.key_length": widest,
        "attention.value_length": widest,
    }
    heads = stated.get("attention.head_count", 1)
    # Latent attention stores factors of these matrices: they can be wider than any tensor.
    wide = [heads * stated.get(f"attention.{part}_length", 1) for part in ("key", "value")]
    if max(wide) > _MAX_HEAD_FACTOR * widest or any(
        not 0 <= stated.get(name, 0) <= limit for name, limit in limits.items()
    ):
        raise ValueError


def _read_tensor(file: BinaryIO, size: int) -> GgufTensor:
    """A tensor, with its start relative to the section of data."""
    name, dimensions = _read_string(file, size), _read_int(file, 4)
    if dimensions > MAX_DIMENSIONS:
        raise ValueError
    shape = tuple(_read_int(file, 8) for _ in range(dimensions))
    kind, offset = _read_int(file, 4), _read_int(file, 8)
    # An unknown format takes at least one bit per number.
    per_block, bytes_of_block = _get_block_sizes().get(kind, (8, 1))
    return GgufTensor(name, shape, offset, math.prod(shape) // per_block * bytes_of_block)


@cache
def _get_block_sizes() -> Mapping[int, tuple[int, int]]:
    """For each number format: the numbers per block, and the bytes of a block."""
    require_packages("gguf", fix="pip install 'medtask[gguf]' or 'medtask[hf]'")
    from gguf.constants import GGML_QUANT_SIZES

    return {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}


def _skip_value(file: BinaryIO, size: int, kind: int) -> None:
    if kind == _STRING_TYPE:
        _skip_string(file, size)
    elif kind == _ARRAY_TYPE:
        inner, count = _read_int(file, 4), _read_int(file, 8)
        if count > MAX_ARRAY_ITEMS or inner == _ARRAY_TYPE:
            raise ValueError
        if inner == _STRING_TYPE:
            for _ in range(count):
                _skip_string(file, size)
        else:
            file.seek(_VALUE_SIZES[inner] * count, 1)
    else:
        file.seek(_VALUE_SIZES[kind], 1)


def _skip_string(file: BinaryIO, size: int) -> None:
    file.seek(_read_string_length(file, size), 1)


def _read_string(file: BinaryIO, size: int) -> str:
    return file.read(_read_string_length(file, size)).decode("utf-8", "replace")


def _read_string_length(file: BinaryIO, size: int) -> int:
    length = _read_int(file, 8)
    if length > MAX_STRING_BYTES or file.tell() + length > size:
        raise ValueError
    return length


def _read_int(file: BinaryIO, width: int, *, signed: bool = False) -> int:
    data = file.read(width)
    if len(data) != width:
        raise ValueError
    return int.from_bytes(data, "little", signed=signed)

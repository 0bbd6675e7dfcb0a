"""Validates the header of a GGUF file before a parser in C reads the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from medtask.errors import InputError, MissingExtra

_VALUE_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING_TYPE, _ARRAY_TYPE = 8, 9
MAX_TENSORS, MAX_KEYS, MAX_ARRAY_ITEMS, MAX_STRING_BYTES, MAX_DIMENSIONS = (
    100_000,
    10_000,
    4_000_000,
    16_000_000,
    4,
)


def count_gguf_parameters(path: Path) -> int:
    """The number of parameters in a GGUF file; InputError for an invalid header."""
    try:
        with path.open("rb") as file:
            return _count_parameters(file, path.stat().st_size)
    except (struct.error, ValueError, KeyError):
        raise InputError(
            f"{path} is not a complete GGUF file", fix="fetch the file again"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror})", fix="check the path and its permissions"
        ) from None


def _count_parameters(file: BinaryIO, size: int) -> int:
    magic, version, tensors, keys = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in {2, 3} or tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise ValueError
    for _ in range(keys):
        _skip_string(file, size)
        _skip_value(file, size, _read_int(file, 4))
    total = 0
    blocks = _get_block_sizes()
    for _ in range(tensors):
        _skip_string(file, size)
        dimensions = _read_int(file, 4)
        if dimensions > MAX_DIMENSIONS:
            raise ValueError
        numbers = math.prod(_read_int(file, 8) for _ in range(dimensions))
        kind, offset = _read_int(file, 4), _read_int(file, 8)
        # A parser in C that trusts these sizes would read beyond the file. An unknown format takes
        # at least one bit per number.
        per_block, bytes_of_block = blocks.get(kind, (8, 1))
        if numbers > 8 * size or offset + numbers // per_block * bytes_of_block > size:
            raise ValueError
        total += numbers
    if file.tell() > size or total > 8 * size:
        raise ValueError
    return total


def _get_block_sizes() -> Mapping[int, tuple[int, int]]:
    """For each number format: the numbers per block, and the bytes of a block."""
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError:
        raise MissingExtra(
            "gguf is not installed here", fix="pip install 'medtask[gguf]' or 'medtask[hf]'"
        ) from None
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
    length = _read_int(file, 8)
    if length > MAX_STRING_BYTES or file.tell() + length > size:
        raise ValueError
    file.seek(length, 1)


def _read_int(file: BinaryIO, width: int) -> int:
    data = file.read(width)
    if len(data) != width:
        raise ValueError
    return int.from_bytes(data, "little")

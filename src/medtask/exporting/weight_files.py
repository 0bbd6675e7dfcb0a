"""Weights in safetensors files: read from one file at a time, and written one weight at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.engines.files.weights import read_safetensors_header
from medtask.errors import InputError
from medtask.stored_weights import list_weight_files

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT = 8


class WeightFiles:
    """The weights of a model's folder: those that transformers loads.

    One file is open at a time: the pages of an open file count as memory of the process, so that
    a model of many files would fill it.

    Attributes:
        names: The names of the weights in each file.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers of the files.

        Raises:
            InputError: A file or the index is damaged.
        """
        self._path_by_name: dict[str, Path] = {}
        self._headers: dict[str, Mapping[str, Any]] = {}
        self.names: dict[str, list[str]] = {}
        for path in list_weight_files(folder):
            header = read_safetensors_header(path)
            self._headers |= header
            self._path_by_name |= dict.fromkeys(header, path)
            self.names[path.name] = sorted(header, key=lambda name: _get_start(header[name]))
        self._open_path: Path | None = None
        self._open_file: Any = None

    def __contains__(self, name: object) -> bool:
        return name in self._path_by_name

    def list_names(self) -> list[str]:
        """All weights, file by file, in the order of their bytes."""
        return [name for names in self.names.values() for name in names]

    def get_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight, without reading it."""
        return tuple(self._headers[name]["shape"])

    def get_dtype(self, name: str) -> str:
        """The number format of a weight, as safetensors names it: "F32", "BF16"."""
        return str(self._headers[name]["dtype"])

    def read(self, name: str) -> Tensor:
        """One weight. Raises InputError if its file is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self._path_by_name[name]
        try:
            if path != self._open_path:
                self.close()
                self._open_file = safe_open(path, framework="pt")
                self._open_path = path
            weight: Tensor = self._open_file.get_tensor(name)
        except SafetensorError as error:
            raise InputError(f"{path} is damaged: {error}", fix="fetch the model again") from None
        return weight

    def close(self) -> None:
        self._open_file = self._open_path = None


def write_weights(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
    weights: Iterable[tuple[str, Tensor]],
) -> int:
    """Write a safetensors file, one weight at a time; the library's own function needs all at once.

    Args:
        path: The file.
        shapes: The shape of each weight, in the order of ``weights``.
        dtypes: The number format of each weight, as safetensors names it.
        weights: Name and values.

    Returns:
        The number of bytes of all weights.
    """
    import torch

    start, header = 0, dict[str, Any](__metadata__={"format": "pt"})
    for name, shape in shapes.items():
        end = start + math.prod(shape) * _get_bytes(dtypes[name])
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, weight in weights:
            if tuple(weight.shape) != tuple(shapes[name]):
                raise InputError(
                    f"{name} has the shape {list(weight.shape)} instead of {list(shapes[name])}",
                    fix="name the base that the adapter was trained on",
                )
            file.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return start


def _get_start(entry: Mapping[str, Any]) -> int:
    return int(entry["data_offsets"][0])


def _get_bytes(dtype: str) -> int:
    """Bytes of one value: F32 has 32 bits, F8_E4M3 has 8, BOOL has 8."""
    digits = "".join(one for one in dtype.partition("_")[0] if one.isdigit())
    return int(digits or 8) // 8

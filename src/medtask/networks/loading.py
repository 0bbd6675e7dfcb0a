"""Reads configs and weights of networks that medtask computes itself.

Importing transformers takes longer than loading a small model. Its models are used for everything
that these networks do not know: readers of a config return None for any key or value that may
change a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medtask.json_files import find_json_object
from medtask.stored_weights import list_weight_files

_INITIALIZERS = frozenset({"normal_", "uniform_", "kaiming_uniform_"})

# Keys of configs that do not change the numbers of a forward pass.
DESCRIPTIVE_KEYS = frozenset(
    {
        "_name_or_path",
        "_model_name_or_path",
        "architectures",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "gradient_checkpointing",
        "initializer_range",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
)


class BlankParameters(TorchFunctionMode):
    """Creates modules on the meta device without initial values.

    Random numbers on that device make torch import its compiler.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.__name__ in _INITIALIZERS:
            return None  # modules do not use the result
        with torch.device("meta"):
            return func(*args, **(kwargs or {}))


def read_config(folder: Path, known: frozenset[str], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model; empty for one with unknown keys or values.

    Args:
        folder: The model's folder.
        known: Keys whose values the network uses.
        fixed: Keys with the only value that the network computes.
    """
    config = find_json_object(folder / "config.json")
    if set(config) - known - fixed.keys() - DESCRIPTIVE_KEYS:
        return {}
    return config if all(config.get(key, value) == value for key, value in fixed.items()) else {}


def fill_network(
    network: nn.Module, folder: Path, dtype: torch.dtype, ignored: tuple[str, ...] = ()
) -> bool:
    """Fill a network on the meta device with the weights of a folder.

    Args:
        network: The network; its parameters have the names of the stored weights.
        folder: The model's folder.
        dtype: Number format of the parameters.
        ignored: Starts of the names of weights that may be stored or not, and are not used.

    Returns:
        Whether names and shapes of all weights are those of the network.
    """
    weights: dict[str, Tensor] = {}
    for path in list_weight_files(folder):
        weights |= load_file(path)
    weights = {name: value for name, value in weights.items() if not name.startswith(ignored)}
    parameters = dict(network.named_parameters())  # tied ones once, by their first name
    if {name: value.shape for name, value in weights.items()} != {
        name: value.shape for name, value in parameters.items()
    }:
        return False
    filled = {
        parameter: nn.Parameter(weights[name].to(dtype), requires_grad=False)
        for name, parameter in parameters.items()
    }
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, filled[parameter])
    return True

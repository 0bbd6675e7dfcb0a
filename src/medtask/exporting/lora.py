"""Reads a PEFT adapter, and merges it into the weights of its base, one tensor at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import regex

from medtask.display import quote_names
from medtask.engines.files.adapter_files import normalize_stored_name
from medtask.engines.files.mlx_adapter import open_as_peft
from medtask.engines.files.model_files import ADAPTER_CONFIG, read_model_json
from medtask.errors import InputError
from medtask.model_weights import refuse_weights
from medtask.stored_weights import ADAPTER_FILE

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX, _HEAD = "base_model.model.", "lm_head.weight"
_PART = re.compile(
    r"^(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector)(\.weight)?$"
)
_TOKENS = ".token_adapter.trainable_tokens_delta"
# Settings that change how the adapter's tensors enter the model; they are not merged.
_UNSUPPORTED = (
    "lora_bias",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
)
# Initialisations that subtract the first update from the base's weights, which PEFT repeats when
# it loads such an adapter.
_CHANGE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
_PATTERN_SECONDS = 1.0
_FIX = "merge it with the library that trained it, and export the merged model"


@dataclass(frozen=True, slots=True)
class _LowRankUpdate:
    """The tensors of one adapted weight, by name in the adapter's files."""

    a: str
    b: str
    scale: float
    magnitude: str | None = None
    is_embedding: bool = False


class LoraAdapter:
    """A LoRA, rsLoRA or DoRA adapter as PEFT stores it (Hu et al. 2021; Kalajdzievski 2023; Liu et
    al. 2024).

    Attributes:
        folder: The adapter's folder.
        trained_modules: Names of modules of which the adapter stores a trained copy.
        replaced: Names of weights that the adapter stores whole, such as trained embeddings.
    """

    def __init__(self, folder: Path, weight_names: Collection[str]) -> None:
        """Match the tensors of an adapter with the weights of its base.

        Raises:
            InputError: The adapter is not a kind that can be merged, or its files are damaged.
            EngineError: A tensor of the adapter has no place in the base.
        """
        self.folder = folder
        self._files = ExitStack()
        peft_folder = self._files.enter_context(open_as_peft(folder))
        config = read_model_json(peft_folder / ADAPTER_CONFIG)
        _check_config(folder, config)
        self.trained_modules = tuple(config.get("modules_to_save") or ())
        self._transposed = bool(config.get("fan_in_fan_out"))
        self._file = self._open_file(peft_folder)
        find_weight = _make_weight_finder(weight_names)
        updates, stored = _group_tensors(self._file.keys())
        self.replaced: dict[str, str] = {}
        self._updates: dict[str, _LowRankUpdate] = {}
        self._token_rows: dict[str, tuple[str, list[int]]] = {}
        # A base with tied embeddings has no output layer, and an adapter may store one.
        places = {
            module: find_weight(module.removesuffix(_TOKENS)) or _find_head(module)
            for module in (*updates, *stored)
        }
        self._base = config.get("base_model_name_or_path")
        self._refuse(
            [module for module, place in places.items() if place is None],
            "without a place in this model",
        )
        for module, parts in updates.items():
            self._updates[str(places[module])] = _build_update(
                module, parts, config, self.read_tensor
            )
        for name, tensor_name in stored.items():
            if name.endswith(_TOKENS):
                rows = _read_token_rows(folder, config, name.removesuffix(_TOKENS))
                self._token_rows[str(places[name])] = tensor_name, rows
            else:
                self.replaced[str(places[name])] = tensor_name
        if config.get("trainable_token_indices") and not self._token_rows:
            _read_token_rows(folder, {}, "")

    def _open_file(self, folder: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        path = folder / ADAPTER_FILE
        if not path.is_file():
            raise InputError(
                f"{self.folder} has no {ADAPTER_FILE}; pickled weights are not loaded",
                fix="save the adapter again with PEFT",
            )
        try:
            file = self._files.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise InputError(f"{path} is damaged: {error}", fix="copy the adapter again") from None
        return file

    def _refuse(self, names: Collection[str], problem: str) -> None:
        refuse_weights(
            f"the adapter {self.folder} does not fit this model",
            problem,
            names,
            f"name the base that it was trained on (adapter_config.json names {self._base}), "
            f"or {_FIX}",
        )

    def close(self) -> None:
        self._files.close()

    def read_tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    @property
    def updated(self) -> Collection[str]:
        """Names of weights with a low-rank update."""
        return self._updates.keys()

    def has_equal_weights(self, first: str, second: str) -> bool:
        """Whether two weights that the adapter stores whole are equal."""
        import torch

        found = [self.replaced.get(name) for name in (first, second)]
        if None in found or first in self._updates or second in self._updates:
            return False
        return torch.equal(*(self.read_tensor(str(name)) for name in found))

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """The weight with the adapter's change, computed in float32, in the weight's dtype.

        Raises:
            EngineError: The adapter is one of a base of another size.
        """
        if name in self.replaced:
            weight = self.read_tensor(self.replaced[name]).to(weight.dtype)
        if name in self._token_rows:
            tensor_name, rows = self._token_rows[name]
            weight = weight.clone()
            weight[rows] = self.read_tensor(tensor_name).to(weight.dtype)
        update = self._updates.get(name)
        if update is None:
            return weight
        a, b = self.read_tensor(update.a).float(), self.read_tensor(update.b).float()
        change = (b @ a) * update.scale
        if update.is_embedding or self._transposed:
            change = change.T
        if change.shape != weight.shape:
            self._refuse([name], "of another shape than this model's")
        merged = weight.float() + change
        if update.magnitude is not None:
            magnitude = self.read_tensor(update.magnitude).float()
            # For embeddings PEFT stores one of each dimension, and mlx-lm one of each token.
            is_for_columns = update.is_embedding and len(magnitude) == merged.shape[1]
            norm = merged.norm(dim=0 if is_for_columns else 1, keepdim=True)
            merged *= magnitude.view_as(norm) / norm
        return merged.to(weight.dtype)


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise InputError(
            f"{folder} is an adapter of the type {kind}; only LoRA, rsLoRA and DoRA are merged",
            fix=_FIX,
        )
    if unsupported := [name for name in _UNSUPPORTED if config.get(name)]:
        raise InputError(
            f"{folder / ADAPTER_CONFIG} sets {quote_names(unsupported)}, which is not merged",
            fix=_FIX,
        )
    if str(config.get("init_lora_weights")).lower().startswith(_CHANGE_BASE):
        raise InputError(
            f"{folder} was initialised with {config['init_lora_weights']}, which changes the "
            "weights of its base",
            fix="save it with path_initial_model_for_weight_conversion, or export the merged model",
        )
    if config.get("use_dora") and config.get("fan_in_fan_out"):
        raise InputError(f"{folder} combines DoRA with transposed weights", fix=_FIX)


def _read_token_rows(folder: Path, config: Mapping[str, Any], module: str) -> list[int]:
    """The tokens whose embeddings an adapter stores alone. Raises InputError if not valid."""
    setting = config.get("trainable_token_indices")
    if isinstance(setting, dict):
        setting = next((rows for name, rows in setting.items() if module.endswith(name)), None)
    if not isinstance(setting, list) or not all(type(row) is int for row in setting):
        raise InputError(
            f"the adapter's tensors of trainable_token_indices in {folder} are incomplete",
            fix="save the adapter again",
        )
    return setting


def _group_tensors(
    names: Iterable[str],
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The low-rank parts by module, and tensors that are stored whole, by weight name."""
    updates: dict[str, dict[str, str]] = {}
    stored: dict[str, str] = {}
    for tensor_name in names:
        name = tensor_name.removeprefix(_PREFIX)
        if ".original_module." in name:  # a copy of the base's weight
            continue
        if match := _PART.match(name):
            updates.setdefault(match["module"], {})[match["part"]] = tensor_name
        else:
            # Stored beside the update of the same weight, such as resized embeddings.
            stored[normalize_stored_name(name)] = tensor_name
    return updates, stored


def _build_update(
    module: str,
    parts: Mapping[str, str],
    config: Mapping[str, Any],
    read_tensor: Callable[[str], Tensor],
) -> _LowRankUpdate:
    is_embedding = "lora_embedding_A" in parts
    kind = "lora_embedding_" if is_embedding else "lora_"
    try:
        a, b = parts[f"{kind}A"], parts[f"{kind}B"]
        rank = int(read_tensor(a).shape[0])
        alpha = float(_find_by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"]))
    except (KeyError, TypeError, ValueError, TimeoutError, regex.error):
        raise InputError(
            f"the adapter's tensors of {module} are incomplete", fix="save the adapter again"
        ) from None
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return _LowRankUpdate(a, b, scale, parts.get("lora_magnitude_vector"), is_embedding)


def _find_by_pattern(patterns: object, module: str, default: Any) -> Any:
    """The value of the first pattern that the end of the module's name matches, as PEFT does."""
    for pattern, value in (patterns or {}).items() if isinstance(patterns, dict | None) else ():
        # The pattern comes from a file: its search must end.
        if regex.match(rf"(.*\.)?({pattern})$", module, timeout=_PATTERN_SECONDS):
            return value
    return default


def _make_weight_finder(weight_names: Collection[str]) -> Callable[[str], str | None]:
    """Maps an adapter's name of a module or weight to the weight in the base's files.

    Files of models with several parts name their weights differently from the modules in memory:
    such a name is found by its part from the layers on. Of several weights with it, such as those
    of a vision tower, it is the one that has more of the name's other parts.
    """
    by_tail: dict[str, list[str]] = {}
    for name in weight_names:
        by_tail.setdefault(_get_tail(name), []).append(name)

    def find(name: str) -> str | None:
        for candidate in (name, f"{name}.weight"):
            if candidate in weight_names:
                return candidate
        for candidate in (name, f"{name}.weight"):
            if found := _choose_closest(candidate, by_tail.get(_get_tail(candidate), [])):
                return found
        return None

    return find


def _choose_closest(name: str, weights: Sequence[str]) -> str | None:
    """The weight that has most parts of a name; None if there is none, or several have as many."""
    parts = set(name.split("."))
    shared = [len(parts & set(weight.split("."))) for weight in weights]
    most = max(shared, default=0)
    return weights[shared.index(most)] if shared.count(most) == 1 else None


def _find_head(module: str) -> str | None:
    """The name of an output layer's weight; None for another module."""
    name = module if module.endswith(".weight") else f"{module}.weight"
    return name if name.endswith(_HEAD) else None


def _get_tail(name: str) -> str:
    return name[name.rindex("layers.") :] if "layers." in name else name.rpartition("model.")[2]

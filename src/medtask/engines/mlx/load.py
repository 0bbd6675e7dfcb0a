"""Loads a model with mlx-lm as a tested engine."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.display import format_bytes
from medtask.engines.base import EngineInfo
from medtask.engines.files.mlx_adapter import (
    check_base_sizes,
    make_misfit_error,
    read_mlx_adapter,
)
from medtask.engines.files.mlx_weights import require_mlx
from medtask.engines.files.model_files import (
    MLX_ADAPTER_WEIGHTS,
    ModelFiles,
    format_title,
    is_mlx_adapter,
    list_adapter_notes,
    list_token_ids,
    locate_model,
    make_load_error,
    read_model_json,
)
from medtask.engines.files.probe_results import ProbeKey
from medtask.engines.files.weights import (
    BYTES_PER_WEIGHT,
    count_parameters,
    dequantize_gguf,
    hash_model_files,
    hash_weights,
)
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.model_metadata import check_trained_files
from medtask.engines.packed_engine import PROBE_TOLERANCES
from medtask.errors import InputError, ModelTooLarge
from medtask.hardware import inspect_machine
from medtask.model_weights import BLANK, NOT_FINITE, is_weight_matrix, refuse_weights
from medtask.privacy import block_network
from medtask.stored_weights import list_weight_files

if TYPE_CHECKING:
    from medtask.engines.mlx.engine import MlxEngine

_ADAPTER_LEAVES = frozenset({"lora_a", "lora_b", "m"})
WORKING_MEMORY_BYTES = 1_000_000_000  # Python, mlx and the keys and values of a pack


def load_mlx(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> MlxEngine:
    """Load ``mlx:REFERENCE``, or a folder quantised by mlx-lm, with mlx-lm.

    ``options.dtype`` "auto" is float32 on a CPU, the dtype of the files on a GPU.
    ``options.adapter``, or ``REFERENCE``, is a folder with an adapter of mlx-lm.

    Raises the errors of `load_model` in registry.py.
    """
    require_mlx()
    files = locate_model(reference.removeprefix("mlx:"))
    if options.adapter is not None:
        files = replace(files, adapter=Path(options.adapter))
    elif files.adapter and not is_mlx_adapter(files.adapter):
        raise InputError(
            f"{files.adapter} is a PEFT adapter, which mlx-lm cannot read",
            fix="leave mlx: out: the hf engine reads it",
        )
    check_trained_files(files)
    with block_network():
        try:
            return _build_engine(files, options)
        except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
            raise make_load_error(files.reference, error) from error


def is_on_cpu() -> bool:
    """Whether mlx computes on the CPU of this machine, and not on a GPU."""
    import mlx.core as mx

    return bool(mx.default_device().type == mx.DeviceType.cpu)


def translate_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json keys that mlx-lm expects under other names than transformers 5 writes,
    for the argument model_config of load_model.

    Most architectures of mlx-lm silently use the default for a missing key: the model then runs
    with wrong settings.
    """
    translated: dict[str, Any] = {}
    ropes = config.get("rope_parameters") or {}
    rope = ropes.get("full_attention", ropes)
    if "rope_theta" in rope:
        translated["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            translated["rope_scaling"] = rope
        if "partial_rotary_factor" in rope:
            translated["partial_rotary_factor"] = rope["partial_rotary_factor"]
        if "sliding_attention" in ropes:
            translated["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
    layers = config.get("layer_types") or []
    if "sliding_attention" in layers and "full_attention" in layers:
        translated["sliding_window_pattern"] = pattern = layers.index("full_attention") + 1
        regular = all(
            (kind == "full_attention") == (place % pattern == 0)
            for place, kind in enumerate(layers, 1)
        )
        if str(config.get("model_type")).startswith("gemma3") and not regular:
            raise ValueError("its layers do not alternate in the pattern that mlx-lm expects")
    translated = {key: value for key, value in translated.items() if config.get(key) is None}
    if isinstance(inner := config.get("text_config"), dict):
        translated["text_config"] = {**inner, **translate_config(inner)}
    return translated


def _build_engine(files: ModelFiles, options: LoadOptions) -> MlxEngine:
    from transformers import AutoTokenizer

    from medtask.engines.mlx.engine import MlxEngine

    folder, hashes = _resolve_weights(files)
    on_cpu = is_on_cpu()
    target_dtype = "float32" if options.dtype == "auto" and on_cpu else options.dtype
    _check_memory(replace(files, path=folder), target_dtype, options.memory)
    model, config = _load_weights(files, folder, target_dtype)
    loaded_dtype = _read_dtype(model)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    bits = (config.get("quantization") or {}).get("bits")
    versions = {
        f"{name.replace('-', '_')}_version": importlib.metadata.version(name)
        for name in ("mlx", "mlx-lm")
    }
    identity = {
        "model": files.reference,
        "engine": "mlx",
        "dtype": loaded_dtype,
        "quantize": f"{bits}bit" if bits else "no",
        **hashes,
        **versions,
    }
    if files.revision:
        identity["revision"] = files.revision
    device = "cpu" if on_cpu else "gpu"
    title = format_title(
        files.reference,
        Path(options.adapter).name if options.adapter else None,
        "mlx",
        f"{bits}bit" if bits else loaded_dtype,
        device,
    )
    engine = MlxEngine(
        model,
        tokenizer,
        EngineInfo(
            "mlx",
            title,
            identity,
            device=device,
            notes=list_adapter_notes(files.reference, options.adapter),
            details={"downloaded": files.downloaded},
        ),
        max_input_tokens=_find_context_length(config, tokenizer),
        eos_token_ids=list_token_ids(config.get("eos_token_id")),
    )
    key = ProbeKey({**identity, "device": device}, ("mlx", "mlx-lm"))
    engine.check_packing(PROBE_TOLERANCES[loaded_dtype], key)
    return engine


def _resolve_weights(files: ModelFiles) -> tuple[Path, dict[str, str]]:
    """The folder with the weights of the base, and the hashes of all files."""
    adapter = {"adapter": hash_weights(files.adapter)} if files.adapter else {}
    if files.is_gguf:
        folder, sha256 = dequantize_gguf(files.path)
        return folder, {"file": sha256, **adapter}
    # mlx-lm loads all of them, transformers only those of the model.
    if set(files.path.glob("model*.safetensors")) != set(list_weight_files(files.path)):
        raise InputError(
            f"{files.path} has more weights than those of its model, and mlx-lm would load them",
            fix="move the other files model*.safetensors to another folder",
        )
    hashes = {"weights": hash_weights(files.path), **hash_model_files(files.path)}
    return files.path, {**hashes, **adapter}


def _load_weights(files: ModelFiles, folder: Path, dtype: str) -> tuple[Any, dict[str, Any]]:
    """The model with its adapter, and its config."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    base_config = read_model_json(folder / "config.json")
    if files.adapter:
        read_mlx_adapter(files.adapter)
        check_base_sizes(files.adapter, base_config)
    model, config = load_model(folder, model_config=translate_config(base_config))
    if files.adapter:
        _apply_adapter(model, files.adapter)
    _check_weight_values(model, files.reference)
    if dtype != "auto":
        model.set_dtype(getattr(mx, dtype))
    return model, config


def _apply_adapter(model: Any, adapter: Path) -> None:
    from mlx_lm.utils import load_adapters

    try:
        load_adapters(model, str(adapter)).eval()
    except ValueError as error:  # one line for each tensor that does not fit
        first, *others = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        more = f", and {len(others):,} more" if others else ""
        raise make_misfit_error(adapter, f"{first}{more}") from None
    _check_adapter_weights(model, adapter)


def _check_adapter_weights(model: Any, adapter: Path) -> None:
    """Raise EngineError for missing matrices of an adapter, which mlx-lm initialises at random."""
    import mlx.core as mx

    stored = mx.load(str(adapter / MLX_ADAPTER_WEIGHTS))
    names = (name for name, _ in _list_weights(model))
    expected = {name for name in names if name.rpartition(".")[2] in _ADAPTER_LEAVES}
    refuse_weights(
        f"the adapter {adapter} does not fit this model", "missing", expected - set(stored)
    )


def _check_weight_values(model: Any, reference: str) -> None:
    """Raise EngineError for weights that are not finite, and for matrices of zeros."""
    import mlx.core as mx

    floats = {
        name: weights
        for name, weights in _list_weights(model)
        if mx.issubdtype(weights.dtype, mx.floating)
    }
    not_finite = [name for name, found in floats.items() if not mx.isfinite(found).all().item()]
    refuse_weights(reference, NOT_FINITE, not_finite)
    blank = [
        name
        for name, found in floats.items()
        if is_weight_matrix(name, found.shape)
        and name.rpartition(".")[2] not in _ADAPTER_LEAVES
        and not found.any().item()
    ]
    refuse_weights(reference, BLANK, blank)


def _list_weights(model: Any) -> list[tuple[str, Any]]:
    from mlx.utils import tree_flatten

    weights: Any = tree_flatten(model.parameters())
    return list(weights)


def _check_memory(files: ModelFiles, dtype: str, memory: int | None) -> None:
    available_bytes = inspect_machine(accelerator=False).available_bytes
    allowed_bytes = available_bytes if memory is None else min(available_bytes, memory)
    file_bytes = sum(path.stat().st_size for path in files.path.glob("*.safetensors"))
    needed_bytes = (
        count_parameters(files) * BYTES_PER_WEIGHT[dtype] if dtype == "float32" else file_bytes
    ) + WORKING_MEMORY_BYTES
    if needed_bytes > allowed_bytes:
        raise ModelTooLarge(
            f"{files.reference} needs about {format_bytes(needed_bytes)}; "
            f"{format_bytes(allowed_bytes)} may be used here",
            fix="take a smaller model, or one that mlx-lm has quantised"
            + (", or raise --memory" if memory is not None else ""),
        )


def _read_dtype(model: Any) -> str:
    """The dtype of most weights or, if they are quantised, of their scales."""
    counts: Counter[str] = Counter()
    for _, weights in _list_weights(model):
        counts[str(weights.dtype).removeprefix("mlx.core.")] += weights.size
    return max(PROBE_TOLERANCES, key=lambda name: counts[name])


def _find_context_length(config: Mapping[str, Any], tokenizer: Any) -> int:
    inner = config.get("text_config") or {}
    limits = (
        config.get("max_position_embeddings"),
        inner.get("max_position_embeddings"),
        tokenizer.model_max_length,
    )
    return int(min(limit for limit in limits if limit))

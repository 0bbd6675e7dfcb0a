"""Loads a GGUF file as a tested llama.cpp engine."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.display import format_bytes
from medtask.engines.base import EngineInfo
from medtask.engines.files.gguf_header import check_gguf_tensors, read_gguf_header
from medtask.engines.files.model_files import format_title, locate_model
from medtask.engines.files.probe_results import ProbeKey
from medtask.engines.files.weights import hash_file_cached, read_cached_hash
from medtask.engines.llamacpp.log import collect_log_errors, format_log_error
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.packed_engine import PROBE_TOLERANCES
from medtask.errors import EngineError, MissingExtra, ModelNotFound, ModelTooLarge, UsageError
from medtask.hardware import Machine, inspect_machine
from medtask.privacy import block_network

if TYPE_CHECKING:
    from medtask.engines.llamacpp.engine import LlamaCppEngine

SCHEME = "llamacpp:"
INITIAL_CELLS = 4096  # tokens of keys and values at the start; enlarged as rows need more
WORKING_MEMORY_BYTES = 400_000_000  # bytes: Python, logits, llama.cpp's own buffers
QUANTIZED_PROBE_TOLERANCE = 0.1  # of a probability: kernels for quantised weights round more
ALL_LAYERS = 999


def load_llamacpp(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> LlamaCppEngine:
    """Load a .gguf file, or ``smollm2-135m``, with llama.cpp.

    ``options.dtype``: "file" uses the weights as stored, "float16" dequantises them (see
    dequantization.py), "auto" dequantises them on a CPU with enough memory. ``options.device``:
    "cuda" and "mps" offload all layers, "auto" too if llama.cpp was built with GPU support.

    Raises the errors of `load_model` in registry.py.
    """
    try:
        import llama_cpp
    except ImportError:
        fix = (
            "pip install 'medtask[gguf]' (it is built from source: a C++ compiler and cmake, "
            "some minutes)"
        )
        raise MissingExtra("llama-cpp-python is not installed here", fix=fix) from None
    if options.dtype not in {"auto", "file", "float16"}:
        raise UsageError(
            f"llama.cpp does not support --dtype {options.dtype}",
            fix="leave --dtype out, or choose file or float16",
        )
    name = reference.removeprefix(SCHEME)
    files = locate_model(name)
    if not files.is_gguf:
        raise UsageError(
            f"{name} is not a GGUF file, and llama.cpp reads only those",
            fix=f"leave {SCHEME} out, or name a .gguf file",
        )
    # Validated before a parser in C reads the file.
    weights = read_gguf_header(files.path).parameters
    check_gguf_tensors(files.path)
    collect_log_errors()
    machine = inspect_machine(accelerator=False)
    gpu_supported = llama_cpp.llama_supports_gpu_offload()
    plan = plan_llamacpp_load(files.path, weights, machine, options, gpu_supported=gpu_supported)
    with block_network():
        adapter = _check_adapter(options.adapter)
        return _build_engine(name, files.path, plan, adapter, options.threads or machine.cores)


@dataclass(frozen=True, slots=True)
class LlamaCppLoadPlan:
    """How a file will be loaded. ``allowed_bytes`` is the memory that may be used in total,
    ``needed_bytes`` that of the weights.
    """

    offload: bool
    dequantize: bool
    allowed_bytes: int
    needed_bytes: int


def plan_llamacpp_load(
    path: Path,
    weights: int,
    machine: Machine,
    options: LoadOptions,
    *,
    gpu_supported: bool,
) -> LlamaCppLoadPlan:
    """Choose device and dtype; raises ModelTooLarge if no allowed choice fits.

    ``gpu_supported``: llama.cpp was built with GPU support.
    """
    from medtask.engines.llamacpp.dequantization import FLOAT16_BYTES, should_dequantize

    offload = _choose_offload(options.device, gpu_supported)
    memory = options.memory
    size = path.stat().st_size
    allowed_bytes = (
        min(machine.available_bytes, memory) if memory is not None else machine.available_bytes
    )
    dequantize = options.dtype == "float16" or (
        options.dtype == "auto" and not offload and should_dequantize(weights, size, allowed_bytes)
    )
    needed_bytes = weights * FLOAT16_BYTES if dequantize else size
    if not offload and needed_bytes + WORKING_MEMORY_BYTES > allowed_bytes:
        fix = "take a smaller file" + (", or raise --memory" if memory is not None else "")
        raise ModelTooLarge(
            f"{path.name} needs about {format_bytes(needed_bytes + WORKING_MEMORY_BYTES)}; "
            f"{format_bytes(allowed_bytes)} may be used here",
            fix=fix,
        )
    return LlamaCppLoadPlan(offload, dequantize, allowed_bytes, needed_bytes)


def _choose_offload(device: str, supported: bool) -> bool:
    if device in {"cuda", "mps"} and not supported:
        flag = {"cuda": "-DGGML_CUDA=on", "mps": "-DGGML_METAL=on"}[device]
        raise UsageError(
            f"this llama-cpp-python was built without {device}",
            fix=(
                f'CMAKE_ARGS="{flag}" pip install --force-reinstall --no-cache-dir '
                "llama-cpp-python, or leave --device out"
            ),
        )
    return supported and device != "cpu"


def _check_adapter(adapter: str | None) -> Path | None:
    if adapter is None:
        return None
    path = Path(adapter)
    if path.suffix != ".gguf" or not path.is_file():
        raise ModelNotFound(
            f"{adapter} is no adapter that llama.cpp can read",
            fix="convert it to a .gguf file, or use the hf engine",
        )
    read_gguf_header(path)
    return path


def _build_engine(
    reference: str, path: Path, plan: LlamaCppLoadPlan, adapter: Path | None, threads: int
) -> LlamaCppEngine:
    import llama_cpp

    from medtask.engines.llamacpp.context import LlamaContext
    from medtask.engines.llamacpp.dequantization import dequantize_weights
    from medtask.engines.llamacpp.engine import LlamaCppEngine
    from medtask.engines.llamacpp.tokenizer import GgufTokenizer

    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers = ALL_LAYERS if plan.offload else 0
    # Reads all weights once. A file with a cached hash has passed this check before.
    settings.check_tensors = read_cached_hash(path) is None
    loaded = dequantize_weights(path) if plan.dequantize else path
    model = llama_cpp.llama_model_load_from_file(str(loaded).encode(), settings)
    if not model:
        fix = (
            "fetch the file again, or update llama-cpp-python: it may not know this "
            "architecture yet"
        )
        raise EngineError(f"llama.cpp could not load {reference}{format_log_error()}", fix=fix)
    gguf_metadata = _read_gguf_metadata(model)
    limit = llama_cpp.llama_model_n_ctx_train(model)
    kv_bytes = int((plan.allowed_bytes - plan.needed_bytes - WORKING_MEMORY_BYTES) * 0.8)
    max_cells = (
        4 * limit
        if plan.offload
        else max(INITIAL_CELLS, kv_bytes // _count_cell_bytes(model, gguf_metadata))
    )
    tokenizer = GgufTokenizer(model, gguf_metadata.get("general.name", path.stem), gguf_metadata)
    lora = _load_adapter(model, adapter) if adapter else None
    context = LlamaContext(
        model,
        tokenizer.vocabulary_size,
        cells=INITIAL_CELLS,
        threads=threads,
        offload=plan.offload,
        adapter=lora,
    )
    engine = LlamaCppEngine(
        model,
        context,
        tokenizer,
        _build_info(reference, path, plan, adapter, gguf_metadata, threads),
        max_input_tokens=min(limit, max_cells),
        max_cells=max_cells,
    )
    engine.check_packing(
        PROBE_TOLERANCES["float16"] if plan.dequantize else QUANTIZED_PROBE_TOLERANCE,
        ProbeKey(
            {**engine.info.identity, "device": "gpu" if plan.offload else "cpu"},
            ("llama-cpp-python",),
        ),
    )
    return engine


def _build_info(
    reference: str,
    path: Path,
    plan: LlamaCppLoadPlan,
    adapter: Path | None,
    gguf_metadata: Mapping[str, str],
    threads: int,
) -> EngineInfo:
    import llama_cpp

    weights = "float16" if plan.dequantize else "as in the file"
    identity = {
        "model": reference,
        "engine": "llamacpp",
        "file": hash_file_cached(path),
        "weights": weights,
    }
    identity["llama_cpp_python"] = llama_cpp.__version__
    if adapter:
        identity["adapter"] = hash_file_cached(adapter)
    device = "gpu" if plan.offload else "cpu"
    details = {
        "threads": threads,
        "architecture": gguf_metadata.get("general.architecture", ""),
        "build": llama_cpp.llama_print_system_info().decode(),
    }
    title = format_title(
        reference, adapter.stem if adapter else None, "llama.cpp", f"weights {weights}", device
    )
    return EngineInfo("llamacpp", title, identity, device=device, details=details)


def _read_gguf_metadata(model: Any) -> dict[str, str]:
    """The text and number values of the file's metadata."""
    import llama_cpp

    gguf_metadata = {}
    buffer = ctypes.create_string_buffer(1 << 20)
    for index in range(llama_cpp.llama_model_meta_count(model)):
        if llama_cpp.llama_model_meta_key_by_index(model, index, buffer, len(buffer)) >= 0:
            key = buffer.value.decode("utf-8", "replace")
            if llama_cpp.llama_model_meta_val_str_by_index(model, index, buffer, len(buffer)) >= 0:
                gguf_metadata[key] = buffer.value.decode("utf-8", "replace")
    return gguf_metadata


def _count_cell_bytes(model: Any, gguf_metadata: Mapping[str, str]) -> int:
    """Bytes of one token's keys and values in float16, in all layers."""
    import llama_cpp

    from medtask.engines.llamacpp.dequantization import FLOAT16_BYTES

    heads, all_heads = llama_cpp.llama_model_n_head_kv(model), llama_cpp.llama_model_n_head(model)
    share = llama_cpp.llama_model_n_embd(model) // max(1, all_heads)
    prefix = f"{gguf_metadata.get('general.architecture')}.attention"
    sizes = (gguf_metadata.get(f"{prefix}.{part}_length", "") for part in ("key", "value"))
    # Heads need not share the width of the embeddings, as in Qwen 3.
    width = sum(int(size) if size.isdecimal() else share for size in sizes)
    layers = max(1, llama_cpp.llama_model_n_layer(model))
    return int(layers * max(1, heads) * width * FLOAT16_BYTES)


def _load_adapter(model: Any, adapter: Path) -> Any:
    import llama_cpp

    lora = llama_cpp.llama_adapter_lora_init(model, str(adapter).encode())
    if not lora:
        raise EngineError(
            f"llama.cpp could not put {adapter.name} on this model{format_log_error()}",
            fix="name an adapter that was made for this base model",
        )
    return lora

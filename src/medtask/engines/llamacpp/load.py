"""From a GGUF file to an engine that was seen to work: header, memory, offload, adapter, probe."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.engines.base import EngineInfo
from medtask.engines.files.gguf import count_gguf_weights
from medtask.engines.files.locate import locate_model
from medtask.engines.files.weights import hash_once
from medtask.errors import EngineError, MissingExtra, ModelNotFound, TooBig, UsageError
from medtask.hardware import Machine, format_bytes, inspect_machine
from medtask.privacy import no_network

if TYPE_CHECKING:
    from medtask.engines.llamacpp.engine import LlamaCppEngine

SCHEME = "llamacpp:"
FIRST_CELLS = 4096  # tokens of keys and values at the start; they grow where rows need more
WORKING_MEMORY = 400_000_000  # bytes: Python, logits, llama.cpp's own buffers
# What the shape of a batch may do to a probability: keys and values are kept in float16, and
# kernels for quantised weights round.
AGREEMENT = {"float16": 0.02, "file": 0.1}
ALL_LAYERS = 999


def load_llamacpp(
    reference: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str | None = None,
    memory: int | None = None,
    adapter: str | None = None,
) -> LlamaCppEngine:
    """A LlamaCppEngine for a .gguf file, or ``smollm2-135m`` (with or without ``llamacpp:`` before
    it).

    ``dtype``: "file" takes the weights as they are, "float16" unpacks them (see unpack.py), "auto"
    does so on a CPU where there is room for them. ``device``: "cuda" and "mps" move all layers
    there, "auto" too where llama.cpp was built for it. ``memory``: bytes that the model and its
    work may take. ``adapter``: a LoRA adapter in a .gguf file.

    Raises ModelNotFound, MissingExtra, InputError, TooBig, EngineError, or UsageError for a wish
    that cannot be granted.
    """
    try:
        import llama_cpp
    except ImportError:
        fix = (
            "pip install 'medtask[gguf]' (it is built from source: a C++ compiler and cmake, "
            "some minutes)"
        )
        raise MissingExtra("llama-cpp-python is not installed here", fix=fix) from None
    if dtype not in {"auto", "file", "float16"} or quantize:
        raise UsageError(
            "a GGUF file has its number format already",
            fix="leave --quantize out; --dtype can be file or float16",
        )
    name = reference.removeprefix(SCHEME)
    files = locate_model(name)
    if not files.is_gguf:
        raise UsageError(
            f"{name} is no GGUF file, and llama.cpp reads nothing else",
            fix=f"leave {SCHEME} out, or name a .gguf file",
        )
    weights = count_gguf_weights(files.path)  # before the parser in C sees a foreign file
    llama_cpp.llama_log_set(_silence(), None)
    machine = inspect_machine(accelerator=False)
    plan = plan_loading(
        files.path, weights, machine, dtype, device, memory, llama_cpp.llama_supports_gpu_offload()
    )
    with no_network():
        return _open(name, files.path, plan, _check_adapter(adapter), machine.cores)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a file will be loaded. ``allowed``: bytes that the model and its work may take;
    ``needed`` of them by the weights.
    """

    offload: bool
    unpack: bool
    allowed: int
    needed: int


def plan_loading(
    path: Path,
    weights: int,
    machine: Machine,
    dtype: str,
    device: str,
    memory: int | None,
    gpu: bool,
) -> Plan:
    """Choose where and in which format; TooBig where nothing that was allowed fits. ``gpu``:
    llama.cpp was built for one.
    """
    from medtask.engines.llamacpp.unpack import BYTES, wants_unpacking

    offload = _choose_offload(device, gpu)
    size = path.stat().st_size
    allowed = (
        min(machine.available_bytes, memory) if memory is not None else machine.available_bytes
    )
    unpack = dtype == "float16" or (
        dtype == "auto" and not offload and wants_unpacking(weights, size, allowed)
    )
    needed = weights * BYTES if unpack else size
    if not offload and needed + WORKING_MEMORY > allowed:
        fix = "take a smaller file" + (", or raise --memory" if memory is not None else "")
        raise TooBig(
            f"{path.name} needs about {format_bytes(needed + WORKING_MEMORY)}; "
            f"{format_bytes(allowed)} may be used here",
            fix=fix,
        )
    return Plan(offload, unpack, allowed, needed)


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
    count_gguf_weights(path)
    return path


def _open(
    reference: str, path: Path, plan: Plan, adapter: Path | None, threads: int
) -> LlamaCppEngine:
    import llama_cpp

    from medtask.engines.llamacpp.context import Context
    from medtask.engines.llamacpp.engine import LlamaCppEngine
    from medtask.engines.llamacpp.unpack import unpack_weights
    from medtask.engines.llamacpp.vocabulary import GgufTokenizer

    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers = ALL_LAYERS if plan.offload else 0
    loaded = unpack_weights(path) if plan.unpack else path
    model = llama_cpp.llama_model_load_from_file(str(loaded).encode(), settings)
    if not model:
        fix = (
            "fetch the file again, or update llama-cpp-python: it may not know this "
            "architecture yet"
        )
        raise EngineError(f"llama.cpp could not load {reference}", fix=fix)
    facts = _read_facts(model)
    limit = llama_cpp.llama_model_n_ctx_train(model)
    room = int((plan.allowed - plan.needed - WORKING_MEMORY) * 0.8)
    most = 4 * limit if plan.offload else max(FIRST_CELLS, room // _count_cell_bytes(model))
    tokenizer = GgufTokenizer(model, facts.get("general.name", path.stem), facts)
    lora = _load_adapter(model, adapter) if adapter else None
    context = Context(
        model,
        tokenizer.size,
        cells=FIRST_CELLS,
        threads=threads,
        offload=plan.offload,
        adapter=lora,
    )
    engine = LlamaCppEngine(
        model,
        context,
        tokenizer,
        _describe(reference, path, plan, adapter, facts, threads),
        limit=min(limit, most),
        most_cells=most,
    )
    engine.check_packing(AGREEMENT["float16" if plan.unpack else "file"])
    return engine


def _describe(
    reference: str,
    path: Path,
    plan: Plan,
    adapter: Path | None,
    facts: Mapping[str, str],
    threads: int,
) -> EngineInfo:
    import llama_cpp

    weights = "float16" if plan.unpack else "as in the file"
    identity = {
        "model": reference,
        "engine": "llamacpp",
        "file": hash_once(path),
        "weights": weights,
    }
    identity["llama_cpp_python"] = llama_cpp.__version__
    if adapter:
        identity["adapter"] = hash_once(adapter)
    device = "gpu" if plan.offload else "cpu"
    details: dict[str, object] = {
        "device": device,
        "threads": threads,
        "architecture": facts.get("general.architecture", ""),
        "build": llama_cpp.llama_print_system_info().decode(),
        "notes": [],
    }
    title = (
        f"{reference}{f' + {adapter.stem}' if adapter else ''}, llama.cpp, weights "
        f"{weights}, {device}"
    )
    return EngineInfo("llamacpp", title, identity, details)


@lru_cache(maxsize=1)
def _silence() -> Any:
    """What llama.cpp calls with every line of its log. It keeps a pointer to it, so it must never
    be collected.
    """
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda level, text, data: None)


def _read_facts(model: Any) -> dict[str, str]:
    """The file's metadata that is text or a number."""
    import llama_cpp

    facts = {}
    buffer = ctypes.create_string_buffer(1 << 20)
    for index in range(llama_cpp.llama_model_meta_count(model)):
        if llama_cpp.llama_model_meta_key_by_index(model, index, buffer, len(buffer)) >= 0:
            key = buffer.value.decode("utf-8", "replace")
            if llama_cpp.llama_model_meta_val_str_by_index(model, index, buffer, len(buffer)) >= 0:
                facts[key] = buffer.value.decode("utf-8", "replace")
    return facts


def _count_cell_bytes(model: Any) -> int:
    """Bytes of a token's keys and values in float16, in all layers."""
    import llama_cpp

    heads, all_heads = llama_cpp.llama_model_n_head_kv(model), llama_cpp.llama_model_n_head(model)
    width = llama_cpp.llama_model_n_embd(model) // max(1, all_heads) * max(1, heads)
    return int(max(1, llama_cpp.llama_model_n_layer(model)) * width * 2 * 2)


def _load_adapter(model: Any, adapter: Path) -> Any:
    import llama_cpp

    lora = llama_cpp.llama_adapter_lora_init(model, str(adapter).encode())
    if not lora:
        raise EngineError(
            f"llama.cpp could not put {adapter.name} on this model",
            fix="name an adapter that was made for this base model",
        )
    return lora

"""From a GGUF file to an engine that was seen to work: header, memory, offload, adapter, probe."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from medtask.engines.base import EngineInfo
from medtask.engines.files.gguf import count_gguf_weights
from medtask.engines.files.locate import locate_model
from medtask.engines.files.weights import hash_once
from medtask.engines.packed import PROBE
from medtask.errors import EngineError, MissingExtra, ModelNotFound, TooBig, UsageError
from medtask.hardware import Machine, format_bytes, inspect_machine
from medtask.privacy import no_network

SCHEME = "llamacpp:"
FIRST_CELLS = 4096  # tokens of keys and values at the start; they grow where rows need more
WORKING_MEMORY = 400_000_000  # bytes: Python, logits, llama.cpp's own buffers
AGREEMENT = 0.02  # keys and values are kept in float16
ALL_LAYERS = 999


def load_llamacpp(
    reference: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str | None = None,
    memory: int | None = None,
    adapter: str | None = None,
) -> Any:
    """A LlamaCppEngine for a .gguf file, or ``smollm2-135m`` (with or without ``llamacpp:`` before it).

    ``device``: "cuda" and "mps" move all layers there, "auto" too where llama.cpp was built for it. ``memory``: bytes that the
    model and its work may take. ``adapter``: a LoRA adapter in a .gguf file. Raises ModelNotFound, MissingExtra, InputError,
    TooBig, EngineError, or UsageError for a wish that cannot be granted.
    """
    try:
        import llama_cpp
    except ImportError:
        fix = "pip install 'medtask[gguf]' (it is built from source: a C++ compiler and cmake, some minutes)"
        raise MissingExtra("llama-cpp-python is not installed here", fix=fix) from None
    if dtype != "auto" or quantize:
        raise UsageError("a GGUF file has its number format already", fix="leave --dtype and --quantize out, or name another file")
    name = reference.removeprefix(SCHEME)
    files = locate_model(name)
    if not files.is_gguf:
        raise UsageError(f"{name} is no GGUF file, and llama.cpp reads nothing else", fix=f"leave {SCHEME} out, or name a .gguf file")
    count_gguf_weights(files.path)  # before the parser in C sees a foreign file
    offload = _choose_offload(device, llama_cpp.llama_supports_gpu_offload())
    with no_network():
        return _open(name, files.path, offload, memory, _check_adapter(adapter), inspect_machine(accelerator=False))


def _choose_offload(device: str, supported: bool) -> bool:
    if device in {"cuda", "mps"} and not supported:
        flag = {"cuda": "-DGGML_CUDA=on", "mps": "-DGGML_METAL=on"}[device]
        raise UsageError(
            f"this llama-cpp-python was built without {device}",
            fix=f'CMAKE_ARGS="{flag}" pip install --force-reinstall --no-cache-dir llama-cpp-python, or leave --device out',
        )
    return supported and device != "cpu"


def _check_adapter(adapter: str | None) -> Path | None:
    if adapter is None:
        return None
    path = Path(adapter)
    if path.suffix != ".gguf" or not path.is_file():
        raise ModelNotFound(f"{adapter} is no adapter that llama.cpp can read", fix="convert it to a .gguf file, or use the hf engine")
    count_gguf_weights(path)
    return path


def _open(reference: str, path: Path, offload: bool, memory: int | None, adapter: Path | None, machine: Machine) -> Any:
    import llama_cpp

    from medtask.engines.llamacpp.context import Context
    from medtask.engines.llamacpp.engine import LlamaCppEngine
    from medtask.engines.llamacpp.vocabulary import GgufTokenizer

    llama_cpp.llama_log_set(_SILENT(), None)
    size = path.stat().st_size
    allowed = min(machine.available_bytes, memory) if memory is not None else machine.available_bytes
    if not offload and size + WORKING_MEMORY > allowed:
        fix = "take a smaller file" + (", or raise --memory" if memory is not None else "")
        raise TooBig(f"{reference} needs about {format_bytes(size + WORKING_MEMORY)}; {format_bytes(allowed)} may be used here", fix=fix)
    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers = ALL_LAYERS if offload else 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
    if not model:
        fix = "fetch the file again, or update llama-cpp-python: it may not know this architecture yet"
        raise EngineError(f"llama.cpp could not load {reference}", fix=fix)
    facts = _read_facts(model)
    limit = llama_cpp.llama_model_n_ctx_train(model)
    cell = _count_cell_bytes(model)
    most = max(FIRST_CELLS, int((allowed - size - WORKING_MEMORY) * 0.8) // cell) if not offload else 4 * limit
    tokenizer = GgufTokenizer(model, facts.get("general.name", path.stem), facts)
    lora = _load_adapter(model, adapter) if adapter else None
    context = Context(model, tokenizer.size, cells=FIRST_CELLS, threads=machine.cores, offload=offload, adapter=lora)
    version = llama_cpp.__version__
    identity = {"model": reference, "engine": "llamacpp", "file": hash_once(path), "llama_cpp_python": version}
    if adapter:
        identity["adapter"] = hash_once(adapter)
    details: dict[str, object] = {
        "device": "gpu" if offload else "cpu",
        "threads": machine.cores,
        "file_type": facts.get("general.file_type", ""),
        "architecture": facts.get("general.architecture", ""),
        "build": llama_cpp.llama_print_system_info().decode(),
        "notes": [],
    }
    title = f"{reference}{f' + {adapter.stem}' if adapter else ''}, llama.cpp, {'gpu' if offload else 'cpu'}"
    info = EngineInfo("llamacpp", title, identity, details)
    engine = LlamaCppEngine(model, context, tokenizer, info, limit=min(limit, most), most_cells=most)
    details["packed_against_plain"] = gap = engine.compare_with_plain(PROBE)
    if not gap <= AGREEMENT:
        engine.give_up_packing(f"rows read together and alone differ by {gap:.2g} in a probability")
    return engine


def _SILENT() -> Any:  # noqa: N802 - made once, on first use: llama.cpp keeps a pointer to it
    import llama_cpp

    global _callback  # noqa: PLW0603
    if _callback is None:
        _callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    return _callback


_callback: Any = None


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
        raise EngineError(f"llama.cpp could not put {adapter.name} on this model", fix="name an adapter that was made for this base model")
    return lora

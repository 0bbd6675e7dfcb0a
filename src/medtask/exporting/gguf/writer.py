"""Export as a GGUF file, which llama.cpp and Ollama read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medtask.display import format_list
from medtask.engines.base import Engine
from medtask.engines.registry import load_model
from medtask.errors import EngineError, UsageError, require_packages
from medtask.exporting.gguf.architectures import (
    Architecture,
    add_common_metadata,
    complete_config,
    find_architecture,
    make_rotary_factors,
    read_rope,
)
from medtask.exporting.gguf.gemma4 import UPSTREAM
from medtask.exporting.gguf.quantization import FLOAT_TYPES, quantize_file
from medtask.exporting.gguf.token_comparison import compare_tokens
from medtask.exporting.gguf.vocabulary import Vocabulary, read_vocabulary
from medtask.exporting.source import CausalModel
from medtask.exporting.targets import ExportRequest
from medtask.model_weights import is_stored_buffer

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter, TensorNameMap
    from torch import Tensor

_ROTARY_FACTORS = "rope_freqs.weight"
_EMBEDDINGS, _HEAD = "embed_tokens.weight", "lm_head.weight"
# Parts of the names of weights that do not belong to the language model.
_OTHER_PARTS = ("vision", "audio", "multi_modal_projector")
_LARGEST_FLOAT16 = 65504.0


def write(request: ExportRequest, draft: Path) -> tuple[str, ...]:
    """See `ExportWriter.write`."""
    # llama.cpp quantises, and reads the file for the comparison.
    require_packages("gguf", "llama_cpp", fix="pip install 'medtask[hf,gguf]'")
    with CausalModel(request.source) as model:
        if request.quantization in FLOAT_TYPES:
            write_gguf(model, draft, request.quantization, request.name)
            return ()
        full = draft.with_name(f"{draft.name}.full")
        try:
            write_gguf(model, full, "f16" if _fits_float16(model) else "bf16", request.name)
            quantize_file(full, draft, request.quantization)
        finally:
            full.unlink(missing_ok=True)
    return ()


def check(request: ExportRequest, draft: Path) -> list[str]:
    """See `ExportWriter.check`: metadata and tokens of the file against those of the source.

    A wrong epsilon, or a token at the start that is added twice, hardly changes an answer.
    """
    from gguf import GGUFReader

    with CausalModel(request.source) as model:
        config = complete_config(model.config)
        architecture = find_architecture(config)
        vocabulary = read_vocabulary(
            model.tokenizer_folder, config["vocab_size"], architecture.tokenizer_model
        )
        expected = _list_facts(architecture, config, vocabulary)
        tokenizer_folder = model.tokenizer_folder
    try:
        reader = GGUFReader(draft)
    except (ValueError, IndexError, OSError) as error:
        raise EngineError(
            f"the written file is damaged ({type(error).__name__})", fix="export the model again"
        ) from error
    problems = [
        f"{key} is {found!r} instead of {value!r}"
        for key, value in expected.items()
        if not _is_equal(found := _read_value(reader, key), value)
    ]
    rows = sum(int(one.shape[1]) for one in reader.tensors if one.name == "token_embd.weight")
    if rows != config["vocab_size"]:
        problems.append(f"the embeddings have {rows:,} tokens instead of {config['vocab_size']:,}")
    return problems + compare_tokens(tokenizer_folder, draft)


def open_exported(draft: Path) -> Engine:
    """See `ExportWriter.open_exported`: the weights as they are stored, read by llama.cpp."""
    return load_model(str(draft), dtype="file")


def finish(request: ExportRequest, path: Path) -> tuple[str, ...]:
    """See `ExportWriter.finish`: there is nothing to do."""
    return ()


def write_gguf(model: CausalModel, path: Path, float_type: str, name: str) -> None:
    """Write a model, one tensor at a time.

    Args:
        model: The model.
        path: The file.
        float_type: The number format of matrices: "f32", "f16" or "bf16". Vectors are float32.
        name: The name of the model in the file.

    Raises:
        UsageError: llama.cpp does not know the architecture or the tokenizer, or a weight is too
            large for the number format.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map

    config = complete_config(model.config)
    architecture = find_architecture(config)
    architecture.check_activation(config)
    vocabulary = read_vocabulary(
        model.tokenizer_folder, config["vocab_size"], architecture.tokenizer_model
    )
    member = MODEL_ARCH[architecture.name]
    names = get_tensor_name_map(member, config["num_hidden_layers"])
    with closing(GGUFWriter(path, MODEL_ARCH_NAMES[member])) as writer:
        writer.add_name(name)
        writer.add_file_type(FLOAT_TYPES[float_type])
        add_common_metadata(writer, architecture.choose_common(config))
        architecture.add_metadata(writer, config)
        vocabulary.add_to(writer)
        stored = _list_stored(model, architecture, names)
        factors = np.array(list(make_rotary_factors(config)), np.float32)
        if len(factors):
            writer.add_tensor_info(_ROTARY_FACTORS, factors.shape, factors.dtype, factors.nbytes)
        for weight_name, gguf_name in stored.items():
            _add_tensor_info(writer, gguf_name, model.get_shape(weight_name), float_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if len(factors):
            writer.write_tensor_data(factors)
        for weight_name in stored:
            weight = architecture.convert(weight_name, model.read_weight(weight_name), config)
            writer.write_tensor_data(_to_numpy(weight, weight_name, float_type))


def _list_stored(
    model: CausalModel, architecture: Architecture, names: TensorNameMap
) -> dict[str, str]:
    """The names in the file by the names of the weights, in the order of the weights."""
    found: dict[str, str] = {}
    unknown = []
    for name in model.weight_names:
        if any(part in name for part in _OTHER_PARTS) or is_stored_buffer(name):
            continue
        if architecture.is_tied and name.endswith(_HEAD):
            _check_tied_head(model, name)
            continue
        bare = name.replace("language_model.", "").removeprefix("model.model.")
        bare = bare if bare.startswith(("model.", "lm_head.")) else f"model.{bare}"
        mapped = names.get_name(bare, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            unknown.append(name)
        else:
            # A scalar of Gemma 4 has no suffix in transformers.
            found[name] = f"{mapped}.weight" if name.endswith("layer_scalar") else mapped
    if unknown:
        raise UsageError(
            f"llama.cpp has no place for the weights {format_list(unknown, 3)}",
            fix=UPSTREAM,
        )
    return found


def _check_tied_head(model: CausalModel, name: str) -> None:
    """Raise UsageError if the output layer of a model without a place for it is a separate one."""
    import torch

    embeddings = next(one for one in model.weight_names if one.endswith(_EMBEDDINGS))
    if not torch.equal(model.read_weight(name), model.read_weight(embeddings)):
        raise UsageError(
            "llama.cpp has no output layer beside the embeddings in such a model, and that of this "
            "model differs from them",
            fix="export it --to merged, and run it with transformers",
        )


def _add_tensor_info(
    writer: GGUFWriter, name: str, shape: tuple[int, ...], float_type: str
) -> None:
    from gguf import GGMLQuantizationType

    count = int(np.prod(shape))
    if len(shape) == 1 or float_type == "f32":
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * count)
    elif float_type == "f16":
        writer.add_tensor_info(name, shape, np.dtype(np.float16), 2 * count)
    else:
        writer.add_tensor_info(
            name, shape, np.dtype(np.uint16), 2 * count, raw_dtype=GGMLQuantizationType.BF16
        )


def _to_numpy(weight: Tensor, name: str, float_type: str) -> np.ndarray[Any, Any]:
    import torch

    if weight.dim() == 1 or float_type == "f32":
        return weight.float().contiguous().numpy()
    if float_type == "bf16":
        return weight.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
    if float(weight.abs().max()) > _LARGEST_FLOAT16:
        raise UsageError(f"{name} has weights too large for float16", fix="add --quant bf16")
    return weight.to(torch.float16).contiguous().numpy()


def _fits_float16(model: CausalModel) -> bool:
    return all(
        float(weight.abs().max()) <= _LARGEST_FLOAT16 for _, weight in model.iterate_weights()
    )


def _list_facts(
    architecture: Architecture, config: Mapping[str, Any], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Facts that the file must have, by their keys."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES

    prefix = MODEL_ARCH_NAMES[MODEL_ARCH[architecture.name]]
    window = config.get("sliding_window") if "layer_types" in config else None
    common = architecture.choose_common(config)
    facts = {
        f"{prefix}.rope.freq_base": read_rope(config)["rope_theta"],
        f"{prefix}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{prefix}.block_count": config["num_hidden_layers"],
        f"{prefix}.attention.head_count": config["num_attention_heads"],
        f"{prefix}.attention.head_count_kv": config["num_key_value_heads"],
        f"{prefix}.context_length": common["max_position_embeddings"],
        f"{prefix}.vocab_size": config["vocab_size"],
        "tokenizer.ggml.add_bos_token": vocabulary.adds_bos,
        "tokenizer.chat_template": vocabulary.chat_template,
    }
    facts |= {
        f"tokenizer.ggml.{name}_token_id": value
        for name, value in vocabulary.special_ids.items()
        if name in ("bos", "eos", "eot")
    }
    if window and architecture.name.startswith("GEMMA"):
        facts[f"{prefix}.attention.sliding_window"] = window
    return facts


def _read_value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _is_equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return bool(np.isclose(found, expected, rtol=1e-6))  # stored in float32
    return bool(found == expected)

"""From a model's files to an engine that was seen to work: number format, memory, quantisation,
adapter, probe.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medtask.engines.base import EngineInfo
from medtask.engines.files.locate import ModelFiles, locate_model, read_json
from medtask.engines.files.weights import count_weights, hash_weights, unpack_gguf
from medtask.engines.trained import find_engine, read_trained
from medtask.errors import EngineError, InputError, MissingExtra, TooBig, UsageError
from medtask.hardware import Machine, choose_device, format_bytes, inspect_machine
from medtask.privacy import no_network

if TYPE_CHECKING:
    from medtask.engines.hf.engine import HfEngine

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.1, "4bit": 0.65}
WORKING_MEMORY = 600_000_000  # Python, torch and one pack's intermediate results
CPU_BUDGET, ACCELERATOR_BUDGET = 1024, 8192
AGREEMENT = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will be loaded; ``notes`` tell what was chosen for the user and why."""

    device: str
    dtype: Literal["float32", "bfloat16", "float16"]
    quantize: Literal["4bit", "8bit"] | None
    budget: int
    notes: tuple[str, ...]


def load_hf(
    reference: str,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    quantize: Literal["4bit", "8bit"] | None = None,
    memory: int | None = None,
    adapter: str | None = None,
) -> HfEngine:
    """An HfEngine for a model reference. ``memory``: bytes that the model and its work may take.

    Raises ModelNotFound, MissingExtra, TooBig, or UsageError for a wish that this machine cannot
    grant.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(
            f"{error.name} is not installed here", fix="pip install 'medtask[hf]'"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

    files = locate_model(reference)
    if adapter is not None:
        files = _add_adapter(files, Path(adapter))
    _check_contract(files)
    plan = plan_loading(files, inspect_machine(), dtype, device, quantize, memory)
    if adapter is not None and (said := _name_base(Path(adapter))) not in ("", reference):
        plan = replace(
            plan,
            notes=(
                *plan.notes,
                f"the adapter was trained on {said}: on another model its answers mean little",
            ),
        )
    with no_network(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what libraries announce to each other
        model, tokenizer, hashes = _load(files, plan, torch)
    return _start(model, tokenizer, files, plan, hashes)


def plan_loading(
    files: ModelFiles,
    machine: Machine,
    dtype: Dtype,
    device: str,
    quantize: Literal["4bit", "8bit"] | None,
    memory: int | None,
) -> Plan:
    """Choose device, number format and token budget; TooBig where nothing that was allowed fits."""
    if dtype not in {"auto", *BYTES}:
        raise UsageError(
            f"--dtype {dtype} is for GGUF files that llama.cpp reads",
            fix="leave --dtype out, or name a number format",
        )
    chosen = choose_device(device, machine)
    kind = chosen.partition(":")[0]
    if quantize and kind != "cuda":
        raise UsageError(
            "4-bit and 8-bit weights need a CUDA GPU",
            fix="leave --quantize out, or name a quantised .gguf file as the model",
        )
    natural: Literal["float32", "bfloat16"] = (
        "bfloat16" if kind != "cpu" or machine.native_bf16 else "float32"
    )
    wanted = natural if dtype == "auto" else dtype
    free = machine.accelerator_bytes if kind == "cuda" else machine.available_bytes
    allowed = min(free, memory) if memory is not None else free
    weights = count_weights(files)
    notes: list[str] = []
    needed = weights * BYTES[quantize or wanted] + WORKING_MEMORY
    if needed > allowed and dtype == "auto" and wanted == "float32" and not quantize:
        smaller = weights * BYTES["bfloat16"] + WORKING_MEMORY
        if smaller <= allowed:
            notes.append(
                f"--dtype bfloat16, to stay below {format_bytes(allowed)} (slower and a little "
                "less exact on this processor)"
            )
            wanted, needed = "bfloat16", smaller
    if needed > allowed:
        raise TooBig(
            f"{files.reference} needs about {format_bytes(needed)} in {quantize or wanted}; "
            f"{format_bytes(allowed)} may be used here",
            fix="take a smaller model or a quantised .gguf file"
            + (", or raise --memory" if memory is not None else "")
            + (", or add --quantize 4bit" if kind == "cuda" and quantize != "4bit" else ""),
        )
    budget = CPU_BUDGET if kind == "cpu" else ACCELERATOR_BUDGET
    return Plan(chosen, wanted, quantize, budget, tuple(notes))


def _load(files: ModelFiles, plan: Plan, torch: Any) -> tuple[Any, Any, dict[str, str]]:
    from huggingface_hub.errors import (
        StrictDataclassError,
    )  # a config.json whose values have the wrong types
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"dtype": getattr(torch, plan.dtype), "trust_remote_code": False}
    hashes = {}
    try:
        if files.is_gguf:
            source, hashes["file"] = unpack_gguf(files.path)
        else:
            source, hashes["weights"] = files.path, hash_weights(files.path)
        if plan.quantize:
            options["quantization_config"] = _quantisation(plan, torch)
            options["device_map"] = plan.device
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, **options)
        if files.adapter:
            model, hashes["adapter"] = _put_on_adapter(model, files.adapter, plan)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        ImportError,
        RuntimeError,
        StrictDataclassError,
    ) as error:
        said = str(error).partition("\n")[0]
        raise EngineError(
            f"{files.reference} could not be loaded: {type(error).__name__}: {said}",
            fix=(
                "check that the folder is whole and that this version of transformers knows the "
                "architecture (`medtask doctor`)"
            ),
        ) from error
    return model if plan.quantize else model.to(plan.device), tokenizer, hashes


def _quantisation(plan: Plan, torch: Any) -> Any:
    from transformers import BitsAndBytesConfig

    try:
        importlib.metadata.version("bitsandbytes")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra(
            "bitsandbytes is not installed here", fix="pip install bitsandbytes"
        ) from None
    if plan.quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, plan.dtype),
    )


def _add_adapter(files: ModelFiles, adapter: Path) -> ModelFiles:
    if not (adapter / "adapter_config.json").is_file():
        raise InputError(
            f"{adapter} holds no adapter: adapter_config.json is missing",
            fix="name a folder that PEFT wrote",
        )
    return ModelFiles(files.reference, files.path, files.revision, adapter, files.downloaded)


def _check_contract(files: ModelFiles) -> None:
    """InputError where what medtask has trained is not whole, or its training has not ended."""
    folder = files.adapter or files.path
    if folder.is_dir() and find_engine(folder):
        read_trained(folder)


def _put_on_adapter(model: Any, adapter: Path, plan: Plan) -> tuple[Any, str]:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtra("peft is not installed here", fix="pip install 'medtask[hf]'") from None
    if not any(adapter.glob("*.safetensors")):
        raise InputError(
            f"{adapter} holds no weights in safetensors; pickled ones are not loaded",
            fix="save the adapter again with PEFT",
        )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # about what is missing in an adapter: it is looked at below
        try:
            tuned = PeftModel.from_pretrained(model, str(adapter))
        except (RuntimeError, ValueError) as error:
            raise _not_its_base(adapter, type(error).__name__) from error
    _check_fit(tuned, adapter)
    # In float32 merging costs no precision and spares two products per layer; in shorter formats it
    # would round the adapter away.
    return (
        tuned.merge_and_unload()
        if plan.dtype == "float32" and not plan.quantize
        else tuned.base_model.model
    ), hash_weights(adapter)


def _check_fit(tuned: Any, adapter: Path) -> None:
    """InputError where not every matrix of an adapter has its place in the model, or the other way
    round: PEFT only warns of it.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    given: set[str] = set()
    for file in adapter.glob("*.safetensors"):
        with safe_open(file, framework="pt") as content:
            given |= {name for name in content.keys() if ".lora_" in name}  # noqa: SIM118 - a reader, no mapping
    # Not "auto": to find out whether embeddings were trained too, PEFT would look the base up on
    # the Hub.
    wanted = {
        name
        for name in get_peft_model_state_dict(tuned, save_embedding_layers=False)
        if ".lora_" in name
    }
    if given != wanted:
        raise _not_its_base(
            adapter,
            f"{len(given - wanted)} of its {len(given)} matrices have no place, "
            f"{len(wanted - given)} are missing",
        )


def _not_its_base(adapter: Path, why: str) -> InputError:
    base = _name_base(adapter) or "it was trained with"
    return InputError(
        f"the adapter {adapter} does not fit this model ({why})", fix=f"put it on the model {base}"
    )


def _name_base(adapter: Path) -> str:
    """The model that an adapter was trained on, as it says itself; "" where it does not."""
    said = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    return said if isinstance(said, str) else ""


def _start(
    model: Any, tokenizer: Any, files: ModelFiles, plan: Plan, hashes: dict[str, str]
) -> Any:
    import torch

    from medtask.engines.hf.engine import HfEngine

    identity = {
        "model": files.reference,
        "dtype": plan.dtype,
        "quantize": plan.quantize or "no",
        **hashes,
    }
    if files.revision:
        identity["revision"] = files.revision
    details: dict[str, object] = {
        "device": plan.device,
        "threads": torch.get_num_threads(),
        "token_budget": plan.budget,
        "downloaded": files.downloaded,
        "notes": list(plan.notes),
    }
    beside = (
        files.adapter if files.adapter != Path(files.reference).expanduser() else None
    )  # an adapter's own folder names both
    title = (
        f"{files.reference}{f' + {beside.name}' if beside else ''}, "
        f"{plan.quantize or plan.dtype}, {plan.device}"
    )
    engine = HfEngine(
        model, tokenizer, EngineInfo("hf", title, identity, details), budget=plan.budget
    )
    if engine.packed:
        engine.check_packing(AGREEMENT[plan.dtype])
    else:
        engine.give_up_packing("this architecture does not let its attention be replaced")
    return engine

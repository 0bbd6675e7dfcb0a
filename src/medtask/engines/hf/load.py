"""Loads a transformers model as a tested engine."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.engines.base import FILE_FACT, EngineInfo
from medtask.engines.files.adapter_files import check_base_format, find_tokenizer_folder
from medtask.engines.files.mlx_weights import with_full_weights
from medtask.engines.files.model_files import (
    ModelFiles,
    format_title,
    list_adapter_notes,
    locate_model,
    make_load_error,
    read_adapter_base,
    require_torch,
    require_transformers,
    with_adapter,
)
from medtask.engines.files.probe_results import ProbeKey, read_probe_gap
from medtask.engines.files.weights import (
    dequantize_gguf,
    hash_model_files,
    hash_weight_file,
    hash_weights,
)
from medtask.engines.hf.adapter import apply_adapter
from medtask.engines.hf.load_plan import HfLoadPlan, plan_hf_load
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.model_metadata import check_trained_files
from medtask.engines.packed_engine import PROBE_PROMPTS, PROBE_TOLERANCES
from medtask.errors import MissingExtra, ModelTooLarge
from medtask.hardware import Machine, inspect_machine, limit_torch_threads
from medtask.model_weights import check_loaded_model
from medtask.privacy import block_network

if TYPE_CHECKING:
    from medtask.engines.hf.engine import HfEngine


def load_hf(
    reference: str, options: LoadOptions = DEFAULT_OPTIONS, *, trainable: bool = False
) -> HfEngine:
    """Load a causal language model; with ``trainable`` always as a model of transformers.

    Raises the errors of `load_model` in registry.py.
    """
    require_torch()
    limit_torch_threads(options.threads)
    files = locate_model(reference)
    if options.adapter is not None:
        files = with_adapter(files, Path(options.adapter))
    check_trained_files(files)
    files = with_full_weights(files)
    machine = inspect_machine()
    plan = plan_hf_load(files, machine, options)
    plan = replace(plan, notes=(*plan.notes, *list_adapter_notes(reference, options.adapter)))
    source = _prepare_source(files)
    may_change = options.dtype == "auto" and plan.device == "cpu" and plan.dtype != "float32"
    if may_change and _is_known_to_fail(source, plan):
        plan = _plan_float32(plan, files, machine, options)
    engine = _load_planned(source, plan, trainable=trainable)
    if may_change and engine.packing_failed:
        exact_plan = _plan_float32(plan, files, machine, options)
        if exact_plan is not plan:
            engine.close()
            engine = _load_planned(source, exact_plan, trainable=trainable)
    return engine


@dataclass(frozen=True, slots=True)
class HfSource:
    """The files of a model, ready to be loaded: ``folder`` holds config, weights and tokenizer."""

    files: ModelFiles
    folder: Path
    hashes: Mapping[str, str]

    def make_probe_key(self, plan: HfLoadPlan, implementation: str = "transformers") -> ProbeKey:
        """What the result of the probe depends on; ``implementation``: whose code the model is."""
        facts = {
            **self.hashes,
            "implementation": implementation,
            "dtype": plan.dtype,
            "quantize": plan.quantize or "no",
            "device": plan.device,
        }
        return ProbeKey(facts, ("torch", "transformers"))


def _prepare_source(files: ModelFiles) -> HfSource:
    """Hash the files of a model; those of a GGUF file are dequantised first."""
    with block_network(), _convert_load_errors(files):
        if files.is_gguf:
            folder, file_hash = dequantize_gguf(files.path)
            hashes = {"file": file_hash}
        else:
            folder = files.path
            hashes = {"weights": hash_weights(folder), **hash_model_files(folder)}
        if files.adapter:
            hashes["adapter"] = hash_weights(files.adapter)
            hashes |= {
                f"{FILE_FACT}adapter/{path.name}": hash_weight_file(path)
                for path in sorted(files.adapter.glob("*.jinja"))
            }
    return HfSource(files, folder, hashes)


@contextmanager
def _convert_load_errors(files: ModelFiles) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError  # config values of the wrong types

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecations between libraries
            yield
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        ImportError,
        RuntimeError,
        StrictDataclassError,
    ) as error:
        raise make_load_error(files.reference, error) from error


def _is_known_to_fail(source: HfSource, plan: HfLoadPlan) -> bool:
    """Whether an earlier probe has found that rows cannot be read together."""
    gap = read_probe_gap(source.make_probe_key(plan))
    return gap is not None and gap > PROBE_TOLERANCES[plan.dtype]


def _plan_float32(
    plan: HfLoadPlan, files: ModelFiles, machine: Machine, options: LoadOptions
) -> HfLoadPlan:
    """The plan in float32, for a model that reads rows together only in that format; the given plan
    if the model does not fit.

    Small models differ by more than the tolerance in bfloat16. Reading label by label is slower by
    an order of magnitude than any difference between the formats.
    """
    try:
        exact_plan = plan_hf_load(files, machine, replace(options, dtype="float32"))
    except ModelTooLarge:
        return plan
    note = "float32, because rows cannot be read together in bfloat16"
    return replace(exact_plan, notes=(*exact_plan.notes, note))


def _load_planned(source: HfSource, plan: HfLoadPlan, *, trainable: bool) -> HfEngine:
    with block_network(), _convert_load_errors(source.files):
        if not trainable and (engine := _load_network(source, plan)):
            return engine
        engine = _load_transformers(source, plan)
    if engine.packed:
        engine.check_packing(PROBE_TOLERANCES[plan.dtype], source.make_probe_key(plan))
    else:
        engine.disable_packing("this architecture does not let its attention be replaced")
    return engine


def _load_network(source: HfSource, plan: HfLoadPlan) -> HfEngine | None:
    """Load a model that medtask computes itself; None for others.

    Importing transformers takes several times as long as loading a small model. When a model is
    first loaded, its probe compares it with the model of transformers.
    """
    from medtask.engines.hf.network_model import is_known_network, load_network_model

    is_plain = plan.device == "cpu" and plan.quantize is None
    if not is_plain or source.files.adapter or not is_known_network(source.folder):
        return None
    key, reference = source.make_probe_key(plan, implementation="medtask"), None
    gap = read_probe_gap(key)
    if gap is None:
        with closing(_load_transformers(source, plan)) as other:
            reference = other.compute_reference(PROBE_PROMPTS)
    loaded = load_network_model(source.folder, source.files.reference, plan.dtype)
    if loaded is None:
        return None
    engine = _make_engine(*loaded, source, plan)
    details = {**engine.info.details, "implementation": "medtask"}
    engine.info = replace(engine.info, details=details)
    engine.check_packing(PROBE_TOLERANCES[plan.dtype], key, reference)
    return engine if engine.packed else None


def _load_transformers(source: HfSource, plan: HfLoadPlan) -> HfEngine:
    import torch

    require_transformers()
    model, tokenizer = _load_model(source, plan, torch)
    return _make_engine(model, tokenizer, source, plan)


def _load_model(source: HfSource, plan: HfLoadPlan, torch: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"dtype": getattr(torch, plan.dtype), "trust_remote_code": False}
    if plan.quantize:
        options["quantization_config"] = _make_quantization_config(plan, torch)
        options["device_map"] = plan.device
    adapter = source.files.adapter
    if adapter and not plan.quantize:
        check_base_format(read_adapter_base(adapter), source.folder / "config.json")
    tokenizer_folder = find_tokenizer_folder(source.folder, adapter)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    model, loading_info = AutoModelForCausalLM.from_pretrained(
        source.folder,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # named by the check
        output_loading_info=True,
        **options,
    )
    check_loaded_model(model, loading_info, source.files.reference)
    if adapter:
        model = apply_adapter(model, source.folder, source.files, plan)
    return model if plan.quantize else model.to(plan.device), tokenizer


def _make_quantization_config(plan: HfLoadPlan, torch: Any) -> Any:
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


def _make_engine(model: Any, tokenizer: Any, source: HfSource, plan: HfLoadPlan) -> HfEngine:
    import torch

    from medtask.engines.hf.engine import HfEngine

    files = source.files
    identity = {
        "model": files.reference,
        "dtype": plan.dtype,
        "quantize": plan.quantize or "no",
        **source.hashes,
    }
    if files.revision:
        identity["revision"] = files.revision
    details: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "token_budget": plan.budget_tokens,
        "downloaded": files.downloaded,
    }
    # An adapter's own folder, as the reference, names both.
    is_separate = files.adapter != Path(files.reference).expanduser()
    title = format_title(
        files.reference,
        files.adapter.name if files.adapter and is_separate else None,
        plan.quantize or plan.dtype,
        plan.device,
    )
    return HfEngine(
        model,
        tokenizer,
        EngineInfo("hf", title, identity, device=plan.device, notes=plan.notes, details=details),
        budget_tokens=plan.budget_tokens,
    )

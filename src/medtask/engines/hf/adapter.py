"""Applies a PEFT adapter to a model of transformers, and checks that the two belong together."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from medtask.display import shorten
from medtask.engines.files.adapter_files import check_vocabulary, normalize_stored_name
from medtask.engines.files.mlx_adapter import check_base_sizes, open_as_peft
from medtask.engines.files.model_files import (
    ADAPTER_CONFIG,
    ModelFiles,
    read_adapter_base,
    read_model_json,
)
from medtask.engines.hf.load_plan import HfLoadPlan
from medtask.errors import EngineError, InputError, require_packages
from medtask.model_weights import check_weight_values, refuse_weights
from medtask.stored_weights import ADAPTER_FILE

_LORA = ".lora_"


def apply_adapter(model: Any, base: Path, files: ModelFiles, plan: HfLoadPlan) -> Any:
    """The model, loaded from the folder ``base``, with the adapter of its files.

    Raises:
        MissingExtra: PEFT is not installed.
        InputError: The adapter has no safetensors, or lacks embeddings of added tokens.
        EngineError: The adapter does not fit the model.
    """
    adapter = files.adapter
    assert adapter is not None
    require_packages("peft", fix="pip install 'medtask[hf]'")
    from peft import PeftModel

    check_base_sizes(adapter, model.config.to_dict())
    base_rows = int(model.get_input_embeddings().weight.shape[0])
    rows = check_vocabulary(adapter, base, base_rows)
    with warnings.catch_warnings(), open_as_peft(adapter) as folder:
        if not (folder / ADAPTER_FILE).is_file():
            # PEFT would load adapter_model.bin, or look for the adapter on the Hub.
            raise InputError(
                f"{adapter} has no {ADAPTER_FILE}; pickled weights are not loaded",
                fix="save the adapter again with PEFT",
            )
        if read_model_json(folder / ADAPTER_CONFIG).get("layer_replication"):
            raise InputError(
                f"the adapter {adapter} repeats layers of its base (layer_replication), which is "
                "not supported",
                fix="take an adapter without it",
            )
        warnings.simplefilter(
            "ignore", UserWarning
        )  # about keys missing in an adapter, which are checked below
        if rows != base_rows:  # the stored embeddings replace those of the base
            model.resize_token_embeddings(rows, mean_resizing=False)
        try:
            adapted_model = PeftModel.from_pretrained(model, str(folder))
        except (RuntimeError, ValueError, KeyError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise EngineError(
                f"the adapter {adapter} does not fit this model: {shorten(reason, 300)}",
                fix=_name_base(adapter),
            ) from error
        _check_adapter_weights(adapted_model, adapter, folder)
    adapter_weights = (
        (name, value) for name, value in adapted_model.named_parameters() if _LORA in name
    )
    check_weight_values(adapter_weights, f"the adapter {adapter}", allow_blank=True)
    _separate_tied_layers(adapted_model)
    # In float32 merging loses no precision and saves two products per layer; in shorter formats it
    # would round the adapter's changes away.
    return (
        adapted_model.merge_and_unload()
        if plan.dtype == "float32" and not plan.quantize
        else _merge_output_layer(adapted_model.base_model.model)
    )


def _separate_tied_layers(model: Any) -> None:
    """Give the embeddings and the output layer weights of their own if one of them is adapted.

    Merged into weights that they share, the change of one would be in both.
    """
    from peft.tuners.lora import LoraLayer
    from torch.nn import Parameter

    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    bases = [one.get_base_layer() if isinstance(one, LoraLayer) else one for one in layers]
    is_adapted = any(isinstance(one, LoraLayer) for one in layers)
    if is_adapted and bases[0].weight is bases[1].weight:
        bases[1].weight = Parameter(bases[0].weight.detach().clone(), requires_grad=False)


def _merge_output_layer(model: Any) -> Any:
    """The model with an adapted output layer merged: its weights alone are read."""
    from peft.tuners.lora import LoraLayer

    layer = model.get_output_embeddings()
    if isinstance(layer, LoraLayer):
        layer.merge()
        model.set_output_embeddings(layer.get_base_layer())
    return model


def _check_adapter_weights(adapted_model: Any, adapter: Path, folder: Path) -> None:
    """Raise EngineError unless the tensors of an adapter and those that the model expects are the
    same: PEFT only warns.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    stored_names: set[str] = set()
    with safe_open(folder / ADAPTER_FILE, framework="pt") as content:
        stored_names |= set(map(normalize_stored_name, content.keys()))
    # Not "auto": to find out whether embeddings were trained too, PEFT would query the Hub for the
    # base model. Stored embeddings replace those of the model, which has them by the same name.
    expected_names = set(get_peft_model_state_dict(adapted_model, save_embedding_layers=False))
    known_names = expected_names | set(map(normalize_stored_name, adapted_model.state_dict()))
    for problem, names in (
        ("missing", expected_names - stored_names),
        ("without a place in this model", stored_names - known_names),
    ):
        refuse_weights(
            f"the adapter {adapter} does not fit this model", problem, names, _name_base(adapter)
        )


def _name_base(adapter: Path) -> str:
    """The remedy for an adapter that does not fit."""
    return f"put it on the model {read_adapter_base(adapter) or 'that it was trained with'}"

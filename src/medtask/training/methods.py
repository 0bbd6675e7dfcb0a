"""The registry of training methods; heavy modules are imported on use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from medtask.engines.files.model_files import MINILM

Method = Literal["lora", "rslora", "qlora", "dora", "full", "encoder", "linear", "hybrid", "auto"]


@dataclass(frozen=True, slots=True)
class TrainingBackend:
    """How language models are trained: a `FitFunction`, and a function that describes a training
    without starting it, both as "module:function".
    """

    fit: str
    preview: str


TORCH_BACKEND = TrainingBackend(
    "medtask.training.language.fit:fit_language",
    "medtask.training.language.preview:preview_language",
)
# By the engine of the base; without an entry, TORCH_BACKEND trains it or refuses it.
TRAINING_BACKENDS: Mapping[str, TrainingBackend] = MappingProxyType(
    {
        "mlx": TrainingBackend(
            "medtask.training.mlx.fit:fit_mlx", "medtask.training.mlx.preview:preview_mlx"
        )
    }
)


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """Properties of a method.

    Attributes:
        name: The method, as given to ``--method``.
        fit: Its `FitFunction` as "module:function"; "" for that of the `TrainingBackend`.
        rate: The default learning rate.
        language: Whether it trains a causal language model.
        adapter: Whether it trains an adapter and keeps the weights frozen.
        scales_by_root: Whether the adapter is scaled by the root of its rank (rsLoRA).
        quantize: The format in which the base's weights are loaded; None for the recipe's.
        library: The library that can load the result, as named on the Hub.
        min_rows: With fewer training rows, other methods are usually better.
        min_steps: With fewer steps, weights hardly differ from those of the base: the default
            number of epochs is higher for few rows.
        default_base: The default base; None for the task's model, "" for none.
        default_base_rate: The learning rate for ``default_base``.
        extra_base: Whether a base is one more candidate; by default the task's model.
        untunable: For methods without settings to search, what training fits itself.
    """

    name: Method
    fit: str
    # adapters are trained with about a hundred times the learning rate of full weights
    rate: float = 1e-3
    language: bool = False
    adapter: bool = False
    scales_by_root: bool = False
    quantize: Literal["4bit"] | None = None
    library: Literal["peft", "transformers", "medtask"] = "medtask"
    min_rows: int = 100
    min_steps: int = 0
    default_base: str | None = None
    default_base_rate: float | None = None
    extra_base: bool = False
    untunable: str = ""


_LORA = MethodSpec("lora", "", language=True, adapter=True, library="peft")
METHODS: Mapping[Method, MethodSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            _LORA,
            replace(_LORA, name="rslora", scales_by_root=True),
            replace(_LORA, name="qlora", scales_by_root=True, quantize="4bit"),
            replace(_LORA, name="dora"),
            MethodSpec("full", "", 2e-5, language=True, library="transformers", min_rows=5_000),
            MethodSpec(
                "encoder",
                "medtask.training.encoder.fit:fit_encoder",
                5e-5,
                library="transformers",
                min_rows=500,
                min_steps=100,
                default_base=MINILM,
                # small models are trained with a higher learning rate than BERT
                default_base_rate=3e-4,
            ),
            MethodSpec(
                "linear",
                "medtask.training.linear:fit_linear",
                default_base="",
                untunable="the strength of its penalty",
            ),
            MethodSpec(
                "hybrid",
                "medtask.training.hybrid:fit_hybrid",
                min_rows=0,  # only weights are fitted, on validation rows
                default_base="",
                untunable="its weights",
            ),
            MethodSpec(
                "auto",
                "medtask.training.auto:fit_auto",
                default_base="",
                extra_base=True,
                untunable="the settings of its candidates",
            ),
        )
    }
)

"""What a model can be exported to: one `ExportTarget` each, and one module that writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

from medtask.display import quote_names, suggest
from medtask.engines.base import Engine
from medtask.errors import UsageError
from medtask.exporting.parity import ParityBounds
from medtask.exporting.source import ExportSource
from medtask.tasks.task import Task

# The models that medtask loads, in the folders of these targets.
OLLAMA_WEIGHTS = "model.gguf"
MLFLOW_MODEL = "artifacts/model"

TargetName = Literal["merged", "gguf", "ollama", "mlx", "mlflow", "onnx", "hub"]


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is exported, to where.

    Attributes:
        source: The model.
        quantization: A quantisation of the target; "" for a target that has none.
        name: The name of the exported model, from the output path.
        task: The task whose prompts are compared; None for the one that it was trained for.
        register: The name in the registry of the target; "" to leave it unregistered.
        public: Whether everybody may read what is sent to the Hub.
        acknowledge_phi: Whether a model that learnt from texts of patients may be sent.
    """

    source: ExportSource
    quantization: str
    name: str
    task: Task | None = None
    register: str = ""
    public: bool = False
    acknowledge_phi: bool = False


class ExportWriter(Protocol):
    """The module of a target."""

    def write(self, request: ExportRequest, draft: Path) -> tuple[str, ...]:
        """Write the export to ``draft``, a folder that exists or a file that does not.

        Returns:
            Notes for the user.
        """

    def check(self, request: ExportRequest, draft: Path) -> list[str]:
        """Each difference between facts of the written files and the source, as a sentence."""

    def open_exported(self, draft: Path) -> Engine:
        """Load the written files as an engine, for the comparison with the source."""

    def finish(self, request: ExportRequest, path: Path) -> tuple[str, ...]:
        """Register the published export with its system; returns notes for the user."""


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """A format or a system that models are exported to.

    Attributes:
        name: The value of ``--to``.
        description: What is written, in a few words.
        module: The module with its `ExportWriter`.
        engines: The engines whose models can be exported to it.
        bounds: What the parity gate requires, by quantisation from the finest to the coarsest; ""
            for a target without any.
        default_quantization: A key of ``bounds``.
        suffix: The suffix of the file that is written; "" for a target that writes a folder.
        is_sent: Whether the export leaves this machine.
        model_path: The path in the export of the model that medtask loads; "" for the export
            itself.
        keeps_calibrations: Whether that model keeps the calibrations of its source.
    """

    name: TargetName
    description: str
    module: str
    engines: frozenset[str]
    bounds: Mapping[str, ParityBounds]
    default_quantization: str = ""
    suffix: str = ""
    is_sent: bool = False
    model_path: str = ""
    keeps_calibrations: bool = True

    def import_writer(self) -> ExportWriter:
        return cast("ExportWriter", import_module(self.module))

    def list_finer(self, quantization: str) -> list[str]:
        """The quantisations that lose less, from the next one on."""
        names = list(self.bounds)
        return names[: names.index(quantization)][::-1]

    def choose_quantization(self, name: str | None) -> str:
        """The quantisation to use. Raises UsageError for one that the target does not have."""
        chosen = self.default_quantization if name is None else name.lower()
        if chosen in self.bounds:
            return chosen
        if not self.default_quantization:
            raise UsageError(f"--to {self.name} has no quantisation", fix="leave --quant out")
        raise UsageError(
            f"{name!r} is not a quantisation of --to {self.name}",
            fix=suggest(chosen, self.bounds) or f"name one of {quote_names(self.bounds)}",
        )


_EXACT = ParityBounds(agreement=1.0, kl=1e-3)
_NEARLY_EXACT = ParityBounds(agreement=0.99, kl=0.01)
_QUANTIZED = ParityBounds(agreement=0.98, kl=0.05)
_GGUF_BOUNDS: Mapping[str, ParityBounds] = {
    "f32": _EXACT,
    "f16": _NEARLY_EXACT,
    "bf16": _NEARLY_EXACT,
    "q8_0": _NEARLY_EXACT,
    "q6_k": _QUANTIZED,
    "q5_k_m": _QUANTIZED,
    "q4_k_m": _QUANTIZED,
    "q4_0": _QUANTIZED,
}
_MLX_BOUNDS: Mapping[str, ParityBounds] = {
    "f32": _EXACT,
    "f16": _NEARLY_EXACT,
    "bf16": _NEARLY_EXACT,
    "8bit": _NEARLY_EXACT,
    "4bit": _QUANTIZED,
}

TARGETS: Mapping[TargetName, ExportTarget] = {
    target.name: target
    for target in (
        ExportTarget(
            "merged",
            "a folder in transformers' format, with the adapter merged into the weights",
            "medtask.exporting.merged",
            frozenset({"hf"}),
            {"": _EXACT},
        ),
        ExportTarget(
            "gguf",
            "a GGUF file, which llama.cpp and Ollama read",
            "medtask.exporting.gguf.writer",
            frozenset({"hf"}),
            _GGUF_BOUNDS,
            default_quantization="q4_k_m",
            suffix=".gguf",
        ),
        ExportTarget(
            "ollama",
            "a folder for Ollama: a GGUF file and a Modelfile",
            "medtask.exporting.ollama",
            frozenset({"hf"}),
            _GGUF_BOUNDS,
            default_quantization="q4_k_m",
            model_path=OLLAMA_WEIGHTS,
        ),
        ExportTarget(
            "mlx",
            "a folder for mlx-lm on Apple silicon",
            "medtask.exporting.mlx",
            frozenset({"hf"}),
            _MLX_BOUNDS,
            default_quantization="4bit",
        ),
        ExportTarget(
            "mlflow",
            "an MLflow model: a Python function on data frames, as code",
            "medtask.exporting.mlflow",
            frozenset({"hf", "encoder", "linear", "hybrid"}),
            {"": _EXACT},
            model_path=MLFLOW_MODEL,
        ),
        ExportTarget(
            "onnx",
            "an encoder in ONNX format, which onnxruntime computes without torch",
            "medtask.exporting.onnx",
            frozenset({"encoder"}),
            {"f32": _EXACT, "q8": _QUANTIZED},
            default_quantization="f32",
        ),
        ExportTarget(
            "hub",
            "a folder that is also sent to the Hugging Face Hub",
            "medtask.exporting.hub",
            frozenset({"hf", "encoder", "linear", "hybrid"}),
            {"": _EXACT},
            is_sent=True,
            keeps_calibrations=False,
        ),
    )
}


def find_target(name: str) -> ExportTarget:
    """The target of this name. Raises UsageError if there is none."""
    if name not in get_args(TargetName):
        fix = suggest(name, TARGETS) or f"name one of {quote_names(TARGETS)}"
        raise UsageError(f"{name!r} is not a target of export", fix=fix)
    return TARGETS[cast("TargetName", name)]

"""The model that is exported: its files, and its weights with any adapter merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.engines.files.adapter_files import (
    check_base_format,
    check_vocabulary,
    find_tokenizer_folder,
)
from medtask.engines.files.mlx_adapter import check_base_sizes
from medtask.engines.files.mlx_weights import with_full_weights
from medtask.engines.files.model_files import (
    ADAPTER_CONFIG,
    BUILT_IN_HUB_ID,
    BUILT_IN_MODEL,
    ModelFiles,
    locate_model,
    read_adapter_base,
    read_model_json,
)
from medtask.engines.files.weights import dequantize_gguf
from medtask.engines.metadata_schema import PhiStatus
from medtask.engines.model_metadata import (
    METADATA_FILE,
    TRAINING_FILE,
    ModelMetadata,
    read_model_metadata,
)
from medtask.engines.registry import choose_engine, find_phi, strip_prefix
from medtask.errors import InputError, UsageError
from medtask.exporting.lora import LoraAdapter
from medtask.exporting.weight_files import WeightFiles
from medtask.training.training_manifest import read_training_manifest

if TYPE_CHECKING:
    from torch import Tensor

# The engine whose files are exported, by the engine of the reference.
_ENGINES = {
    "hf": "hf",
    "llamacpp": "hf",
    "mlx": "hf",
    "encoder": "encoder",
    "linear": "linear",
    "hybrid": "hybrid",
}
_EMBEDDINGS, _HEAD = "embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A model that is exported.

    Attributes:
        reference: The model as the user named it.
        engine: The engine that loads it: "hf" for all language models, "encoder", "linear" or
            "hybrid".
        folder: Its folder, if it is a local one.
        metadata: What `medtask.train` wrote about it; None for other models.
        training: The manifest of its training; empty for other models.
    """

    reference: str
    engine: str
    folder: Path | None
    metadata: ModelMetadata | None
    training: Mapping[str, Any]

    @property
    def location(self) -> str:
        """The reference without the prefix that chooses its engine."""
        return strip_prefix(self.reference)

    @property
    def name(self) -> str:
        return (self.folder.resolve() if self.folder else Path(self.reference)).name

    @property
    def phi(self) -> PhiStatus:
        """Whether it or its base learnt from texts of patients; "no" for models of others."""
        return find_phi(self.reference, self.base)

    @property
    def is_demonstration(self) -> bool:
        """Whether it was trained as a demonstration; earlier versions kept the command only."""
        command = str(self.training.get("command", "")).split()
        return bool(self.training.get("demonstration", "--demonstration" in command))

    @property
    def base(self) -> str:
        """The model that its training started from, or the model itself."""
        if self.metadata and self.metadata.base:
            return self.metadata.base
        if self.folder and (self.folder / ADAPTER_CONFIG).is_file():
            return read_adapter_base(self.folder)
        return self.reference

    @property
    def license(self) -> str:
        """The licence of the base, as an id of the Hub; "" if it is not known."""
        return "apache-2.0" if self.base in (BUILT_IN_MODEL, BUILT_IN_HUB_ID) else ""


def open_source(reference: str) -> ExportSource:
    """Inspect a model without loading it.

    Raises:
        ModelNotFound: The model does not exist.
        InputError: A file of the model is damaged.
        UsageError: The model is not on this machine: a server, or a test engine.
    """
    choice = choose_engine(reference)
    if choice.engine == "onnx":
        raise UsageError(
            f"{reference} is an export, which cannot be exported again",
            fix="name the model that it was exported from",
        )
    if choice.engine not in _ENGINES:
        raise UsageError(
            f"{reference} cannot be exported: its weights are not on this machine",
            fix="name a folder, a model of the Hub, or a .gguf file",
        )
    path = Path(strip_prefix(reference)).expanduser()
    folder = path if path.is_dir() else None
    trained = folder is not None and (folder / METADATA_FILE).is_file()
    return ExportSource(
        reference,
        _ENGINES[choice.engine],
        folder,
        read_model_metadata(folder) if folder and trained else None,
        (read_training_manifest(folder) or {})
        if folder and (folder / TRAINING_FILE).is_file()
        else {},
    )


class CausalModel:
    """A causal language model, read one tensor at a time with its adapter merged.

    Attributes:
        files: Where its files are.
        folder: The folder with its config and the base's weights.
        tokenizer_folder: The folder with its tokenizer and chat template.
        config: Its config, changed where the adapter changes the vocabulary.
        weight_files: The names of the weights in each safetensors file that is written.
    """

    def __init__(self, source: ExportSource) -> None:
        """Open the files of a model.

        Raises:
            UsageError: It is not a causal language model.
            InputError: A file is damaged, or the adapter cannot be merged.
            EngineError: The adapter does not fit.
        """
        if source.engine != "hf":
            raise UsageError(
                f"{source.reference} is no causal language model",
                fix="export it --to mlflow, or an encoder --to onnx",
            )
        self.files: ModelFiles = with_full_weights(locate_model(source.location))
        self.folder = dequantize_gguf(self.files.path)[0] if self.files.is_gguf else self.files.path
        self.config = read_model_json(self.folder / "config.json")
        self._weights = WeightFiles(self.folder)
        self.weight_files = {file: list(names) for file, names in self._weights.names.items()}
        adapter = self.files.adapter
        self.tokenizer_folder = find_tokenizer_folder(self.folder, adapter)
        self.adapter = None
        if adapter is not None:
            check_base_format(read_adapter_base(adapter), self.folder / "config.json")
            self.adapter = LoraAdapter(adapter, self._weights.list_names())
            check_base_sizes(adapter, self.config)
            self._adopt_vocabulary(self.adapter)

    def __enter__(self) -> CausalModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._weights.close()
        if self.adapter:
            self.adapter.close()

    @property
    def weight_names(self) -> list[str]:
        return [name for names in self.weight_files.values() for name in names]

    @property
    def has_tied_embeddings(self) -> bool:
        """Whether the output layer is the embeddings: then no weight of it is stored."""
        return not any(map(_is_head, self.weight_names))

    def get_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight, without reading it."""
        if self.adapter and name in self.adapter.replaced:
            return tuple(self.adapter.read_tensor(self.adapter.replaced[name]).shape)
        return self._weights.get_shape(name if name in self._weights else self._embeddings)

    def get_dtype(self, name: str) -> str:
        """The number format of a weight, as safetensors names it."""
        return self._weights.get_dtype(name if name in self._weights else self._embeddings)

    def read_weight(self, name: str) -> Tensor:
        """One weight, with the adapter merged, in the number format of the base's file."""
        # An output layer that the base does not have has the number format of the embeddings.
        weight = self._weights.read(name if name in self._weights else self._embeddings)
        return self.adapter.merge(name, weight) if self.adapter else weight

    def iterate_weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights, file by file: at most one is in memory."""
        for name in self.weight_names:
            yield name, self.read_weight(name)

    @property
    def _embeddings(self) -> str:
        return next(name for name in self.weight_names if name.endswith(_EMBEDDINGS))

    def _adopt_vocabulary(self, adapter: LoraAdapter) -> None:
        """Take the size of the vocabulary, and a separate output layer, from the adapter."""
        embeddings = next((name for name in self.weight_names if name.endswith(_EMBEDDINGS)), None)
        if embeddings is None:
            return
        before = self._weights.get_shape(embeddings)[0]
        rows = check_vocabulary(adapter.folder, self.folder, before)
        head = _find_separate_head(adapter, embeddings)
        has_own_head = not self.has_tied_embeddings or head is not None
        if rows != before and has_own_head and not any(map(_is_head, adapter.replaced)):
            raise InputError(
                f"{adapter.folder} has embeddings for {rows:,} tokens, but no output layer",
                fix="save the adapter with both, or export the merged model",
            )
        text_config = self.config.get("text_config", self.config)
        text_config["vocab_size"] = rows
        if head is None or not self.has_tied_embeddings:
            return
        if adapter.has_equal_weights(embeddings, head):
            del adapter.replaced[head]
            return
        # The training has changed the copies of a shared matrix in different ways, or one of them.
        last = next(file for file, names in self.weight_files.items() if embeddings in names)
        self.weight_files[last].append(head)
        self.config["tie_word_embeddings"] = text_config["tie_word_embeddings"] = False


def _find_separate_head(adapter: LoraAdapter, embeddings: str) -> str | None:
    """The name of the output layer if an adapter trains it, or the embeddings without it."""
    for name in (*adapter.replaced, *adapter.updated):
        if _is_head(name):
            return name
    module = embeddings.removesuffix(".weight")
    if embeddings in adapter.updated or module.endswith(adapter.trained_modules):
        return ("language_model." if module.startswith("language_model.") else "") + _HEAD
    return None


def _is_head(name: str) -> bool:
    return name.endswith(_HEAD)

"""Specifications of engines: built-in ones from a table, others through entry points."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from medtask.engines.base import LANGUAGE_MODEL, Engine, EngineTraits
from medtask.engines.load_options import ALL_OPTIONS, LoadOptions
from medtask.errors import EngineError

ENTRY_POINT_GROUP = "medtask.engines"

_LOCAL_OPTIONS = frozenset({"dtype", "device", "memory", "threads"})
_SERVER_OPTIONS = frozenset(
    {
        "allow_remote",
        "allow_unverified_context",
        "concurrency",
        "context_tokens",
        "deadline_s",
        "tokenizer",
    }
)
_SERVER_PREFIXES = (
    "http:",
    "https:",
    "ollama:",
    "groq:",
    "openai:",
    "llama-server:",
    "vllm-server:",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Properties of an engine that are known before its module is imported.

    A package adds an engine with an entry point in the group ``medtask.engines`` that refers to an
    `EngineSpec`.

    Attributes:
        name: The engine's name, in manifests and in `medtask models`.
        loader: "module:function" of a function ``(reference: str, options: LoadOptions) ->
            Engine``.
        prefixes: Prefixes of the references of its models, such as "vllm:".
        option_fields: Names of the `LoadOptions` that the loader supports; others are rejected.
        packages: Import names of the packages that it needs.
        install: The command that installs them.
        description: Short description of its input and output.
        traits: The kind of model that it loads.
    """

    name: str
    loader: str
    prefixes: tuple[str, ...] = ()
    option_fields: frozenset[str] = frozenset()
    packages: tuple[str, ...] = ()
    install: str = ""
    description: str = ""
    traits: EngineTraits = LANGUAGE_MODEL

    def is_installed(self) -> bool:
        """Whether the packages that the engine needs are installed; none of them is imported."""
        return all(importlib.util.find_spec(package) for package in self.packages)

    def import_loader(self) -> Callable[[str, LoadOptions], Engine]:
        """Import the loader's module and return the loader."""
        module, _, function = self.loader.partition(":")
        loader: Callable[[str, LoadOptions], Engine] = getattr(
            importlib.import_module(module), function
        )
        return loader


BUILT_IN_ENGINES: Mapping[str, EngineSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            EngineSpec(
                name="hf",
                loader="medtask.engines.hf.load:load_hf",
                prefixes=("hf:",),
                option_fields=_LOCAL_OPTIONS | {"quantize", "adapter"},
                packages=("torch", "transformers"),
                install="pip install 'medtask[hf]'",
                description="transformers models: exact probabilities, text, fields",
                traits=EngineTraits(trainable=True),
            ),
            EngineSpec(
                name="llamacpp",
                loader="medtask.engines.llamacpp.load:load_llamacpp",
                prefixes=("llamacpp:",),
                option_fields=_LOCAL_OPTIONS | {"adapter"},
                packages=("llama_cpp",),
                install="pip install 'medtask[gguf]'",
                description=".gguf files: exact probabilities, text, fields",
            ),
            EngineSpec(
                name="mlx",
                loader="medtask.engines.mlx.load:load_mlx",
                prefixes=("mlx:",),
                option_fields=frozenset({"dtype", "memory", "adapter"}),
                packages=("mlx", "mlx_lm"),
                install="pip install 'medtask[mlx]'",
                description="mlx:MODEL, for Apple silicon: exact probabilities, text, fields",
                traits=EngineTraits(trainable=True),
            ),
            EngineSpec(
                name="vllm",
                loader="medtask.engines.vllm:load_vllm",
                prefixes=("vllm:",),
                option_fields=frozenset({"dtype", "adapter", "context_tokens", "gpus"}),
                packages=("vllm",),
                install="run vLLM as a server, or pip install 'medtask[vllm]' into an environment "
                "without other engines",
                description="vllm:MODEL, for CUDA: exact probabilities, text, fields",
            ),
            EngineSpec(
                name="http",
                loader="medtask.engines.http.load:load_http",
                prefixes=_SERVER_PREFIXES,
                option_fields=_SERVER_OPTIONS,
                packages=("httpcore2", "anyio"),
                install="pip install 'medtask[http]'",
                description="model servers (ollama:NAME, http://HOST:PORT/v1#MODEL): what the "
                "server supports, probed at start",
                traits=EngineTraits(server=True),
            ),
            EngineSpec(
                name="encoder",
                loader="medtask.engines.encoder.load:load_encoder",
                prefixes=("encoder:",),
                option_fields=_LOCAL_OPTIONS,
                packages=("torch", "transformers"),
                install="pip install 'medtask[hf]'",
                description="minilm, encoder:MODEL: labels and options by meaning, or a trained "
                "head",
                traits=EngineTraits(family="encoder", reads_instructions=False, trainable=True),
            ),
            EngineSpec(
                name="onnx",
                loader="medtask.engines.encoder.load_onnx:load_onnx",
                option_fields=frozenset({"threads"}),
                packages=("onnxruntime", "tokenizers"),
                install="pip install 'medtask[onnx]'",
                description="folders of encoders that `medtask export --to onnx` wrote",
                traits=EngineTraits(family="encoder", reads_instructions=False),
            ),
            EngineSpec(
                name="linear",
                loader="medtask.engines.linear:load_linear",
                option_fields=frozenset({"threads"}),
                description="folders of TF-IDF models: the labels that they were trained on",
                traits=EngineTraits(family="linear", reads_instructions=False),
            ),
            EngineSpec(
                name="hybrid",
                loader="medtask.engines.hybrid:load_hybrid",
                option_fields=ALL_OPTIONS,  # each member takes those that its engine supports
                description="folders of several models: the weighted mean of their probabilities",
                traits=EngineTraits(family="hybrid"),
            ),
            EngineSpec(
                name="fake",
                loader="medtask.engines.fake:load_fake",
                prefixes=("fake:",),
                option_fields=ALL_OPTIONS,  # ignored, so that tests can drive every option
                description="fake: no model, for tests",
                traits=EngineTraits(family="none"),
            ),
        )
    }
)


def list_engines() -> list[EngineSpec]:
    """The built-in engines, then those of other installed packages."""
    return [*BUILT_IN_ENGINES.values(), *_read_entry_points().values()]


def find_engine(name: str) -> EngineSpec:
    """Find an engine by name; raises EngineError if no installed package provides it."""
    spec = BUILT_IN_ENGINES.get(name) or _read_entry_points().get(name)
    if spec is None:
        raise EngineError(
            f"the engine {name} is not installed", fix="install the package that provides it"
        )
    return spec


def find_engine_by_prefix(reference: str) -> EngineSpec | None:
    """Find the engine by the prefix of a reference; None without a known prefix."""
    for spec in BUILT_IN_ENGINES.values():
        if reference.startswith(spec.prefixes):
            return spec
    if ":" not in reference:
        return None
    specs = _read_entry_points().values()
    return next((spec for spec in specs if reference.startswith(spec.prefixes)), None)


@cache
def _read_entry_points() -> Mapping[str, EngineSpec]:
    specs = [_load_entry_point(entry) for entry in entry_points(group=ENTRY_POINT_GROUP)]
    return MappingProxyType({spec.name: spec for spec in specs})


def _load_entry_point(entry: EntryPoint) -> EngineSpec:
    package = entry.dist.name if entry.dist else entry.module
    try:
        spec = entry.load()
    except Exception as error:  # the code of another package can fail in any way
        raise EngineError(
            f"the engine {entry.name} of the package {package} cannot be imported "
            f"({type(error).__name__})",
            fix=f"update or uninstall {package}",
        ) from error
    if not isinstance(spec, EngineSpec) or spec.name in BUILT_IN_ENGINES:
        raise EngineError(
            f"the entry point {entry.name} of the package {package} is not a valid engine: it "
            "must lead to an EngineSpec with a name that no other engine has",
            fix=f"update or uninstall {package}",
        )
    return spec

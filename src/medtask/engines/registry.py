"""Model references to engines: names map to strings, and the heavy module sleeps until it is
called.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medtask.engines.base import Engine
from medtask.errors import UsageError

ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "hf": "medtask.engines.hf.load:load_hf",
        "llamacpp": "medtask.engines.llamacpp.load:load_llamacpp",
        "mlx": "medtask.engines.mlx.load:load_mlx",
        "vllm": "medtask.engines.vllm:load_vllm",
        "http": "medtask.engines.http.load:load_http",
        "encoder": "medtask.engines.encoder.load:load_encoder",
        "linear": "medtask.engines.linear:load_linear",
        "hybrid": "medtask.engines.hybrid:load_hybrid",
        "fake": "medtask.engines.fake:load_fake",
    }
)
# The packages without which an engine cannot run, and how to get them.
ENGINE_REQUIREMENTS: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "hf": (("torch", "transformers"), "pip install 'medtask[hf]'"),
        "llamacpp": (("llama_cpp",), "pip install 'medtask[gguf]'"),
        "mlx": (("mlx", "mlx_lm"), "pip install 'medtask[mlx]'"),
        "vllm": (
            ("vllm",),
            (
                "run vLLM as a server of its own, or pip install 'medtask[vllm]' into an "
                "environment "
                "of its own"
            ),
        ),
        "http": (("httpcore2", "anyio"), "pip install 'medtask[http]'"),
        "encoder": (("torch", "transformers"), "pip install 'medtask[hf]'"),
    }
)
DEFAULT_MODEL = "smollm2-135m"
MINILM = "minilm"

# What the reference of a model begins with, where that names its engine.
_SCHEMES = MappingProxyType(
    {
        **{f"{name}:": name for name in ("hf", "llamacpp", "mlx", "vllm", "encoder", "fake")},
        **{
            f"{name}:": "http"
            for name in ("http", "https", "ollama", "groq", "openai", "llama-server", "vllm-server")
        },
    }
)

# Options that the command line calls otherwise: there --context is a text that is shown before a
# question.
_OPTION_FLAGS = MappingProxyType({"context": "--context-tokens"})


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine of a reference, and a word to the user where it is not the one that comes first to
    mind.
    """

    engine: str
    note: str | None = None


def load_model(reference: str = DEFAULT_MODEL, **options: Any) -> Engine:
    """Load the model that a reference names and see that it works.

    ``reference``: ``smollm2-135m`` or ``minilm`` (built in), ``org/name[@revision]`` of the Hub, a
    folder (a model, a PEFT adapter, or what medtask has trained), a ``.gguf`` file, a server
    (``http://host:port/v1#model``, ``ollama:name``, ``groq:name``, ``openai:name``), or ``fake:``
    (no model: for tests). ``hf:``, ``llamacpp:``, ``mlx:``, ``vllm:`` and ``encoder:`` before a
    reference name the engine that is to read it.

    ``options`` for models in this process: ``dtype`` ("auto", "float32", "bfloat16", "float16"),
    ``device`` ("auto", "cpu", "cuda", "mps"), ``quantize`` ("4bit", "8bit"; CUDA only), ``memory``
    (bytes that may be used), ``adapter`` (a folder, or a file for GGUF models). For servers:
    ``allow_remote`` (records may leave this machine), ``context`` (tokens),
    ``allow_unverified_context``, ``tokenizer``, ``concurrency``, ``deadline_s``.

    Raises ModelNotFound, MissingExtra, TooBig, EngineError, InputError or UsageError; each says
    what to do.
    """
    choice = choose_engine(reference)
    load = _find_loader(choice.engine)
    engine = load(reference.removeprefix("hf:"), **_select_options(load, choice.engine, options))
    notes = engine.info.details.get("notes")
    if choice.note and isinstance(notes, list):
        notes.append(choice.note)
    return engine


def choose_engine(reference: str) -> EngineChoice:
    """Which engine answers for a reference; nothing is loaded for that, and nothing is fetched."""
    scheme = next((scheme for scheme in _SCHEMES if reference.startswith(scheme)), None)
    if scheme:
        return EngineChoice(_SCHEMES[scheme])
    path = Path(reference).expanduser()
    if reference == MINILM:
        return EngineChoice("encoder")
    if reference == DEFAULT_MODEL:
        return EngineChoice(
            "hf" if is_installed("hf") or not is_installed("llamacpp") else "llamacpp"
        )
    if path.suffix == ".gguf":
        if is_installed("llamacpp"):
            return EngineChoice("llamacpp")
        return EngineChoice(
            "hf",
            "llama-cpp-python is not installed: transformers reads the file, and unpacks it once",
        )
    return EngineChoice(_detect_folder_engine(path) if reference and path.is_dir() else "hf")


def accepts_option(engine: str, option: str) -> bool:
    """Whether an option of load_model has a meaning for an engine."""
    return _accepts_option(_find_loader(engine), option)


def is_installed(engine: str) -> bool:
    """Whether the packages are here that an engine takes."""
    packages, _ = ENGINE_REQUIREMENTS.get(engine, ((), ""))
    return all(importlib.util.find_spec(package) for package in packages)


def _detect_folder_engine(folder: Path) -> str:
    """The engine of a folder: what training says, else an encoder's own marks, else a causal
    language model.
    """
    from medtask.engines.files.model_files import read_model_json
    from medtask.engines.model_metadata import find_trained_engine

    trained_engine = find_trained_engine(folder)
    if trained_engine:
        return trained_engine
    if (folder / "modules.json").is_file():
        return "encoder"
    config = read_model_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    architectures = config.get("architectures")
    architecture = (
        architectures[0]
        if isinstance(architectures, list) and architectures and isinstance(architectures[0], str)
        else ""
    )
    return "encoder" if architecture.endswith("ForSequenceClassification") else "hf"


def _find_loader(engine: str) -> Callable[..., Engine]:
    module, _, name = ENGINES[engine].partition(":")
    load: Callable[..., Engine] = getattr(importlib.import_module(module), name)
    return load


def _accepts_option(load: Callable[..., Engine], option: str) -> bool:
    parameters = inspect.signature(load).parameters
    return option in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _select_options(
    load: Callable[..., Engine], engine: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that were set; UsageError for one that has no meaning for the engine."""
    given_options = {
        name: value for name, value in options.items() if value not in (None, False, "auto")
    }
    unsupported = [name for name in given_options if not _accepts_option(load, name)]
    if unsupported:
        option = _OPTION_FLAGS.get(unsupported[0], f"--{unsupported[0].replace('_', '-')}")
        raise UsageError(
            f"{option} means nothing to the {engine} engine, which answers here",
            fix=f"leave {option} out",
        )
    return given_options

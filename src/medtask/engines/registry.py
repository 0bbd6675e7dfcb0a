"""Maps model references to engines; imports an engine's module when a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from medtask.engines.base import Engine
from medtask.engines.files.model_files import (
    BUILT_IN_MODEL,
    MINILM,
    ONNX_SETTINGS_FILE,
    is_mlx_adapter,
    make_load_error,
    read_model_json,
)
from medtask.engines.files.unpacked_models import discard_on_failure
from medtask.engines.load_options import (
    DEFAULT_OPTIONS,
    LoadOptions,
    LoadOptionValues,
    format_option,
)
from medtask.engines.metadata_schema import PhiStatus
from medtask.engines.specs import EngineSpec, find_engine, find_engine_by_prefix
from medtask.errors import MedtaskError, UsageError


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine of a reference, and a note for the user if the engine is unexpected."""

    engine: str
    note: str | None = None

    @property
    def spec(self) -> EngineSpec:
        return find_engine(self.engine)


def load_model(
    reference: str = BUILT_IN_MODEL,
    options: LoadOptions = DEFAULT_OPTIONS,
    **changes: Unpack[LoadOptionValues],
) -> Engine:
    """Load a model and check that it works.

    Args:
        reference: ``smollm2-135m`` or ``minilm`` (built in), ``org/name[@revision]`` of the Hub, a
            folder (a model, a PEFT adapter, or a model that medtask trained), a ``.gguf`` file, a
            server (``http://host:port/v1#model``, ``ollama:name``, ``groq:name``,
            ``openai:name``), or ``fake:`` (no model, for tests). The prefixes ``hf:``,
            ``llamacpp:``, ``mlx:``, ``vllm:`` and ``encoder:`` choose the engine; installed
            packages may add prefixes.
        options: Options of loading.
        changes: Fields of `LoadOptions` by name, which replace those of ``options``.

    Returns:
        The engine. Close it to free its memory.

    Raises:
        ModelNotFound: The model does not exist, or may not be downloaded.
        MissingExtra: A package that the engine needs is not installed.
        ModelTooLarge: The model does not fit into the allowed memory.
        EngineError: The model could not be loaded, or returns no usable numbers.
        InputError: A file of the model is damaged.
        UsageError: The engine does not support an option.
    """
    options = replace(options, **changes)
    choice = choose_engine(reference)
    check_options(choice.spec, options)
    try:
        with discard_on_failure():
            engine = choice.spec.import_loader()(reference.removeprefix("hf:"), options)
    except (MedtaskError, OSError, MemoryError):
        raise
    except Exception as error:
        # Configs and weights of others: libraries raise errors of any type for wrong values.
        raise make_load_error(reference, error) from error
    if choice.note:
        engine.info = replace(engine.info, notes=(*engine.info.notes, choice.note))
    engine.info = replace(
        engine.info,
        trained_folders=find_trained_folders(reference, options),
        prompt_version=find_prompt_version(reference, options),
    )
    return engine


def choose_engine(reference: str) -> EngineChoice:
    """Choose the engine of a reference; no model is loaded and nothing is downloaded."""
    spec = find_engine_by_prefix(reference)
    if spec:
        return EngineChoice(spec.name)
    path = Path(reference).expanduser()
    if reference == MINILM:
        return EngineChoice("encoder")
    if reference == BUILT_IN_MODEL:
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


def strip_prefix(reference: str) -> str:
    """A reference without the prefix that chooses its engine."""
    return reference.partition(":")[2] if find_engine_by_prefix(reference) else reference


def find_trained_folders(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> tuple[str, ...]:
    """The folders written by `medtask.train` among a reference and its adapter."""
    from medtask.engines.model_metadata import METADATA_FILE

    folders = _list_paths(reference, options)
    return tuple(str(folder.resolve()) for folder in folders if (folder / METADATA_FILE).is_file())


def find_phi(*references: str) -> PhiStatus:
    """Whether one of several models learnt from texts of patients; see `read_phi`."""
    from medtask.engines.model_metadata import combine_phi, read_phi

    places = (Path(strip_prefix(reference)).expanduser() for reference in references if reference)
    return combine_phi(map(read_phi, places))


def find_prompt_version(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> int | None:
    """The version of the prompts that a reference or its adapter was trained on; None for models
    that medtask did not train.
    """
    from medtask.engines.model_metadata import read_prompt_version

    found = map(read_prompt_version, _list_paths(reference, options))
    return min((version for version in found if version is not None), default=None)


def _list_paths(reference: str, options: LoadOptions) -> list[Path]:
    """The paths that a reference and its adapter are, if they are local files or folders."""
    names = (strip_prefix(reference), options.adapter)
    return [Path(name).expanduser() for name in names if name]


def is_installed(engine: str) -> bool:
    """Whether the packages that an engine needs are installed."""
    return find_engine(engine).is_installed()


def check_options(spec: EngineSpec, options: LoadOptions) -> None:
    """Raise UsageError for an option that the engine does not support."""
    unsupported = [name for name in options.list_given() if name not in spec.option_fields]
    if unsupported:
        option = format_option(unsupported[0])
        raise UsageError(
            f"the {spec.name} engine does not support {option}", fix=f"leave {option} out"
        )


def _detect_folder_engine(folder: Path) -> str:
    """The engine that trained the folder, otherwise the one that its files are for."""
    from medtask.engines.model_metadata import find_trained_engine

    trained_engine = find_trained_engine(folder)
    if trained_engine:
        return trained_engine
    if (folder / ONNX_SETTINGS_FILE).is_file():
        return "onnx"
    if (folder / "modules.json").is_file():
        return "encoder"
    if is_mlx_adapter(folder):
        return "mlx"
    config = read_model_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    architectures = config.get("architectures")
    architecture = (
        architectures[0]
        if isinstance(architectures, list) and architectures and isinstance(architectures[0], str)
        else ""
    )
    return "encoder" if architecture.endswith("ForSequenceClassification") else "hf"

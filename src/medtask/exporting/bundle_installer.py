"""Install a bundle of medtask on a machine without a network.

    python install.py FOLDER

Every file of the bundle is compared with its SHA-256 before anything is installed. FOLDER becomes
a virtual environment with the same versions, and with the model in FOLDER/models. Only the
standard library is used: `medtask bundle` copies this file to ``install.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HASHES_FILE = "SHA256SUMS"
FACTS_FILE = "bundle.json"
REQUIREMENTS_FILE = "requirements.txt"


def list_files(bundle: Path) -> list[str]:
    """The paths of all files of a bundle, apart from the list of their hashes."""
    return sorted(
        path.relative_to(bundle).as_posix()
        for path in bundle.rglob("*")
        if path.is_file() and path != bundle / HASHES_FILE
    )


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_damage(bundle: Path) -> list[str]:
    """What differs from the list of hashes, a sentence for each file."""
    lines = (bundle / HASHES_FILE).read_text("utf-8").splitlines()
    expected = {line[66:]: line[:64] for line in lines}
    present = set(list_files(bundle))
    damage = [f"{name} is missing" for name in sorted(set(expected) - present)]
    damage += [f"{name} does not belong to the bundle" for name in sorted(present - set(expected))]
    for name in sorted(present & set(expected)):
        if hash_file(bundle / name) != expected[name]:
            damage.append(f"{name} has changed")
    return damage


def find_conflict(facts: dict[str, Any]) -> str | None:
    """Why the bundle cannot be installed with this Python; None if it can."""
    version = ".".join(platform.python_version_tuple()[:2])
    found = f"Python {version} on {platform.system()} {platform.machine()}"
    made = f"Python {facts['python']} on {facts['system']} {facts['machine']}"
    return None if found == made else f"the bundle is for {made}, and this is {found}"


def install(bundle: Path, folder: Path) -> str:
    """Verify a bundle, and install it; returns the reference of the model."""
    if damage := find_damage(bundle):
        sys.exit("the bundle is damaged, and nothing was installed:\n  " + "\n  ".join(damage[:20]))
    facts = json.loads((bundle / FACTS_FILE).read_text("utf-8"))
    if conflict := find_conflict(facts):
        sys.exit(f"{conflict}: nothing was installed")
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: name a new folder")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-index", "--no-deps", "--require-hashes", "--find-links"]
    command += [str(bundle / "wheels"), "--requirement", str(bundle / REQUIREMENTS_FILE)]
    subprocess.run(command, check=True, env={**os.environ, "PIP_CONFIG_FILE": os.devnull})  # noqa: S603
    if (bundle / "models").is_dir():
        shutil.copytree(bundle / "models", folder / "models")
        return str(folder / facts["model_path"])
    return str(facts["model"])


def main() -> None:
    """Install the bundle that this file is in."""
    if len(sys.argv) != 2:
        sys.exit("usage: python install.py FOLDER")
    bundle, folder = Path(__file__).resolve().parent, Path(sys.argv[1]).absolute()
    model = install(bundle, folder)
    script = folder / ("Scripts/medtask.exe" if os.name == "nt" else "bin/medtask")
    sys.stdout.write(
        f"all files of the bundle are as they were written\n"
        f"installed in {folder}\n"
        f"next: {script} run TASK DATA --model {model} --offline\n"
    )


if __name__ == "__main__":
    main()

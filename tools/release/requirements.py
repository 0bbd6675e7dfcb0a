"""Write requirements.txt with the SHA-256 of every package that `medtask[hf,http,serve]` needs.

    make requirements
    pip install --require-hashes -r requirements.txt

Versions are those of constraints.txt. Hashes are those of the wheels that pip chooses for this
system and version of Python. torch is left out: its build depends on the machine, so that it is
installed first, without this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("hf", "http", "serve")
OUTPUT = ROOT / "requirements.txt"
_HEAD = """\
# Written by `make requirements` for Python {python} on {platform}; install torch first.
#   pip install --require-hashes --no-deps -r requirements.txt
"""


def resolve() -> list[str]:
    """A line for each package, from pip's report of what it would install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
        command += ["--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        command += ["--constraint", str(ROOT / "constraints.txt"), *wanted]
        subprocess.run(command, check=True)
        items = json.loads(report.read_text("utf-8"))["install"]
    lines = []
    for item in items:
        name, number = item["metadata"]["name"].lower(), item["metadata"]["version"]
        hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
        if name != "torch" and not name.startswith(("nvidia-", "triton")):
            lines.append(f"{name}=={number} --hash=sha256:{hashes['sha256']}")
    return sorted(lines)


def main() -> None:
    """Write the file."""
    head = _HEAD.format(python=sys.version.split()[0], platform=sys.platform)
    lines = resolve()
    OUTPUT.write_text(head + "\n".join(lines) + "\n", "utf-8")
    print(f"{OUTPUT.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    main()

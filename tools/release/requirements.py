"""Write requirements.txt with the SHA-256 of every package that `medtask[hf,http,serve]` needs.

    make requirements
    pip install --require-hashes -r requirements.txt

Versions are those of constraints.txt. Hashes are those of the wheels that pip chooses for this
system and version of Python. torch is left out: its build depends on the machine, so that it is
installed first, without this file.
"""

from __future__ import annotations

import sys
import tomllib

from release.resolved_packages import ROOT, resolve_packages

EXTRAS = ("hf", "http", "serve")
OUTPUT = ROOT / "requirements.txt"
_WITH_TORCH = ("torch", "triton", "nvidia-", "cuda-")
_HEAD = """\
# Written by `make requirements` for Python {python} on {platform}; install torch first.
#   pip install --require-hashes --no-deps -r requirements.txt
"""


def list_lines() -> list[str]:
    """A line for each package, without torch and what only torch needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    lines = []
    for item in resolve_packages(wanted):
        name, number = item["metadata"]["name"].lower(), item["metadata"]["version"]
        hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
        if not name.startswith(_WITH_TORCH):
            lines.append(f"{name}=={number} --hash=sha256:{hashes['sha256']}")
    return sorted(lines)


def main() -> None:
    """Write the file."""
    head = _HEAD.format(python=sys.version.split()[0], platform=sys.platform)
    lines = list_lines()
    OUTPUT.write_text(head + "\n".join(lines) + "\n", "utf-8")
    print(f"{OUTPUT.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    main()

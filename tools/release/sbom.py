"""Write a list of all installed packages in CycloneDX format (1.6) to build/sbom.json.

    make sbom

The facts are those of pip's metadata: name, version, licence, and dependencies by name.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import Distribution, distributions, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def build_sbom() -> dict[str, Any]:
    """The document for the packages of this environment."""
    found = {normalize(one.name): one for one in distributions() if one.name}
    own = found.pop("medtask", None)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**describe_medtask(), "bom-ref": "medtask"}},
        "components": [describe_package(name, one) for name, one in sorted(found.items())],
        "dependencies": [
            {"ref": name, "dependsOn": list_requirements(one, found)}
            for name, one in sorted({**found, **({"medtask": own} if own else {})}.items())
        ],
    }


def describe_medtask() -> dict[str, Any]:
    """The component that the list is about."""
    licenses = [{"license": {"id": "Apache-2.0"}}]
    return {
        "type": "application",
        "name": "medtask",
        "version": version("medtask"),
        "licenses": licenses,
    }


def describe_package(name: str, package: Distribution) -> dict[str, Any]:
    """A component; the licence is an SPDX expression if the package states one."""
    described: dict[str, Any] = {
        "type": "library",
        "bom-ref": name,
        "name": name,
        "version": package.version,
        "purl": f"pkg:pypi/{name}@{package.version}",
    }
    metadata = package.metadata.json
    if expression := metadata.get("license_expression"):
        described["licenses"] = [{"expression": expression}]
    elif (text := str(metadata.get("license") or "")) and len(text) < 80:
        described["licenses"] = [{"license": {"name": text}}]
    return described


def list_requirements(package: Distribution, found: dict[str, Distribution]) -> list[str]:
    """Installed packages that the metadata name, apart from those of extras."""
    names = {
        normalize(match[0])
        for line in package.requires or ()
        if "extra ==" not in line and (match := re.match(r"[\w.-]+", line))
    }
    return sorted(names & found.keys())


def normalize(name: str) -> str:
    """A name as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write the file."""
    path = ROOT / "build" / "sbom.json"
    path.parent.mkdir(exist_ok=True)
    document = build_sbom()
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"{path.relative_to(ROOT)}: {len(document['components'])} packages")


if __name__ == "__main__":
    main()

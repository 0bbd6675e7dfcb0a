"""Keeps the results of probes, so that a model is not probed again at every start.

A result is kept by what it depends on: the model's files, device and number format, the versions of
the libraries, medtask's own code, and the hardware.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medtask.atomic_files import replace_text
from medtask.errors import StorageError
from medtask.hardware import inspect_processor


@dataclass(frozen=True, slots=True)
class ProbeKey:
    """What the result of a probe depends on.

    Attributes:
        facts: Identity of the model, its device and number format.
        libraries: Distributions that compute the numbers.
    """

    facts: Mapping[str, str]
    libraries: Sequence[str]

    def find_file(self) -> Path:
        """The file of the result."""
        content = {
            "facts": dict(self.facts),
            "versions": {name: importlib.metadata.version(name) for name in self.libraries},
            "code": _hash_code_stamps(),
            "processor": inspect_processor(),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return find_probe_folder() / digest[:32]


def find_probe_folder() -> Path:
    """The folder of all results, in the user's cache."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("medtask")) / "probes"


def read_probe_gap(key: ProbeKey) -> float | None:
    """The kept gap of a probe, which may be inf; None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        gap = json.loads(key.find_file().read_text(encoding="ascii"))["gap"]
        if isinstance(gap, float) and not math.isnan(gap) and gap >= 0:
            return gap
    return None


def keep_probe_gap(key: ProbeKey, gap: float) -> None:
    """Keep the gap of a probe; without a writable cache the model is only probed again."""
    with contextlib.suppress(OSError, StorageError):
        file = key.find_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_text(file, json.dumps({"gap": float(gap)}))


@cache
def _hash_code_stamps() -> str:
    """A hash of name, size and time of the modules that compute scores."""
    package = Path(__file__).parents[2]
    stamps = []
    for path in sorted(package.glob("engines/**/*.py")):
        stat = path.stat()
        stamps.append(f"{path.relative_to(package)}|{stat.st_size}|{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()

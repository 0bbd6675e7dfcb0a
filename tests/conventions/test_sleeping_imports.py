"""Heavy libraries sleep until they are called: the command line answers at once."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAVY_LIBRARIES = (
    "jinja2",
    "numpy",
    "polars",
    "pydantic",
    "sentence_transformers",
    "sklearn",
    "torch",
    "transformers",
    "xlsxwriter",
    "yaml",
)
HELP_SCRIPT = (
    "import sys; sys.argv = ['medtask', '--help']\nfrom medtask.cli.main import main\ntry: "
    "main()\nexcept SystemExit: pass\n"
)


@pytest.mark.parametrize(
    "code", ["import medtask", HELP_SCRIPT], ids=["import medtask", "medtask --help"]
)
def test_no_heavy_library_is_imported(code: str) -> None:
    report = (
        f"\nimport sys; print('awake:', *[name for name in {HEAVY_LIBRARIES} if name in "
        "sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == "awake:"


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    def measure() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "medtask", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(measure() for _ in range(3)) < 0.5

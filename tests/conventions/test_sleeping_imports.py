"""Heavy libraries sleep until they are called: the command line answers at once."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from support.example_files import EXAMPLES

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

RUN_SCRIPT = """
import sys
import medtask
task, table = medtask.load_task(sys.argv[1]), medtask.read_table(f"{sys.argv[1]}/notes.csv")
options = {"limit": 40, "baselines": False}
result = medtask.run(task, medtask.load_model("fake:"), table, out=sys.argv[2], **options)
assert "accuracy" in result.to_json()["metrics"]
print("awake:", *[name for name in ("sklearn", "scipy.stats") if name in sys.modules])
"""


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


def test_metrics_and_the_report_of_a_run_need_no_library_that_takes_seconds(tmp_path: Path) -> None:
    folder = EXAMPLES / "radiology_protocol"
    shown = subprocess.run(
        [sys.executable, "-c", RUN_SCRIPT, str(folder), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == "awake:"


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    def measure(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # A busy machine needs up to twice the processor time, also for the import of typer.
    limit = max(0.5, 4.5 * min(measure("-c", "import typer") for _ in range(3)))
    assert min(measure("-m", "medtask", "--help") for _ in range(3)) < limit

"""The scripts that are given to Slurm, word for word."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from difflib import unified_diff
from pathlib import Path

import pytest

from medtask.errors import UsageError
from medtask.scaling.slurm_script import (
    ArrayJob,
    SlurmOptions,
    format_array_script,
    format_merge_script,
    format_numbers,
    make_vllm_reference,
)

SCRIPTS = Path(__file__).parent / "scripts"
SMALL = SlurmOptions(time="8:00:00", partition="gpu", gpus=1)
JOB = ArrayJob(
    Path("/data/surgery/runs/2026-11-29-1200"),
    "surgery-purpose",
    tuple(range(1, 17)),
    41_230,
    "/opt/medtask/bin/python",
    SMALL,
)
LARGE = replace(
    JOB,
    options=SlurmOptions(
        time="1-12",
        partition="gpu",
        gpus=4,
        cpus=32,
        memory="200G",
        max_running=2,
        extra=("account=radiology", "--constraint=h100"),
        setup=("module load cuda",),
        vllm=True,
    ),
    model="google/medgemma-27b-text-it",
)


@pytest.mark.parametrize(
    ("name", "script"),
    [("array.sh", format_array_script(JOB)), ("merge.sh", format_merge_script(LARGE))],
)
def test_a_script_is_as_it_was_approved_and_bash_can_read_it(name: str, script: str) -> None:
    assert script == (SCRIPTS / name).read_text("utf-8")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_script_with_a_server_differs_from_the_other_as_it_was_approved() -> None:
    script = format_array_script(LARGE)
    other = (SCRIPTS / "array.sh").read_text("utf-8").splitlines(keepends=True)
    lines = unified_diff(other, script.splitlines(keepends=True), "array.sh", "array_vllm.sh", n=0)
    assert "".join(lines) == (SCRIPTS / "array_vllm.diff").read_text("utf-8")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_paths_and_names_with_spaces_and_quotes_stay_words(tmp_path: Path) -> None:
    odd = replace(JOB, run=Path("/data/o'neill 100%/run"), name="a b\n#SBATCH --uid=0")
    script = format_array_script(odd)
    assert "run='/data/o'\"'\"'neill 100%/run'\n" in script
    assert "#SBATCH --output=/data/o\\'neill\\ 100%%/run/logs/shard-%a.log\n" in script
    assert "uid" not in [line.split("=")[0] for line in script.splitlines()]
    assert script.count("\n#SBATCH --job-name=medtask-a-b-SBATCH---uid-0\n") == 1
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_numbers_are_written_as_ranges() -> None:
    assert format_numbers([7, 1, 2, 3, 9, 10]) == "1-3,7,9-10"


def test_a_model_that_the_job_serves_is_on_this_machine() -> None:
    assert make_vllm_reference("org/name") == "http://127.0.0.1:8317/v1#org/name"


@pytest.mark.parametrize("time", ["soon", "8h", "1:2:3:4", "-5"])
def test_a_time_limit_that_slurm_does_not_know_is_refused(time: str) -> None:
    with pytest.raises(UsageError, match="not a time limit") as refused:
        SlurmOptions(time=time)
    assert "8:00:00" in refused.value.fix


@pytest.mark.parametrize("option", ["account=a\n#SBATCH --uid=0", "a\nrm -rf /"])
def test_an_option_of_several_lines_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="more than one line"):
        SlurmOptions(extra=(option,))

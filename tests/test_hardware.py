from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from medtask.errors import UsageError
from medtask.hardware import (
    count_usable_cores,
    inspect_machine,
    limit_torch_threads,
    parse_bytes,
    read_cpu_quotas,
    read_memory_limits,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("1.5G", 1_500_000_000),
        ("512MiB", 512 * 2**20),
        ("1048576", 1048576),
        ("2Ti", 2 * 2**40),
    ],
)
def test_amounts_of_memory_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "eight", "-1GB", "8XB", "8 GB now"])
def test_what_is_no_amount_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text)
    assert "8GB" in caught.value.fix


def test_this_machine_is_seen() -> None:
    machine = inspect_machine()
    assert machine.cores == count_usable_cores() >= 1
    assert 0 < machine.available_bytes <= machine.memory_bytes
    assert machine.processor


def test_a_torch_for_cpus_is_not_imported_to_find_that_there_is_no_accelerator() -> None:
    pytest.importorskip("torch")
    if not version("torch").endswith("+cpu"):
        pytest.skip("this torch may have an accelerator")
    script = """
import sys
from medtask.hardware import inspect_machine
assert inspect_machine().accelerator is None
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "9"}, "")],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(
    given: dict[str, str], expected: str
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    others = {name: value for name, value in os.environ.items() if name not in names}
    # A child process inherits the setting.
    script = """
import medtask, subprocess, sys
child = "import os; print(os.environ.get('OMP_WAIT_POLICY', ''))"
subprocess.run([sys.executable, "-c", child], check=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=others | given, capture_output=True, text=True
    )
    assert done.stdout.strip() == expected


def write_files(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "quotas"),
    [
        ("0::/", {"cpu.max": "max 100000"}, []),
        ("0::/", {"cpu.max": "150000 100000"}, [1.5]),
        (
            "0::/job/step",
            {"job/step/cpu.max": "max 100000", "job/cpu.max": "400000 100000"},
            [4.0],
        ),
        # The path is that of the host: in the container its group is the root.
        ("0::/docker/4f1", {"cpu.max": "50000 100000"}, [0.5]),
        (
            "4:memory:/x\n3:cpu,cpuacct:/job",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            [2.0],
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "", "cpu/cpu.cfs_period_us": "0"}, []),
    ],
)
def test_the_time_quota_of_control_groups_limits_the_cores(
    tmp_path: Path, groups: str, files: dict[str, str], quotas: list[float]
) -> None:
    write_files(tmp_path, {"groups": groups, **files})
    assert read_cpu_quotas(tmp_path, tmp_path / "groups") == quotas


GB = 10**9


def write_group(folder: str, limit: int | str, used: int, droppable: int = 0) -> dict[str, str]:
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 1\ninactive_file {droppable}\nactive_file 7\n",
    }


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/", write_group("", "max", GB), []),
        ("0::/", write_group("", 8 * GB, 7 * GB), [(8 * GB, GB)]),
        # Most of what is used are files that were read, such as those of a model.
        ("0::/", write_group("", 8 * GB, 7 * GB, 5 * GB), [(8 * GB, 6 * GB)]),
        (
            "0::/job/step",
            write_group("job/", 4 * GB, 5 * GB) | write_group("job/step/", "max", GB),
            [(4 * GB, 0)],
        ),
        (
            "4:memory:/job\n3:cpu:/x",
            {
                "memory/job/memory.limit_in_bytes": f"{2 * GB}",
                "memory/job/memory.usage_in_bytes": f"{GB}",
                "memory/job/memory.stat": f"inactive_file 3\ntotal_inactive_file {GB // 2}",
            },
            [(2 * GB, 3 * GB // 2)],
        ),
    ],
)
def test_the_limits_of_control_groups_limit_the_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    limits: list[tuple[int, int]],
) -> None:
    write_files(tmp_path, {"groups": groups, **files})
    assert read_memory_limits(tmp_path, tmp_path / "groups") == limits
    machine = inspect_machine(accelerator=False)
    monkeypatch.setattr("medtask.hardware._CGROUP_ROOT", tmp_path)
    monkeypatch.setattr("medtask.hardware._CGROUPS_OF_PROCESS", tmp_path / "groups")
    limited = inspect_machine(accelerator=False)
    assert limited.memory_bytes == min(limit for limit, _ in [*limits, (machine.memory_bytes, 0)])
    assert all(limited.available_bytes <= free for _, free in limits)


def test_a_quota_of_one_and_a_half_cores_allows_two_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {"groups": "0::/", "cpu.max": "150000 100000"})
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr("medtask.hardware._CGROUP_ROOT", tmp_path)
    monkeypatch.setattr("medtask.hardware._CGROUPS_OF_PROCESS", tmp_path / "groups")
    assert count_usable_cores() == 2


def test_a_number_of_threads_is_set_and_the_default_is_at_most_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        assert limit_torch_threads(3) == torch.get_num_threads() == 3
        torch.set_num_threads(1)
        assert limit_torch_threads(None) == 1
    finally:
        torch.set_num_threads(before)

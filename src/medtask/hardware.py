"""Cores, memory, accelerator and number formats of this machine."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medtask.errors import UsageError

_SPIN_VARIABLES = frozenset({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"})
_THREAD_VARIABLES = frozenset({"OMP_NUM_THREADS", "MKL_NUM_THREADS"})
_CGROUP_ROOT, _CGROUPS_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

_UNIT_BYTES = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def limit_thread_spinning() -> None:
    """Make OpenMP threads sleep when they wait; call it before torch is imported.

    By default they spin for milliseconds. If another process uses the cores, the thread that they
    wait for cannot run, and everything takes several times as long. Variables that the user has
    set are kept.
    """
    if not _SPIN_VARIABLES & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # GNU's, LLVM's and Intel's library


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware of this machine.

    Attributes:
        cores: Cores that this process may use.
        memory_bytes: Total memory, or the limit of the control group.
        available_bytes: Free memory.
        accelerator: Kind of the accelerator, if any.
        accelerator_name: Name of the accelerator.
        accelerator_bytes: Memory of the accelerator.
        native_bf16: Whether the CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, Arm BF16).
        processor: Name of the CPU.
    """

    cores: int
    memory_bytes: int
    available_bytes: int
    accelerator: Literal["cuda", "mps"] | None
    accelerator_name: str | None
    accelerator_bytes: int
    native_bf16: bool
    processor: str


def inspect_machine(*, accelerator: bool = True) -> Machine:
    """Inspect this machine.

    ``accelerator`` imports torch, which is needed to find one, unless torch is a build for CPUs.
    """
    total, available = _measure_memory()
    kind, name, size = _find_accelerator() if accelerator else (None, None, 0)
    return Machine(
        cores=count_usable_cores(),
        memory_bytes=total,
        available_bytes=available,
        accelerator=kind,
        accelerator_name=name,
        accelerator_bytes=size,
        native_bf16=_has_native_bf16(),
        processor=_find_processor_name(),
    )


def inspect_processor() -> tuple[str, bool]:
    """The name of the CPU, and whether it multiplies bfloat16 in hardware."""
    return _find_processor_name(), _has_native_bf16()


def choose_device(requested: str, machine: Machine) -> str:
    """The torch device: ``requested``; for "auto", the accelerator if there is one.

    Raises:
        UsageError: This machine does not have the requested device.
    """
    chosen = (machine.accelerator or "cpu") if requested == "auto" else requested
    kind = chosen.partition(":")[0]
    if kind not in {"cpu", machine.accelerator}:
        raise UsageError(
            f"this machine has no {kind} device that torch can use",
            fix="remove --device, or use --device cpu",
        )
    return chosen


def count_usable_cores() -> int:
    """Cores that this process may use; fewer than the machine has in Slurm jobs and containers.

    The smaller one of the cores of the process's affinity and the time quota of its control groups,
    rounded up.
    """
    cores = os.cpu_count() or 1
    with contextlib.suppress(AttributeError):  # macOS has no sched_getaffinity
        cores = len(os.sched_getaffinity(0))
    quotas = read_cpu_quotas(_CGROUP_ROOT, _CGROUPS_OF_PROCESS)
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas)]))


def read_cpu_quotas(root: Path, groups: Path) -> list[float]:
    """Cores' worth of time that the control groups of a process allow; empty without a limit.

    Args:
        root: Where the control groups are mounted.
        groups: The process's list of control groups, as in /proc/self/cgroup.
    """
    quotas = []
    for folder, is_version_1 in _list_group_folders(root, groups, "cpu"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quotas.append((_read_quota_v1 if is_version_1 else _read_quota)(folder))
    return [quota for quota in quotas if quota > 0]


def read_memory_limits(root: Path, groups: Path) -> list[tuple[int, int]]:
    """The limits of memory of a process's control groups, and what of each is free, in bytes.

    Files that were read are kept in memory as long as nothing else needs it: what the system may
    drop first of them counts as free. The arguments are those of `read_cpu_quotas`.
    """
    limits = []
    for folder, is_version_1 in _list_group_folders(root, groups, "memory"):
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit_file, used_file, droppable = (
            names if is_version_1 else ("memory.max", "memory.current", "inactive_file")
        )
        with contextlib.suppress(OSError, ValueError):
            limit = int((folder / limit_file).read_text())  # ValueError for "max"
            used = int((folder / used_file).read_text())
            counts = dict(
                line.split() for line in (folder / "memory.stat").read_text().splitlines()
            )
            limits.append((limit, max(0, limit - used + int(counts.get(droppable, 0)))))
    return limits


def _list_group_folders(root: Path, groups: Path, controller: str) -> list[tuple[Path, bool]]:
    """The folders of a process's control groups, and whether each is of version 1.

    A limit of an enclosing group applies too. In a container the group's path may not exist,
    because the container's group is mounted as the root.
    """
    folders: list[tuple[Path, bool]] = []
    with contextlib.suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            mount = root / controllers if (root / controllers).is_dir() else root / controller
            path = Path(group.lstrip("/"))
            folders += [(mount / folder, bool(controllers)) for folder in (path, *path.parents)]
    return folders


def limit_torch_threads(threads: int | None) -> int:
    """Set the number of torch's threads; returns it.

    Args:
        threads: The number; None for one thread per usable core, but not more than torch has
            chosen, and not if the user has set an OpenMP variable.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    elif not _THREAD_VARIABLES & os.environ.keys():
        torch.set_num_threads(min(torch.get_num_threads(), count_usable_cores()))
    return int(torch.get_num_threads())


def parse_bytes(text: str) -> int:
    """Bytes of an amount such as "8GB", "512 MiB", "1.5g" or "1048576".

    Raises:
        UsageError: The text is not an amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text, flags=re.IGNORECASE)
    unit = _UNIT_BYTES.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(
            f"{text!r} is not an amount of memory", fix="use a form such as 8GB or 512MB"
        )
    return int(float(match[1]) * unit)


def measure_peak_memory() -> dict[str, int]:
    """Peak memory of this process in bytes: ``memory`` and, with torch on CUDA, ``accelerator``.

    Values that the system does not provide are left out.
    """
    peaks = {}
    if memory := _read_peak_memory():
        peaks["memory"] = memory
    if cuda := _find_used_cuda():
        peaks["accelerator"] = int(cuda.max_memory_allocated())
    return peaks


def _read_peak_memory() -> int:
    """Peak memory in bytes; 0 if the system does not provide it."""
    with contextlib.suppress(OSError):
        # In Linux ru_maxrss begins with the memory of the process that has started this one.
        status = Path("/proc/self/status").read_text()
        if found := re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE):
            return 1024 * int(found[1])
    with contextlib.suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0


def measure_used_memory() -> int:
    """Bytes that this process uses now, with those of torch on CUDA."""
    import psutil

    used = int(psutil.Process().memory_info().rss)
    if cuda := _find_used_cuda():
        used += int(cuda.memory_allocated())
    return used


def reset_peak_memory() -> None:
    """Let `measure_peak_memory` start anew, where the system supports it (Linux, CUDA)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if cuda := _find_used_cuda():
        cuda.reset_peak_memory_stats()


def _find_used_cuda() -> Any:
    """The module ``torch.cuda`` if this process uses it; else None."""
    torch = sys.modules.get("torch")
    is_used = torch and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda if torch and is_used else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch means that memory ran out."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    # torch raises a plain RuntimeError when the CPU's allocator fails.
    return "can't allocate memory" in str(error)


def free_memory() -> None:
    """Release what is not referenced any more, also on the accelerator."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read_quota(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)  # ValueError for "max"


def _read_quota_v1(folder: Path) -> float:
    quota = int((folder / "cpu.cfs_quota_us").read_text())  # -1 without a limit
    return quota / int((folder / "cpu.cfs_period_us").read_text())


def _measure_memory() -> tuple[int, int]:
    """Total and available bytes, within the limit of the control group."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    available = total
    with contextlib.suppress(OSError):
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(facts["MemAvailable"].split()[0]) * 1024
    for limit, free in read_memory_limits(_CGROUP_ROOT, _CGROUPS_OF_PROCESS):
        total, available = min(total, limit), min(available, free)
    return total, available


def _find_accelerator() -> tuple[Literal["cuda", "mps"] | None, str | None, int]:
    from importlib.metadata import PackageNotFoundError, version

    with contextlib.suppress(PackageNotFoundError):
        if version("torch").endswith("+cpu"):  # importing it takes seconds
            return None, None, 0
    try:
        import torch
    except ImportError:
        return None, None, 0
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        return "cuda", facts.name, facts.total_memory
    if torch.backends.mps.is_available():
        return "mps", "Apple GPU", torch.mps.recommended_max_memory()
    return None, None, 0


def _has_native_bf16() -> bool:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        # The line is named "Features" on Arm and "flags" on x86.
        flags = (
            set(re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", text, flags=re.MULTILINE)[0].split())
            if "\n" in text
            else set()
        )
        return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return False


def _find_processor_name() -> str:
    with contextlib.suppress(OSError):
        names = re.findall(
            r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE
        )
        if names:
            return str(names[0])
    return platform.processor() or platform.machine()

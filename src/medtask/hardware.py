"""Cores, memory, accelerator and number formats of this machine."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medtask.errors import UsageError

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
    """Make OpenMP threads sleep soon when they wait; call it before torch is imported.

    By default they spin for milliseconds. If another process uses the cores, the thread that they
    wait for cannot run, and everything takes several times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's library: about 50 microseconds
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM's and Intel's: milliseconds


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
    """Inspect this machine; ``accelerator`` imports torch, which is needed to find one."""
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
    """Cores that this process may use; fewer than the machine has in Slurm jobs and containers."""
    with contextlib.suppress(AttributeError):  # macOS has no sched_getaffinity
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    with contextlib.suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # Linux reports KiB
        peaks["memory"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["accelerator"] = int(torch.cuda.max_memory_allocated())
    return peaks


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


def _measure_memory() -> tuple[int, int]:
    """Total and available bytes, within the limit of the control group."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    available = total
    with contextlib.suppress(OSError):
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(facts["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, available = min(total, limit), min(available, limit - used)
    return total, max(0, available)


def _find_accelerator() -> tuple[Literal["cuda", "mps"] | None, str | None, int]:
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

"""Batch sizes that `medtask.benchmark` chooses, and keeps for later runs.

A choice is kept by task, model, and what the speed depends on: processor, threads and device.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medtask.atomic_files import replace_text
from medtask.engines.base import BatchSetting, Engine
from medtask.errors import StorageError
from medtask.hardware import count_usable_cores, inspect_processor
from medtask.tasks.fingerprint import fingerprint_task
from medtask.tasks.task import Task

# A size is preferred to the default only if it is faster by more than the noise of measurements.
MIN_GAIN = 1.1


def generates(task: Task) -> bool:
    """Whether most of the time of a task is that of generating text."""
    return task.kind_spec.generated or task.reasoning is not None


def choose_batch_size(speeds: Mapping[int, float], default: int) -> int:
    """Choose a size from the rows per second of each size.

    The default is kept unless another size is faster by `MIN_GAIN`; of sizes that are about as fast
    as the fastest, the smallest is chosen, because it needs the least memory.
    """
    fastest = max(speeds.values())
    if speeds.get(default, 0.0) * MIN_GAIN >= fastest:
        return default
    return min(size for size, speed in speeds.items() if speed * MIN_GAIN >= fastest)


def apply_batch_size(
    task: Task, engine: Engine, manifest: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Set the engine's batch size for a run.

    A resumed run keeps the size with which it was started: the rows of a batch affect the last
    digits of each other's numbers.

    Args:
        task: The task.
        engine: The engine.
        manifest: The manifest of the run that is resumed; None for a new run.

    Returns:
        The manifest's entry about the size; empty if there is nothing to choose.
    """
    setting = engine.get_batch_setting(generates=generates(task))
    if setting is None:
        return {}
    kept = find_batch_size(task, engine, setting) if manifest is None else _read_entry(manifest)
    if kept:
        engine.set_batch_size(kept, generates=generates(task))
    return {"batch": {"unit": setting.unit, "size": kept or setting.size, "measured": bool(kept)}}


@contextlib.contextmanager
def restore_batch_size(task: Task, engine: Engine) -> Iterator[None]:
    """Restore the engine's batch size at the end of the block: the caller may use the engine."""
    setting = engine.get_batch_setting(generates=generates(task))
    try:
        yield
    finally:
        if setting:
            engine.set_batch_size(setting.size, generates=generates(task))


def find_batch_size(task: Task, engine: Engine, setting: BatchSetting) -> int | None:
    """The kept choice; None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(_find_file(task, engine).read_text(encoding="ascii"))
        if content["unit"] == setting.unit and content["size"] in range(1, 2**31):
            return int(content["size"])
    return None


def keep_batch_size(task: Task, engine: Engine, setting: BatchSetting, size: int) -> None:
    """Keep a choice for later runs, or remove the kept one if it is the default."""
    file = _find_file(task, engine)
    with contextlib.suppress(OSError, StorageError):
        if size == setting.size:
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_text(file, json.dumps({"unit": setting.unit, "size": size}))


def _read_entry(manifest: Mapping[str, Any]) -> int | None:
    entry = manifest.get("batch")
    measured = isinstance(entry, Mapping) and entry.get("measured")
    size = entry.get("size") if measured else None  # type: ignore[union-attr]
    return size if isinstance(size, int) and size > 0 else None


def _find_file(task: Task, engine: Engine) -> Path:
    import platformdirs

    torch = sys.modules.get("torch")
    content = {
        "task": fingerprint_task(task),
        "model": dict(engine.info.identity),
        "device": engine.info.device,
        "processor": inspect_processor(),
        "threads": torch.get_num_threads() if torch else count_usable_cores(),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Path(platformdirs.user_cache_dir("medtask")) / "batch-sizes" / digest[:32]

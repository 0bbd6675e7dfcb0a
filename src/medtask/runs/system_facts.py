"""Facts from a run's manifest about a compared system: model, family, speed and memory."""

from __future__ import annotations

from collections.abc import Mapping

from medtask.evaluation.comparison.aligned_rows import OTHER_TOOL, OTHER_TOOL_TITLE, SystemFacts
from medtask.evaluation.presentation.formatting import find_manifest_value

_FAMILY_NAMES = {"linear": "TF-IDF", "encoder": "encoder", "none": "no model", "fake": "no model"}


def read_system_facts(manifest: Mapping[str, object]) -> SystemFacts:
    """The facts of a run's manifest; it is empty for tables of other tools."""
    memory, accelerator = (
        find_manifest_value(manifest, "timing", f"peak_{part}_bytes")
        for part in ("memory", "accelerator")
    )
    return SystemFacts(
        title=str(find_manifest_value(manifest, "model", "title") or OTHER_TOOL_TITLE),
        family=infer_system_family(manifest),
        rows_per_s=_read_rows_per_s(manifest),
        memory_bytes=memory if isinstance(memory, int) else None,
        accelerator_bytes=accelerator if isinstance(accelerator, int) else None,
        task=str(find_manifest_value(manifest, "task", "name") or ""),
        started=manifest.get("created"),
    )


def infer_system_family(manifest: Mapping[str, object]) -> str:
    """The family of the system that a manifest describes.

    A model with an adapter is fine-tuned regardless of its prompt; worked examples in the prompt
    make it few-shot. A model that was fine-tuned and merged elsewhere counts as prompted.
    """
    engine = find_manifest_value(manifest, "model", "name")
    family = find_manifest_value(manifest, "model", "family") or engine
    identity = find_manifest_value(manifest, "identity")
    if not isinstance(engine, str) or not isinstance(identity, Mapping):
        return OTHER_TOOL
    if family in _FAMILY_NAMES:
        return _FAMILY_NAMES[family]
    if any(identity.get(f"model.{part}") for part in ("adapter", "contract")):
        return "fine-tuned"
    examples = str(identity.get("task.examples") or "0 ")
    few_shot = identity.get("task.pool") or not examples.startswith("0 ")
    return "few-shot" if few_shot else "prompted"


def _read_rows_per_s(manifest: Mapping[str, object]) -> float | None:
    """Rows answered per second; if not in the manifest, of the whole run including loading.

    Rows from a cache do not count: they say nothing about the model.
    """
    measured = find_manifest_value(manifest, "timing", "rows_per_s")
    if isinstance(measured, int | float) and measured > 0:
        return float(measured)
    if find_manifest_value(manifest, "cache", "rows"):
        return None
    rows = find_manifest_value(manifest, "settings", "rows")
    seconds = find_manifest_value(manifest, "timing", "seconds")
    if isinstance(rows, int) and rows and isinstance(seconds, int | float) and seconds > 0:
        return rows / seconds
    return None

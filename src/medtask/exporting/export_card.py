"""The card of an export: README.md, for the people who use the exported model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medtask.display import format_count
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.statistics.intervals import Metric
from medtask.exporting.export_manifest import CARD_FILE, ExportManifest
from medtask.exporting.parity import ParityBounds
from medtask.training.markdown import escape_markdown, format_code, format_table, write_fence
from medtask.training.model_card import PHI_NOTICES

_DEMONSTRATION = "**This model is a demonstration and not for real work.**"


def write_export_card(manifest: ExportManifest, name: str, description: str) -> str:
    """The card as Markdown with front matter for the Hub. It contains no text of a row."""
    sections = (_write_parity, _write_calibration, _write_metrics, _write_data, _write_provenance)
    blocks = [
        f"# {escape_markdown(name)}",
        f"{description[0].upper()}{description[1:]}, exported by medtask from "
        f"{format_code(manifest.source['model'])}"
        + (
            f", quantised as {format_code(manifest.quantization)}."
            if manifest.quantization
            else "."
        ),
        _DEMONSTRATION if manifest.demonstration else "",
        PHI_NOTICES[manifest.phi] if manifest.tasks or manifest.phi != "no" else "",
        *(block for section in sections for block in section(manifest)),
    ]
    return _write_front_matter(manifest) + "\n" + "\n\n".join(filter(None, blocks)) + "\n"


def _write_front_matter(manifest: ExportManifest) -> str:
    from huggingface_hub import ModelCardData

    is_language_model = manifest.source.get("family", "language") == "language"
    front = ModelCardData(
        base_model=manifest.source.get("hub") or None,
        license=manifest.source.get("license") or "other",
        pipeline_tag="text-generation" if is_language_model else "text-classification",
        tags=["medtask", "medical", manifest.target, *filter(None, [manifest.quantization])],
    )
    return f"---\n{front.to_yaml(line_break=chr(10))}\n---\n"


def _write_parity(manifest: ExportManifest) -> Iterator[str]:
    yield "## Comparison with its source"
    parity = manifest.parity
    if parity is None:
        yield "**Not compared**: whether it answers as its source does is not known."
        return
    if manifest.forced:
        yield "**The comparison failed, and the model was published with `--force`:**"
        yield "\n".join(f"- {escape_markdown(problem, 400)}" for problem in parity["problems"])
    bounds = parity["bounds"]
    yield format_table(
        [format_count(parity["prompts"], "prompt"), "measured", "required"],
        [
            [
                "same most probable answer",
                f"{parity['agreement']:.3f}",
                f"≥ {bounds['agreement']:g}",
            ],
            *_list_clear_agreement(parity),
            ["mean KL divergence, nats", f"{parity['mean_kl']:.2g}", f"≤ {bounds['kl']:g}"],
            ["largest KL divergence, nats", f"{parity['max_kl']:.2g}", ""],
        ],
    )


def _list_clear_agreement(parity: Mapping[str, Any]) -> Iterator[list[str]]:
    if parity["clear_agreement"] is not None:
        gap = ParityBounds(**parity["bounds"]).clear_gap
        yield [
            f"of the {parity['clear_questions']:,} answers that lead by more than {gap:.2f}",
            f"{parity['clear_agreement']:.3f}",
            "",
        ]


def _write_calibration(manifest: ExportManifest) -> Iterator[str]:
    if manifest.calibrations:
        yield "## Calibration"
        yield (
            "Runs of medtask with this model use the calibration and the thresholds of its source "
            "for the same task. They were **measured on the original model**, before the export"
            + (
                f": as {format_code(manifest.quantization)} the probabilities may be calibrated "
                "less well. `medtask evaluate RUN --calibrate` fits them again."
                if manifest.quantization not in ("", "f32")
                else "."
            )
        )


def _write_metrics(manifest: ExportManifest) -> Iterator[str]:
    for task in manifest.tasks:
        yield f"## Metrics of its source: {escape_markdown(task['task'])}"
        rows = [
            [escape_markdown(get_metric_title(name)), f"{figure['n']:,}", str(Metric(**figure))]
            for name, figure in task["metrics"].items()
            if figure
        ]
        yield format_table(["validation rows", "n", "value"], rows) if rows else "None measured."
    if manifest.tasks:
        yield (
            "In brackets are 95 % intervals. These rows also decided when training stopped, so the "
            "metrics are slightly too good. They were measured before the export."
        )


def _write_data(manifest: ExportManifest) -> Iterator[str]:
    if manifest.data:
        yield "## Data"
        rows = [
            [escape_markdown(name), format_code(value)] for name, value in manifest.data.items()
        ]
        yield format_table(["table", "SHA-256"], rows, align_right=False)


def _write_provenance(manifest: ExportManifest) -> Iterator[str]:
    yield "## Provenance"
    license_name = manifest.source.get("license")
    yield (
        f"The licence of its base, {format_code(license_name)}, also applies to this model."
        if license_name
        else "The licence of its base is not known to medtask, and also applies to this model: "
        "read it before using or sharing the model."
    )
    facts = {**manifest.source, "patients' data": manifest.phi, "exported": manifest.created}
    yield format_table(
        ["item", "value"],
        [[escape_markdown(name), format_code(value)] for name, value in facts.items()],
        align_right=False,
    )
    if manifest.command:
        yield "The command that wrote it:"
        yield write_fence([manifest.command], "sh")
    yield (
        f"`medtask export --verify` compares the files with their hashes in `export.json` (except "
        f"`{CARD_FILE}`, which may be edited)."
    )

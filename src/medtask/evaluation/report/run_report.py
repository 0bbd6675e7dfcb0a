"""The report of a run: a static HTML file, and its numbers as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from medtask.atomic_files import replace_text
from medtask.display import capitalise_first, format_count, format_percent, shorten
from medtask.evaluation import presentation
from medtask.evaluation.kinds.protocols import get_evaluation_kind
from medtask.evaluation.presentation import formatting as words
from medtask.evaluation.presentation.blocks import ReportSection
from medtask.evaluation.presentation.formatting import find_manifest_value
from medtask.evaluation.presentation.glossary import find_terms
from medtask.evaluation.presentation.plots import draw_bar
from medtask.evaluation.report import quality_sections, sections
from medtask.evaluation.report.baseline_text import list_baseline_warnings
from medtask.evaluation.report.calibration_report import build_reliability_blocks
from medtask.evaluation.report.cascade_section import build_cascade_blocks
from medtask.evaluation.report.run_summary import STATUS_NAMES, RunSummary
from medtask.evaluation.statistics.intervals import estimate_proportion, metrics_to_json
from medtask.evaluation.statistics.significance import Baseline
from medtask.kinds import KINDS

MAX_ENTRIES = 100  # maximum number of entries of one mapping or list in the audit section


@dataclass(frozen=True, slots=True)
class ReportAdditions:
    """Additions of an evaluation to the report of a run.

    Attributes:
        sections: Further sections of the page.
        numbers: Further numbers of the JSON file.
        notes: Warnings at the start of the page.
    """

    sections: Sequence[ReportSection] = ()
    numbers: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(
    path: Path,
    summary: RunSummary,
    manifest: Mapping[str, object],
    baselines: Sequence[Baseline] = (),
    additions: ReportAdditions = ReportAdditions(),
) -> None:
    """Writes a report to ``path``, and its numbers to a JSON file in the same folder.

    The JSON file has no record text. Both files are readable by their owner only.

    Args:
        path: The HTML file.
        summary: Summary of the run.
        manifest: The run's manifest; missing values are left out.
        baselines: Simple methods on the same rows.
        additions: Additions of an evaluation.

    Raises:
        StorageError: If the files cannot be written.
    """
    document = {
        **summary.to_json(),
        "metrics": metrics_to_json(summary.metrics),
        "baselines": [baseline.to_json() for baseline in baselines],
        **({"cascade": manifest["cascade"]} if "cascade" in manifest else {}),
        **additions.numbers,
    }
    replace_text(path.with_suffix(".json"), json.dumps(document) + "\n")
    replace_text(path, render_report(summary, manifest, baselines, additions))


def render_report(
    summary: RunSummary,
    manifest: Mapping[str, object],
    baselines: Sequence[Baseline] = (),
    additions: ReportAdditions = ReportAdditions(),
) -> str:
    """Returns the report as HTML."""
    reliability = summary.gold.reliability if summary.gold else None
    return (
        get_report_templates()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            words=get_evaluation_kind(summary.kind).texts,
            can_audit=not KINDS[summary.kind].generated,
            manifest=manifest,
            name=find_manifest_value(manifest, "task", "name") or "A run without a name",
            lead=sections.describe_run(summary, manifest),
            tiles=sections.list_tiles(summary),
            warnings=[
                *(f"{capitalise_first(note)}." for note in additions.notes),
                *list_baseline_warnings(baselines, KINDS[summary.kind].has_labels),
            ],
            facts=sections.list_run_facts(manifest),
            status_bar=sections.draw_status_bar(summary),
            statuses=sections.build_status_blocks(summary),
            answers=summary.answer_statistics.build_blocks(manifest),
            doubt=sections.draw_confidence_histograms(summary),
            quality=quality_sections.build_quality_blocks(summary.gold, baselines),
            # An evaluation draws the risk curve in its own section on acceptance.
            belief=build_reliability_blocks(reliability, include_risk=not additions.sections)
            if reliability
            else [],
            further=additions.sections,
            passes=sections.build_pass_blocks(summary),
            cascade=build_cascade_blocks(manifest),
            gaps=quality_sections.build_missing_gold_blocks(summary),
            errors=sections.describe_errors(summary),
            doubtful=sections.describe_doubtful_rows(summary),
            promise=estimate_proportion(96, 120),
            costs=sections.list_costs(summary, manifest),
            pace=sections.build_throughput_blocks(summary),
        )
    )


def mark_code(text: str) -> Markup:
    """Escaped HTML of ``text``, with ``<code>`` around what stands between backticks."""
    marked = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(marked)  # noqa: S704 - escaped above


@cache
def get_report_templates() -> Environment:
    """The templates of reports, compiled once: that takes about 0.05 s."""
    return create_template_environment()


def create_template_environment() -> Environment:
    """Template environment that escapes all text except plots; unknown names are errors."""
    templates = Environment(
        loader=FileSystemLoader([Path(__file__).parent, Path(presentation.__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(
        draw_bar=draw_bar,
        status_words=STATUS_NAMES,
        entry_limit=MAX_ENTRIES,
        find_terms=find_terms,
    )
    templates.filters.update(
        count=format_count,
        percent=format_percent,
        decimals=lambda value, digits: f"{value:.{digits}f}",
        shorten=shorten,
        words=lambda name: str(name).replace("_", " "),
        plain=words.format_manifest_value,
        code=mark_code,
        first_entries=lambda mapping: islice(mapping.items(), MAX_ENTRIES),
        first_items=lambda items: items[:MAX_ENTRIES],
    )
    return templates

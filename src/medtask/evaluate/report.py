"""The report of a run: one HTML file for people that needs no network and no script, and its
numbers as JSON beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medtask.data.atomic import replace_text
from medtask.evaluate import sections, words
from medtask.evaluate.blocks import Section
from medtask.evaluate.comparison import Baseline, warn_of_baselines
from medtask.evaluate.intervals import estimate_share
from medtask.evaluate.plots import draw_bar
from medtask.evaluate.summary import STATUS_WORDS, Summary

ENTRIES = 100  # how many entries of one mapping or list the auditor's section shows


def write_report(
    path: Path,
    summary: Summary,
    manifest: Mapping[str, object],
    baselines: Sequence[Baseline] = (),
    further: Sequence[Section] = (),
    numbers: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write ``path`` and, beside it, the same numbers without record text as .json; both for their
    owner only.

    ``manifest`` may lack anything: what it has is shown. ``further``: what an evaluation found out
    besides, ``numbers``: of that, ``notes``: what has to be known before any of it is read.
    StorageError where the files cannot be written.
    """
    told = {
        **summary.to_json(),
        "baselines": [baseline.to_json() for baseline in baselines],
        **(numbers or {}),
    }
    replace_text(path.with_suffix(".json"), json.dumps(told) + "\n")
    replace_text(path, render_report(summary, manifest, baselines, further, notes))


def render_report(
    summary: Summary,
    manifest: Mapping[str, object],
    baselines: Sequence[Baseline] = (),
    further: Sequence[Section] = (),
    notes: Sequence[str] = (),
) -> str:
    """The report as HTML."""
    return (
        open_templates()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            manifest=manifest,
            name=sections.find_fact(manifest, "task", "name") or "A run without a name",
            lead=sections.tell_lead(summary, manifest),
            tiles=sections.list_tiles(summary),
            warnings=[
                *(f"{words.capital(note)}." for note in notes),
                *warn_of_baselines(baselines, summary.kind),
            ],
            facts=sections.list_facts(manifest),
            statuses=sections.list_statuses(summary),
            answers=summary.answers.tell(manifest),
            doubt=sections.draw_doubt(summary),
            quality=sections.tell_quality(summary.gold, baselines),
            belief=sections.tell_belief(
                summary, risk=not further
            ),  # an evaluation draws it where it tells of acceptance
            further=further,
            passes=sections.tell_passes(summary),
            gaps=sections.tell_gaps(summary),
            errors=sections.tell_errors(summary),
            doubtful=sections.tell_doubtful(summary),
            promise=estimate_share(96, 120),
            costs=sections.list_costs(summary, manifest),
            pace=sections.draw_pace(summary),
        )
    )


def open_templates() -> Environment:
    """Everything is escaped but what plots.py has drawn; a name that is not there is an error."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(draw_bar=draw_bar, status_words=STATUS_WORDS, entry_limit=ENTRIES)
    templates.filters.update(
        count=words.count,
        percent=words.percent,
        decimals=lambda value, digits: f"{value:.{digits}f}",
        shorten=words.shorten,
        words=lambda name: str(name).replace("_", " "),
        plain=words.plain,
        first_entries=lambda mapping: islice(mapping.items(), ENTRIES),
        first_items=lambda items: items[:ENTRIES],
    )
    return templates

"""Pages that compare runs: the leaderboard of a task, and a comparison with paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.display import capitalise_first, shorten
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.presentation.blocks import (
    ColumnStyle,
    Paragraph,
    ReportBlock,
    ReportPlot,
    ReportTable,
    TableCell,
)
from medtask.evaluation.presentation.comparison_plots import draw_differences
from medtask.evaluation.presentation.formatting import format_difference, format_p_value
from medtask.evaluation.presentation.plots import draw_intervals
from medtask.evaluation.statistics.intervals import Metric
from medtask.server.api.calls import UserCall, ViewerReads
from medtask.server.api.measurements import read_leaderboard
from medtask.server.api.resources import ResourceId
from medtask.server.jobs.tables import Job
from medtask.server.pages.job_views import describe_job
from medtask.server.pages.runs import read_confusion
from medtask.server.storage.files import PAGE_FILE, DataFolder
from medtask.server.storage.tables import StoredDataset, StoredRun, StoredTask

router = APIRouter(include_in_schema=False)

MAX_CONFUSIONS = 4  # matrices below a leaderboard


@router.get("/leaderboard")
def show_leaderboard(call: ViewerReads, board: str = "") -> Response:
    """The runs of one task on one data set, with their confusion matrices."""
    boards = _list_boards(call.session)
    chosen = board if board in boards else next(iter(boards), "")
    values: dict[str, Any] = {
        "boards": [(key, title) for key, (title, _, _) in boards.items()],
        "board": chosen,
    }
    if chosen:
        _, task_id, dataset_id = boards[chosen]
        entries = read_leaderboard(call, task_id, dataset_id)
        title = capitalise_first(get_metric_title(entries[0].metric))
        figures = [
            # Names of runs are long and alike; the table has them by rank.
            (
                f"{entry.rank}. {shorten(entry.run.model, 20)}",
                Metric(entry.value, entry.n or 0, low=entry.low, high=entry.high),
            )
            for entry in entries
        ]
        values |= {
            "entries": entries,
            "metric_title": title,
            "plot": draw_intervals(figures, f"{title} of all runs"),
            "confusions": _read_confusions(call.files, entries),
        }
    return call.render("leaderboard.html", values)


@router.get("/comparisons/{job_id}")
def show_comparison(call: ViewerReads, job_id: ResourceId) -> Response:
    """The result of a comparison, or its progress."""
    values = _read_comparison(call, job_id)
    page = call.files.get_folder("comparisons", job_id) / PAGE_FILE
    return call.render("comparison.html", {**values, "has_report": page.exists()})


@router.get("/comparisons/{job_id}/progress")
def show_comparison_progress(call: ViewerReads, job_id: ResourceId) -> Response:
    """The progress of a comparison, which replaces itself."""
    values = _read_comparison(call, job_id)
    return call.render("comparison_progress.html", values, reloads=values["job"].has_ended)


def _list_boards(session: Session) -> dict[str, tuple[str, int, int]]:
    """Title, task and data set of every leaderboard with at least one run, the newest first."""
    rows = session.execute(
        select(StoredRun, StoredTask.name, StoredDataset.name)
        .join(StoredTask, StoredTask.id == StoredRun.task_id)
        .join(StoredDataset, StoredDataset.id == StoredRun.dataset_id)
        .order_by(StoredRun.id.desc())
    )
    boards: dict[str, tuple[str, int, int]] = {}
    for run, task, dataset in rows:
        metrics = (run.evaluation or run.result or {}).get("metrics")
        if metrics and run.dataset_id is not None:
            key = f"{run.task_id}-{run.dataset_id}"
            boards.setdefault(key, (f"{task} on {dataset}", run.task_id, run.dataset_id))
    return boards


def _read_confusions(
    files: DataFolder, entries: Sequence[Any]
) -> list[tuple[Any, Sequence[ReportBlock]]]:
    read = (
        (entry, read_confusion(files.get_folder("runs", entry.run.id)))
        for entry in entries[:MAX_CONFUSIONS]
    )
    return [(entry, blocks) for entry, blocks in read if blocks]


def _read_comparison(call: UserCall, job_id: int) -> dict[str, Any]:
    job = call.get(Job, job_id)
    found = (call.session.get(StoredRun, run_id) for run_id in job.parameters.get("run_ids", ()))
    runs = [run for run in found if run is not None]
    return {
        "job": describe_job(job, call.user),
        "runs": runs,
        "blocks": build_comparison_blocks(job.result, {str(run.id): run.name for run in runs}),
    }


def build_comparison_blocks(
    result: Mapping[str, Any] | None, names: Mapping[str, str]
) -> list[ReportBlock]:
    """Tables and plots of a comparison.

    Args:
        result: `Comparison.to_json`; None before the job has ended.
        names: Names of the runs by the names of their folders.
    """
    if not result:
        return []
    metric = result["measure"]
    title = capitalise_first(get_metric_title(metric))
    figures = [
        (names.get(system["name"], system["name"]), Metric(**system["figures"][metric]))
        for system in result["systems"]
        if system["figures"].get(metric)
    ]
    blocks: list[ReportBlock] = [
        ReportPlot(
            f"{title} with 95 % intervals, on the rows that all runs have.",
            draw_intervals(figures, f"{title} of all systems"),
        )
    ]
    if pairs := result["pairs"]:
        blocks += _build_pair_blocks(pairs, metric, names)
    return [*blocks, *(Paragraph(note, "quiet small") for note in result.get("notes", ()))]


def _build_pair_blocks(
    pairs: Sequence[Mapping[str, Any]], metric: str, names: Mapping[str, str]
) -> list[ReportBlock]:
    rows: list[Sequence[TableCell]] = []
    drawn = []
    for pair in pairs:
        first, second = (names.get(pair[side], pair[side]) for side in ("first", "second"))
        difference = Metric(**pair["differences"][metric])
        drawn.append((f"{first} − {second}", difference))
        value, _, interval = format_difference(difference).partition(" (")
        p_value = format_p_value(pair["p_holm"]).removeprefix("p = ").removeprefix("p ")
        cell: TableCell = (value, interval.rstrip(")"))
        rows.append([f"{first} − {second}", cell, p_value, pair["verdict"], f"{pair['n']:,}"])
    title = get_metric_title(metric)
    head: tuple[tuple[str, ColumnStyle], ...] = (
        ("Pair", "l"),
        (f"Δ {title}", "n"),
        ("p (Holm)", "n"),
        ("Verdict of the first", "w"),
        ("Rows", "n"),
    )
    caption = "Differences with 95 % intervals; those in blue exclude zero."
    return [
        ReportPlot(caption, draw_differences(drawn, f"Differences in {title}")),
        ReportTable("Pairs of runs", head, rows),
    ]

"""Pages of data sets: upload, list, statistics of the columns and the first rows."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from medtask.server.access.requests import Viewer
from medtask.server.api.resources import ResourceId, get_files, get_row
from medtask.server.database.connect import ReadSession
from medtask.server.pages.lookups import list_datasets
from medtask.server.rendering import render_page
from medtask.server.storage.datasets import open_dataset, read_rows
from medtask.server.storage.tables import StoredDataset
from medtask.tables.column_statistics import collect_column_statistics

router = APIRouter(include_in_schema=False)

PREVIEW_ROWS = 25


@router.get("/datasets")
def show_datasets(request: Request, session: ReadSession, user: Viewer) -> Response:
    """The list of data sets, with the form to upload one."""
    return render_page(request, "datasets.html", {"datasets": list_datasets(session)})


@router.get("/datasets/{dataset_id}")
def show_dataset(
    request: Request, session: ReadSession, user: Viewer, dataset_id: ResourceId, start: int = 1
) -> Response:
    """A data set: some of its rows, from row ``start`` on."""
    dataset = get_row(session, StoredDataset, dataset_id, "data set")
    first = min(max(1, start), max(1, dataset.rows))
    values = {
        "dataset": dataset,
        "columns": dataset.columns,
        "rows": read_rows(get_files(request), dataset, first - 1, PREVIEW_ROWS),
        "first": first,
        "step": PREVIEW_ROWS,
    }
    return render_page(request, "dataset.html", values)


@router.get("/datasets/{dataset_id}/statistics")
def show_statistics(
    request: Request, session: ReadSession, user: Viewer, dataset_id: ResourceId
) -> Response:
    """Statistics of the columns, which the page loads after its other parts: all rows are read."""
    dataset = get_row(session, StoredDataset, dataset_id, "data set")
    table = open_dataset(get_files(request), dataset)
    columns = [one.to_json() for one in collect_column_statistics(table.columns, table)]
    values = {"dataset": dataset, "columns": columns}
    return render_page(request, "dataset_statistics.html", values)

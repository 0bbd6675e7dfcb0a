"""Pages of data sets: upload, list, statistics of the columns and the first rows."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from medtask.server.access.requests import Viewer
from medtask.server.api.calls import ViewerReads
from medtask.server.api.datasets import read_statistics
from medtask.server.api.resources import ResourceId
from medtask.server.pages.lookups import list_datasets
from medtask.server.rendering import render_page
from medtask.server.storage.datasets import read_rows
from medtask.server.storage.tables import StoredDataset
from medtask.tables.read import FILE_SUFFIXES

router = APIRouter(include_in_schema=False)

PREVIEW_ROWS = 25


@router.get("/datasets")
def show_datasets(call: ViewerReads) -> Response:
    """The list of data sets, with the form to upload one."""
    values = {"datasets": list_datasets(call.session), "suffixes": ",".join(FILE_SUFFIXES)}
    return call.render("datasets.html", values)


@router.get("/datasets/{dataset_id}")
def show_dataset(call: ViewerReads, dataset_id: ResourceId, start: int = 1) -> Response:
    """A data set: some of its rows, from row ``start`` on."""
    dataset = call.get(StoredDataset, dataset_id)
    first = min(max(1, start), max(1, dataset.rows))
    values = {
        "dataset": dataset,
        "columns": dataset.columns,
        "rows": read_rows(call.files, dataset, first - 1, PREVIEW_ROWS),
        "first": first,
        "step": PREVIEW_ROWS,
    }
    return call.render("dataset.html", values)


@router.get("/datasets/{dataset_id}/statistics")
def show_statistics(request: Request, user: Viewer, dataset_id: ResourceId) -> Response:
    """Statistics of the columns, which the page loads after its other parts: all rows are read."""
    values = {"dataset": read_statistics(request, user, dataset_id)}
    return render_page(request, "dataset_statistics.html", values)

"""Texts with which a new task starts: one per kind of question, or a draft from a data set."""

from __future__ import annotations

from functools import cache
from itertools import islice
from pathlib import Path

from medtask.server.storage.datasets import open_dataset
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset
from medtask.tasks.task_draft import draft_task_file

_FOLDER = Path(__file__).parent / "starters"
_SAMPLE_ROWS = 100


@cache
def read_starters() -> dict[str, tuple[str, str]]:
    """The title and the text of each starter by its name. A file's first line is its title."""
    starters = {}
    for file in sorted(_FOLDER.glob("*.yaml")):
        title, _, text = file.read_text("utf-8").partition("\n")
        starters[file.stem.partition("-")[2]] = (title.removeprefix("#").strip(), text)
    return starters


def draft_from_dataset(files: DataFolder, dataset: StoredDataset) -> str:
    """A task whose input and id are columns of a data set; its labels are placeholders.

    Raises:
        InputError: The file of the data set is not readable.
    """
    table = open_dataset(files, dataset)
    return draft_task_file(dataset.name, table.columns, list(islice(table, _SAMPLE_ROWS)))

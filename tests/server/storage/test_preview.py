"""The preview of a data set: any rows of it, without reading those before."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from medtask.errors import StorageError, TableError
from medtask.server.access.roles import Role
from medtask.server.storage.preview import read_preview, record_preview, shorten_row
from medtask.tables.read import read_table
from support.server import ServerUnderTest

ROWS = 1_234


def write_table(folder: Path) -> Path:
    lines = [
        f'{number},"note {number}, ünï\nsecond line",{"x" * (number * 3)}' for number in range(ROWS)
    ]
    path = folder / "notes.csv"
    path.write_text("\n".join(["case,text,long", *lines]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("offset", "limit"), [(0, 20), (490, 20), (499, 1), (500, 500), (1_230, 100), (5_000, 5)]
)
def test_rows_of_the_preview_are_those_of_the_table(
    tmp_path: Path, offset: int, limit: int
) -> None:
    table = read_table(write_table(tmp_path))
    path = tmp_path / "preview"
    with record_preview(table, path) as recorded:
        rows = [shorten_row(row) for row in recorded]
    assert len(rows) == ROWS
    assert read_preview(path, offset, limit) == rows[offset : offset + limit]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_table_with_a_fault_leaves_no_preview(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(TableError), record_preview(read_table(path), tmp_path / "preview") as table:
        list(table)
    assert [one.name for one in tmp_path.iterdir()] == ["notes.csv"]


def test_a_damaged_preview_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "preview"
    for content in (b"", b"\x00" * 40, b"x" * 8):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="damaged"):
            read_preview(path, 0, 5)


def test_deep_rows_do_not_need_the_table_and_older_data_sets_are_still_read(
    server: ServerUnderTest, tmp_path: Path
) -> None:
    client = server.connect(Role.TRAINER)
    content = write_table(tmp_path).read_bytes()
    uploaded = client.post("/api/datasets", files={"file": ("notes.csv", content)})
    assert uploaded.status_code == 201, uploaded.text
    path = f"/api/datasets/{uploaded.json()['id']}/rows?offset=1200&limit=3"
    folder = server.settings.data_folder / "datasets" / str(uploaded.json()["id"])
    (folder / "notes.csv").rename(folder / "elsewhere.csv")
    rows = client.get(path).json()
    assert [row["case"] for row in rows["rows"]] == ["1200", "1201", "1202"]
    assert client.get(f"/datasets/{uploaded.json()['id']}?start=1201").status_code == 200
    (folder / "elsewhere.csv").rename(folder / "notes.csv")
    (folder / "rows.preview").unlink()
    assert client.get(path).json() == rows


def test_numbers_that_json_does_not_have_are_shown(server: ServerUnderTest, tmp_path: Path) -> None:
    client = server.connect(Role.TRAINER)
    path = tmp_path / "numbers.parquet"
    pl.DataFrame({"id": [1, 2, 3], "value": [1.5, float("nan"), float("inf")]}).write_parquet(path)
    uploaded = client.post("/api/datasets", files={"file": ("n.parquet", path.read_bytes())})
    shown = client.get(f"/api/datasets/{uploaded.json()['id']}/rows").json()["rows"]
    assert shown[0]["value"] == 1.5
    assert len(shown) == 3
    assert client.get(f"/datasets/{uploaded.json()['id']}").status_code == 200

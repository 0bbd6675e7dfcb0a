"""The files that readers of the tutorials download: tables of the examples, and a task."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from documentation.code_blocks import read_blocks

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FIRST_TUTORIAL = ROOT / "docs" / "tutorials" / "first_labels.md"


def write_example_tables(
    folder: Path, names: Sequence[str] | None = None, *, rows: int | None = None
) -> None:
    """Write tables into a folder.

    Args:
        folder: The folder.
        names: File names; default: all.
        rows: The maximum number of rows of each; default: as many as the example has.
    """
    for name in names or TABLES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        TABLES[name](folder / name, rows)


def _read_rows(example: str, table: str, rows: int | None) -> tuple[list[str], list[list[str]]]:
    with (EXAMPLES / example / table).open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        return next(reader), list(islice(reader, rows))


def _write_procedures(path: Path, rows: int | None) -> None:
    """A workbook with a sheet of notes before the data, as hospital exports have."""
    import xlsxwriter

    header, lines = _read_rows("surgery_purpose", "procedures.csv", rows)
    with xlsxwriter.Workbook(path) as workbook:
        for name, content in (
            ("About", [["Operations, made up for this tutorial"]]),
            ("Operations", [header, *lines]),
        ):
            sheet = workbook.add_worksheet(name)
            for number, line in enumerate(content):
                sheet.write_row(number, 0, line)


def _write_labelled(path: Path, rows: int | None) -> None:
    """Clean rows of an earlier year, which share no text with `procedures.xlsx`."""
    script = EXAMPLES / "make_examples.py"
    count = str(min(rows or 600, 600))
    options = ["surgery_purpose", "--split", "train", "--rows", count, "--out", str(path)]
    subprocess.run([sys.executable, str(script), *options], check=True, capture_output=True)


def _write_export(path: Path, rows: int | None) -> None:
    """A file as some systems write it: Windows encoding, semicolons, a title, a total."""
    header, lines = _read_rows("surgery_purpose", "procedures.csv", rows)
    written = ["Operasjoner på Østre sykehus", "", ";".join(header)]
    written += [
        ";".join(" ".join(cell.replace(";", ",").replace('"', "'").split()) for cell in line)
        for line in lines
    ]
    written.append(f"Total;{len(lines)};;;")
    path.write_bytes("\r\n".join(written).encode("cp1252", "replace"))


def _copy_table(example: str, table: str) -> Callable[[Path, int | None], None]:
    def write(path: Path, rows: int | None) -> None:
        header, lines = _read_rows(example, table, rows)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *lines])

    return write


def _copy_script(path: Path, _: int | None) -> None:
    """The script that makes the tables of "A data manager's day", all of their rows."""
    path.write_bytes((EXAMPLES / "data_manager" / path.name).read_bytes())


def _write_task(path: Path, _: int | None) -> None:
    """The task of the first tutorial, as its page has it."""
    (task,) = (
        block.text
        for block in read_blocks(FIRST_TUTORIAL)
        if block.file and Path(block.file).name == path.name
    )
    path.write_text(task, "utf-8")


TABLES: dict[str, Callable[[Path, int | None], None]] = {
    "make_tables.py": _copy_script,
    "surgery-purpose/task.yaml": _write_task,
    "procedures.xlsx": _write_procedures,
    "labelled.csv": _write_labelled,
    "export.csv": _write_export,
    "papers.csv": _copy_table("literature_domains", "papers.csv"),
    "cases.csv": _copy_table("case_mcq", "cases.csv"),
    "notes.csv": _copy_table("registry_fields", "notes.csv"),
    "questions.csv": _copy_table("disease_qa", "questions.csv"),
}

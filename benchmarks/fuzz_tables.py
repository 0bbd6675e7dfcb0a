"""Coverage-guided fuzzing of the readers of tables, with atheris (Apache-2.0).

    pip install atheris
    python benchmarks/fuzz_tables.py csv --minutes 30 --corpus build/fuzz-csv
    python benchmarks/fuzz_tables.py xlsx --minutes 30 --corpus build/fuzz-xlsx

Each input is read completely. It must be a table, or a TableError that names the file and has a
remedy: any other exception, 5 minutes for one input or 2 GB of memory end the command with the
input in a file. An input of `xlsx` replaces one part of an intact workbook, because a damaged
archive is refused before its parts are read; the child process that inspects workbooks is replaced
by a call, so that its code is covered too.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["medtask"]):
    from medtask.errors import MedtaskError, TableError
    from medtask.isolation import IsolatedCallFailed, ProcessLimits
    from medtask.tables import binary_files, workbook_check
    from medtask.tables.read import read_table, validate_table

FORMATS = ("csv", "tsv", "jsonl", "json", "xlsx")
_SAMPLES = (
    'id,text,dose\n001,"a, b",1.5\n002,naïve “text”,2\n',
    'sep=;\nid;text\n1;"two\nlines"\n2;\n',
    "Title\n\nid\ttext\tn\n1\tx\t2\n",
    '{"id": "1", "text": "a"}\n{"id": "2", "text": null, "more": [1, {"b": 2}]}\n',
    '[{"id": 1, "text": "a"}, {"id": 2, "text": "\\ud83d\\ude00"}]',
)


def call_here(function: str, *arguments: str | None, limits: ProcessLimits) -> object:
    """`isolation.call_isolated` in this process; a panic of a library is the end of a child."""
    assert function.endswith(":inspect_workbook"), function
    try:
        return json.loads(json.dumps(workbook_check.inspect_workbook(*arguments)))  # type: ignore[arg-type]
    except MedtaskError:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise IsolatedCallFailed("crash", "panic") from None


def write_samples(corpus: Path, kind: str) -> list[tuple[str, bytes]]:
    """Write the first inputs; returns the parts of the workbook that they are damaged copies of."""
    if kind != "xlsx":
        for number, text in enumerate(_SAMPLES):
            for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
                data = text.encode(encoding, errors="replace")
                (corpus / f"sample-{number}-{encoding}").write_bytes(data)
        return []
    parts = build_workbook()
    for number, (_, content) in enumerate(parts):
        (corpus / f"sample-{number}").write_bytes(bytes([number]) + content)
    return parts


def build_workbook() -> list[tuple[str, bytes]]:
    """The parts of a workbook with two sheets, formats, a formula and merged cells."""
    import xlsxwriter

    stream = io.BytesIO()
    with xlsxwriter.Workbook(stream) as book:
        sheet = book.add_worksheet("Export")
        zeros = book.add_format({"num_format": "0000"})
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        sheet.write_row(0, 0, ["id", "text", "day"])
        for row in range(1, 6):
            sheet.write_number(row, 0, row, zeros)
            sheet.write_string(row, 1, f"note {row}")
            sheet.write_number(row, 2, 45000 + row, day)
        sheet.merge_range(7, 1, 9, 1, "merged")
        sheet.write_formula(5, 3, "=1+1", value=2)
        book.add_worksheet("Codes").write_row(0, 0, ["code"])
    with zipfile.ZipFile(stream) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def make_writer(path: Path, parts: list[tuple[str, bytes]]) -> Callable[[bytes], None]:
    """A function that writes an input to the file that is read."""
    if not parts:
        return lambda data: void(path.write_bytes(data))

    def write(data: bytes) -> None:
        chosen = data[0] % len(parts) if data else 0
        with zipfile.ZipFile(path, "w") as archive:
            for number, (name, content) in enumerate(parts):
                archive.writestr(name, data[1:] if number == chosen else content)

    return write


def void(_: object) -> None:
    """No result: atheris refuses functions that return one."""


def main() -> None:
    """Fuzz until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--corpus", type=Path, required=True)
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    parts = write_samples(options.corpus, options.format)
    warnings.simplefilter("ignore")  # a guessed encoding
    vars(binary_files)["call_isolated"] = call_here
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / f"table.{options.format}"
    write = make_writer(path, parts)

    def read_input(data: bytes) -> None:
        write(data)
        try:
            validate_table(read_table(path))
        except TableError as error:
            assert path.name in str(error), error
            assert error.fix, error
        finally:
            binary_files._facts.clear()
            binary_files._numbers.clear()

    atheris.Setup(
        [
            sys.argv[0],
            str(options.corpus),
            f"-max_total_time={options.minutes * 60:.0f}",
            "-timeout=300",
            "-rss_limit_mb=2048",
            "-max_len=20000",
            f"-artifact_prefix={options.corpus}/../fault-{options.format}-",
        ],
        read_input,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Table files of every format, and damaged copies of them that a seed determines."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

ROWS = 120
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)
_TEXTS = (
    *(
        b"\0",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b"\r",
        b"\n",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xfe\xff",
    ),
    *(b"[" * 5000, b"{" * 5000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"-", b"NaN", b"null"),
    *(
        b"\\ud800",
        b"\xed\xa0\x80",
        b"\x1b[2J",
        b"\xe2\x80\xae",
        b"<",
        b">",
        b"&#0;",
        b"&x;",
        b"]]>",
    ),
    *(b"XFD1048576", b"A0", b"-1", b"4294967296", b"1e308", b"sep=,", b"PAR1", b"PK\x03\x04"),
)
_NUMBER = re.compile(rb"\d+")


def write_sample(path: Path) -> None:
    """Write a table of a few column types in the format of the suffix."""
    rows = [
        {"id": f"{row:04}", "text": f"Note {row}: naïve, “quoted”", "dose": row / 7, "n": row}
        for row in range(ROWS)
    ]
    _WRITERS[Path(path.name.removesuffix(".gz")).suffix](path, rows)


def _write_delimited(path: Path, rows: list[dict[str, object]]) -> None:
    mark = "\t" if ".tsv" in path.name else ","
    lines = [mark.join(rows[0])]
    lines += [mark.join(f'"{cell}"' for cell in row.values()) for row in rows]
    _write_text(path, "\n".join(lines))


def _write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    _write_text(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def _write_json(path: Path, rows: list[dict[str, object]]) -> None:
    _write_text(path, json.dumps(rows, indent=1))


def _write_text(path: Path, text: str) -> None:
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _write_xlsx(path: Path, rows: list[dict[str, object]]) -> None:
    import xlsxwriter

    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet("Export")
        zeros = book.add_format({"num_format": "0000"})
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        sheet.write_row(0, 0, [*rows[0], "day"])
        for number, row in enumerate(rows, 1):
            sheet.write_number(number, 0, number, zeros)
            sheet.write_row(number, 1, list(row.values())[1:])
            sheet.write_number(number, 4, 45000 + number, day)
        sheet.merge_range(10, 1, 12, 1, "merged")
        sheet.write_formula(5, 3, "=1+1", value=2)
        book.add_worksheet("Codes").write_row(0, 0, ["code"])


def _write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    import polars as pl

    frame = pl.DataFrame(rows).with_columns(
        pl.col("n").cast(pl.Date).alias("day"),
        pl.col("dose").cast(pl.Float32).alias("short"),
        pl.concat_list("n", "n").alias("list"),
        pl.struct("id", "n").alias("struct"),
        pl.col("text").cast(pl.Categorical).alias("kind"),
        pl.col("n").cast(pl.Decimal(10, 2)).alias("decimal"),
    )
    codec = "zstd" if ".zstd" in path.name else "uncompressed"
    frame.write_parquet(path, compression=codec, row_group_size=50)


_WRITERS: dict[str, Callable[[Path, list[dict[str, object]]], None]] = {
    ".csv": _write_delimited,
    ".tsv": _write_delimited,
    ".jsonl": _write_jsonl,
    ".json": _write_json,
    ".xlsx": _write_xlsx,
    ".parquet": _write_parquet,
}


def mutate(data: bytes, seed: int, suffix: str) -> bytes:
    """A damaged copy of a file. Half of the workbooks are damaged inside an intact archive."""
    source = random.Random(seed)
    if suffix == ".xlsx" and source.random() < 0.6:
        return _mutate_archive(data, source)
    if suffix == ".gz" and source.random() < 0.6:
        return gzip.compress(_mutate_bytes(gzip.decompress(data), source), mtime=0)
    return _mutate_bytes(data, source, tail=suffix == ".parquet")


def _mutate_archive(data: bytes, source: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = source.choice([name for name in parts if name.startswith("xl/") and "theme" not in name])
    parts[name] = _mutate_bytes(parts[name], source)
    if source.random() < 0.05:
        del parts[name]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return file.getvalue()


def _mutate_bytes(data: bytes, source: random.Random, *, tail: bool = False) -> bytes:
    content = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 4, 16))):
        if not content:
            break
        # The end of a Parquet file describes all of its columns.
        first = max(0, len(content) - 1500) if tail and source.random() < 0.5 else 0
        place = source.randrange(first, len(content))
        source.choice(_MUTATIONS)(content, place, source)
    return bytes(content)


def _flip_bit(content: bytearray, place: int, source: random.Random) -> None:
    content[place] ^= 1 << source.randrange(8)


def _set_byte(content: bytearray, place: int, source: random.Random) -> None:
    content[place] = source.choice((*_EXTREMES, source.randrange(256)))


def _set_bytes(content: bytearray, place: int, source: random.Random) -> None:
    size = source.choice((2, 4, 8))
    value = bytes([source.choice(_EXTREMES)]) * size
    content[place : place + size] = value


def _remove(content: bytearray, place: int, source: random.Random) -> None:
    del content[place : place + source.choice((1, 2, 10, 100, 1000))]


def _repeat(content: bytearray, place: int, source: random.Random) -> None:
    size = source.choice((1, 10, 100, 1000))
    content[place:place] = content[place : place + size] * source.choice((1, 2, 50))


def _insert_text(content: bytearray, place: int, source: random.Random) -> None:
    content[place:place] = source.choice(_TEXTS)


def _change_number(content: bytearray, place: int, source: random.Random) -> None:
    if found := _NUMBER.search(content, place):
        value = source.choice((b"0", b"-1", b"1048576", b"4294967295", b"9" * 25, b"1e400"))
        content[found.start() : found.end()] = value


def _truncate(content: bytearray, place: int, source: random.Random) -> None:
    del content[place:]


def _swap(content: bytearray, place: int, source: random.Random) -> None:
    other = source.randrange(len(content))
    size = source.choice((4, 40, 400))
    content[other : other + size] = content[place : place + size]


_MUTATIONS = (
    *(_flip_bit, _flip_bit, _set_byte, _set_byte, _set_bytes, _remove, _repeat, _insert_text),
    *(_insert_text, _change_number, _change_number, _truncate, _swap),
)

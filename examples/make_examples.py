"""Write the tables of the example tasks from the hand-written fragments beside this file.

    python examples/make_examples.py radiology_protocol --out examples/radiology_protocol/notes.csv
    python examples/make_examples.py surgery_purpose --split train --rows 3000 --out train.csv

The output is deterministic. ``gold`` reproduces the included tables: at most a few hundred rows,
some of them faulty. ``train`` has clean rows, which are built from other fragments and share no
text with the included rows.

A fragment is one line, ``PLACE: text``. In it stand ``[a|b]`` for a choice; ``{m60-80}``,
``{f60-80}``, ``{p60-80}`` for a patient ("71M"), ``{man60-80}``, ``{woman60-80}``,
``{person60-80}`` for the same in words, ``{@p60-80}`` for the same unsaid; ``{3-6}`` and
``{2.5-4.0}`` for a number; ``{side}``, ``{other}``, ``{l}``, ``{o}``, ``{he}``, ``{his}``,
``{age}`` for what is settled once a text. Standard library only.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from generators import labelled_texts as labelled
from generators import multiple_choice as cases
from generators import papers
from generators import patient_questions as questions
from generators import registry_notes as registry
from generators.fragments import Row, StableRandom, normalize_text


@dataclass(frozen=True, slots=True)
class ExampleTable:
    """How an example's table is made: by ``make_clean`` and ``make_dirty`` of a module, so many
    rows.

    ``columns``: header -> what a made row calls it, "id" for its id, which begins with
    ``id_prefix``.
    """

    generator: ModuleType
    rows: int
    id_prefix: str
    columns: Mapping[str, str]


TABLES = {
    "radiology_protocol": ExampleTable(
        labelled,
        300,
        "N",
        {
            "note_id": "id",
            "note": "text",
            "protocol": "gold",
            "age": "age",
            "ordered_from": "place",
        },
    ),
    "surgery_purpose": ExampleTable(
        labelled,
        300,
        "S",
        {"case_id": "id", "procedure": "text", "purpose": "gold", "site": "place", "year": "year"},
    ),
    "surgery_refined": ExampleTable(
        labelled,
        120,
        "R",
        {"case_id": "id", "procedure": "text", "purpose": "gold", "site": "place"},
    ),
    "literature_domains": ExampleTable(
        papers,
        120,
        "L",
        {"paper_id": "id", "title": "title", "abstract": "text", "domains": "gold"},
    ),
    "case_mcq": ExampleTable(
        cases, 40, "C", {"case_id": "id", "case": "text", "options": "options", "correct": "gold"}
    ),
    "disease_qa": ExampleTable(
        questions,
        40,
        "Q",
        {"question_id": "id", "question": "text", "reference": "gold", "topic": "topic"},
    ),
    "registry_fields": ExampleTable(
        registry, 40, "F", {"note_id": "id", "note": "text", "registry": "gold"}
    ),
}


def make_example_rows(example: str, split: str, count: int) -> list[Row]:
    generator = TABLES[example].generator
    dirty = list(generator.make_dirty(example)) if split == "gold" else []
    if count < len(dirty):
        raise SystemExit(
            f"error: the dirty rows alone are {len(dirty)}.\n  fix: ask for at least as many "
            "--rows."
        )
    shipped_rows = (
        dirty if split == "gold" else make_example_rows(example, "gold", TABLES[example].rows)
    )
    rows = [
        *dirty,
        *generator.make_clean(
            example,
            split,
            count - len(dirty),
            {normalize_text(row["text"]) for row in shipped_rows},
        ),
    ]
    return StableRandom(example, split, "order").shuffle(rows)


def write_csv(example: str, split: str, rows: Sequence[Row], out: Path) -> None:
    """UTF-8 and quoted as in RFC 4180, but with lines that end in a bare line feed."""
    columns = TABLES[example].columns
    letter = TABLES[example].id_prefix if split == "gold" else "T"
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for number, row in enumerate(rows, start=1):
        writer.writerow(
            [
                f"{letter}{number:04d}" if what == "id" else row.get(what, "")
                for what in columns.values()
            ]
        )
    out.write_bytes(buffer.getvalue().encode("utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the table of an example task.")
    parser.add_argument("example", choices=sorted(TABLES))
    parser.add_argument(
        "--split",
        choices=("gold", "train"),
        default="gold",
        help="gold: the shipped rows; train: others, clean",
    )
    parser.add_argument("--rows", type=int, metavar="N", help="default: as many as ship")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    count = TABLES[options.example].rows if options.rows is None else options.rows
    write_csv(
        options.example,
        options.split,
        make_example_rows(options.example, options.split, count),
        options.out,
    )


if __name__ == "__main__":
    main()

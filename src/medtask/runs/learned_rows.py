"""Fingerprints of the rows that a model learned from, so that evaluations can leave them out.

A trained folder has a file ``learned_rows.json``. It contains keyed hashes of texts and groups, and
no text:

    {"format": 1, "complete": true, "sets": [
        {"key": "<hex>", "rows": 120, "train": ["<hex>", ...], "validation": ["<hex>", ...],
         "groups": ["<hex>", ...]}]}

A model that was trained from other trained models (a hybrid, a second training) has their sets too;
"complete" is false if one of them has no such file.
Whoever has the file can test whether a text that they know was among the rows: store it where the
model may be stored.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from medtask.atomic_files import replace_text
from medtask.display import format_path
from medtask.engines.model_metadata import LEARNED_ROWS_FILE
from medtask.errors import InputError
from medtask.records import Record
from medtask.tables.cell_values import read_cell
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Task

FORMAT = 1
_HASH_BYTES = 8
_KEY_BYTES = 16
_IGNORED_CATEGORIES = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})  # controls, joiners, spaces

LearnedReason = Literal["train", "validation", "group"]


@dataclass(frozen=True, slots=True)
class LearnedSet:
    """The rows of one training.

    Attributes:
        key: The key of the hashes.
        rows: The number of rows.
        train: Hashes of the texts that the weights were fitted on.
        validation: Hashes of the texts by which the best state, settings or calibration was chosen.
        groups: Hashes of the groups of both.
    """

    key: bytes
    rows: int
    train: frozenset[bytes]
    validation: frozenset[bytes]
    groups: frozenset[bytes]

    def find_reason(self, row: RowContent) -> LearnedReason | None:
        text = _hash(self.key, row.text)
        if text in self.train:
            return "train"
        if text in self.validation:
            return "validation"
        if row.group is not None and _hash(self.key, row.group) in self.groups:
            return "group"
        return None


@dataclass(frozen=True, slots=True)
class LearnedRows:
    """The rows that a model learned from, in all its trainings.

    ``complete`` is False if a model has no record of its rows, so that it may have seen others.
    """

    sets: tuple[LearnedSet, ...] = ()
    complete: bool = True

    @property
    def rows(self) -> int:
        """The number of rows, counted once per training."""
        return sum(one.rows for one in self.sets)

    def find_reason(self, task: Task, record: Record) -> LearnedReason | None:
        """Why a row must not be measured with this model; None for a row that it has not seen.

        Args:
            task: The task; texts are those of the columns that its prompts show.
            record: The row.

        Returns:
            "train" or "validation" if the text was in that part of a training, "group" if only
            the row's group was, otherwise None.
        """
        content = read_row_content(task, record)
        return next((why for one in self.sets if (why := one.find_reason(content))), None)


@dataclass(frozen=True, slots=True)
class RowContent:
    """The text and the group of a row in the form that is hashed."""

    text: str
    group: str | None


def read_row_content(task: Task, record: Record) -> RowContent:
    """The hashed parts of a row.

    The text consists of the cells that a prompt shows, in a fixed order, so that it depends neither
    on the names of columns nor on the words of the template.
    """
    cells = (record.fields.get(column) for column in find_prompt_columns(task))
    parts = sorted(filter(None, (_normalize(part) for cell in cells for part in _flatten(cell))))
    group = None if record.group is None else "group:" + _normalize(record.group)
    return RowContent("text:" + json.dumps(parts), group)


def fingerprint_rows(
    parts: Sequence[tuple[Task, Sequence[Record], Sequence[Record]]], seed: str
) -> LearnedSet:
    """The fingerprints of the rows of one training.

    Args:
        parts: For each task, its training rows and its validation rows.
        seed: Determines the key, so that the same training writes the same file.
    """
    key = blake2b(seed.encode(), digest_size=_KEY_BYTES, person=b"learned rows").digest()
    texts: tuple[set[bytes], set[bytes]] = (set(), set())
    groups: set[bytes] = set()
    for task, *both in parts:
        for found, records in zip(texts, both, strict=True):
            for record in records:
                content = read_row_content(task, record)
                found.add(_hash(key, content.text))
                if content.group is not None:
                    groups.add(_hash(key, content.group))
    rows = sum(len(train) + len(validation) for _, train, validation in parts)
    return LearnedSet(key, rows, frozenset(texts[0]), frozenset(texts[1]), frozenset(groups))


def read_learned_rows(folders: Iterable[str | Path]) -> LearnedRows:
    """The rows that the models in these folders learned from.

    Args:
        folders: Trained folders (``EngineInfo.trained_folders``), or run folders with a copy.

    Raises:
        InputError: A file is damaged.
    """
    sets: dict[bytes, LearnedSet] = {}
    complete = True
    for folder in folders:
        path = Path(folder) / LEARNED_ROWS_FILE
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
            sets |= {one.key: one for one in map(_parse_set, content["sets"])}
            complete = complete and bool(content["complete"])
        except (FileNotFoundError, NotADirectoryError):
            complete = False
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"{format_path(path)} is damaged ({type(error).__name__}): it is not known which "
                "rows the model learned from",
                fix="copy the model's folder again, or train the model again",
            ) from None
    return LearnedRows(tuple(sets.values()), complete)


def write_learned_rows(folder: Path, learned: LearnedRows) -> None:
    """Write ``learned_rows.json`` into a folder (mode 0600). Raises StorageError."""
    sets = [
        {
            "key": one.key.hex(),
            "rows": one.rows,
            **{
                name: sorted(value.hex() for value in values)
                for name, values in (
                    ("train", one.train),
                    ("validation", one.validation),
                    ("groups", one.groups),
                )
            },
        }
        for one in learned.sets
    ]
    document = {"format": FORMAT, "complete": learned.complete, "sets": sets}
    replace_text(folder / LEARNED_ROWS_FILE, json.dumps(document) + "\n")


def _parse_set(entry: Mapping[str, Any]) -> LearnedSet:
    train, validation, groups = (
        frozenset(map(bytes.fromhex, entry[name])) for name in ("train", "validation", "groups")
    )
    return LearnedSet(bytes.fromhex(entry["key"]), int(entry["rows"]), train, validation, groups)


def _flatten(cell: object) -> Iterator[str]:
    """The texts of a cell; those of the values of a list or mapping."""
    if isinstance(cell, Mapping):
        cell = list(cell.values())
    if isinstance(cell, list | tuple):
        for part in cell:
            yield from _flatten(part)
        return
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # a column of numbers with a gap is read as floats
    text = read_cell(cell)
    if text is not None:
        yield text


def _normalize(text: str) -> str:
    """A text without case, width, spaces and invisible characters. Part of the file's format."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(one for one in folded if unicodedata.category(one) not in _IGNORED_CATEGORIES)


def _hash(key: bytes, content: str) -> bytes:
    data = content.encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=_HASH_BYTES, key=key).digest()

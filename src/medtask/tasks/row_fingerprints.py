"""Fingerprints of rows: which rows a model, a calibration or a task was made from, without text.

    training_rows.json    {"format": 1, "rows": [{"use": "training", "salt": "...",
                           "questions": ["9f0c...", ...], "groups": ["77ab...", ...]}, ...]}

A fingerprint is a salted hash of a row's question (text, context and options), of the cells that
the question shows (so that the row is found under another template), or of its group. Case, blanks,
quotes, kinds of dashes and punctuation outside numbers do not matter. Whoever has a row can find
out whether it was used; nobody can read a row from the file. Short texts can be guessed, so the
file is as confidential as the model that learnt the rows.

Files of earlier versions have hashes in which punctuation matters, except at the ends of a text. A
row is therefore looked up, and written, in both forms.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import regex

from medtask.atomic_files import replace_text
from medtask.display import format_path
from medtask.errors import InputError
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.records import Prompt, Record
from medtask.tables.cell_values import read_cell
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Task
from medtask.tasks.text_cleaning import make_text_key, normalize_copy, normalize_group

# Part of the file's format. Before a digit these can be part of a number: 1.5 and 15 are different.
_PUNCTUATION = regex.compile(r"[.,:\u00b7](?!\d)|[;!?()\[\]{}\u00a1\u00bf\u2022\u3001\u3002]")

TRAINING_ROWS_FILE = "training_rows.json"
FORMAT = 1

# Rows that weights were fitted on; that chose a model or its thresholds; that chose the words of a
# task; that a calibration was fitted on, which changes answers or only their confidence; that a
# prompt shows with their answers.
RowUse = Literal["training", "validation", "tuning", "calibration", "confidence", "example"]


@dataclass(frozen=True, slots=True)
class RowKey:
    """What identifies a row: hashes of its question and of its cells, and its group.

    There are no hashes if nothing is known of the question.
    """

    hashes: tuple[bytes, ...]
    group: str | None


@dataclass(frozen=True, slots=True)
class RowFingerprints:
    """The fingerprints of rows that were used in one way.

    Attributes:
        use: What the rows were used for.
        salt: Part of every hash, so that two files cannot be compared with each other.
        questions: Hashes of the questions and cells.
        groups: Hashes of the groups; empty if rows have no group.
    """

    use: RowUse
    salt: str
    questions: frozenset[str]
    groups: frozenset[str]

    def has_row(self, key: RowKey) -> bool:
        """Whether a row was used."""
        return any(_hash(self.salt, content) in self.questions for content in key.hashes)

    def has_group(self, group: str | None) -> bool:
        """Whether a row of the group was used."""
        return group is not None and _hash(self.salt, _encode_group(group)) in self.groups

    def to_json(self) -> dict[str, Any]:
        """A plain dict; hashes are sorted, so that they do not show the order of rows."""
        return {
            "use": self.use,
            "salt": self.salt,
            "questions": sorted(self.questions),
            "groups": sorted(self.groups),
        }


def hash_question(task: Task, record: Record, prompt: Prompt) -> bytes:
    """A hash of 16 bytes, equal for rows whose text, context and options differ only in case and
    spaces.

    Questions with options in another order are different, because gold is a letter.
    """
    parts = [
        prompt.text,
        get_task_kind(task).read_context(record.fields),
        *(f"{option.letter} {option.text}" for option in prompt.options),
    ]
    return blake2b(
        json.dumps([make_text_key(part) for part in parts]).encode(), digest_size=16
    ).digest()


def make_row_key(task: Task, record: Record, prompt: Prompt) -> RowKey:
    """The key of a row; ``prompt`` needs only the row's text and options."""
    context = get_task_kind(task).read_context(record.fields)
    options = [f"{option.letter} {option.text}" for option in prompt.options]
    cells = [record.fields.get(column) for column in find_prompt_columns(task)]
    parts = [
        part
        for normalize in (normalize_copy, _remove_punctuation)
        for part in (
            ("question", *(normalize(part) for part in (prompt.text, context, *options))),
            ("cells", *sorted(_normalize_cell(cell, normalize) for cell in cells)),
        )
        if any(part[1:])
    ]
    hashes = (blake2b(json.dumps(part).encode(), digest_size=16).digest() for part in parts)
    return RowKey(tuple(dict.fromkeys(hashes)), record.group)


def fingerprint_rows(keys: Iterable[RowKey], use: RowUse, salt: str) -> RowFingerprints:
    """The fingerprints of rows.

    Args:
        keys: The keys of the rows; see `make_row_key`.
        use: What the rows were used for.
        salt: A value that is specific to these rows, such as the hash of their table.
    """
    hashed: set[str] = set()
    groups: set[str] = set()
    for key in keys:
        hashed.update(_hash(salt, content) for content in key.hashes)
        if key.group is not None:
            groups.add(_hash(salt, _encode_group(key.group)))
    return RowFingerprints(use, salt, frozenset(hashed), frozenset(groups))


class StoredFingerprints(JsonContent):
    """`RowFingerprints` in a JSON file."""

    use: RowUse
    salt: str
    questions: list[str]
    groups: list[str]

    def restore(self) -> RowFingerprints:
        return RowFingerprints(
            self.use, self.salt, frozenset(self.questions), frozenset(self.groups)
        )


class _FingerprintsFile(JsonContent):
    format: Literal[1]
    rows: list[StoredFingerprints]


def write_fingerprints(path: Path, fingerprints: Sequence[RowFingerprints]) -> None:
    """Write fingerprints to a file (mode 0600), such as `TRAINING_ROWS_FILE` of a model folder."""
    document = {"format": FORMAT, "rows": [one.to_json() for one in fingerprints]}
    replace_text(path, json.dumps(document) + "\n")


def read_training_rows(folder: Path) -> tuple[RowFingerprints, ...] | None:
    """The fingerprints of a model folder; None if it has none, as folders of older versions.

    Raises:
        InputError: The file is not valid.
    """
    path = folder / TRAINING_ROWS_FILE
    try:
        return _parse_file(path)
    except FileNotFoundError:
        return None
    except InvalidJsonFile as error:
        raise InputError(
            f"{format_path(path)} is not a valid list of training rows: {error}",
            fix="copy the model's whole folder again, or train the model again",
        ) from None


def read_fingerprints(path: Path) -> tuple[RowFingerprints, ...]:
    """The fingerprints in the file of a task's key ``tuning_rows``.

    Raises:
        InputError: The file is missing or not valid.
    """
    try:
        return _parse_file(path)
    except (FileNotFoundError, InvalidJsonFile) as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else f"not valid: {error}"
        raise InputError(
            f"{format_path(path)}, the list of the rows that chose this task's words, is {reason}",
            fix=(
                "copy the file that `medtask tune` wrote beside the task file; without it, and "
                "without the key, metrics on these rows are too good"
            ),
        ) from error


def _parse_file(path: Path) -> tuple[RowFingerprints, ...]:
    return tuple(one.restore() for one in load_checked(path, _FingerprintsFile).rows)


def _hash(salt: str, content: bytes) -> str:
    # 16 hex digits: among 100,000 learnt and 100,000 other rows, a false match has a probability
    # below 1e-9.
    key = blake2b(salt.encode(), digest_size=16).digest()
    return blake2b(content, key=key, digest_size=8).hexdigest()


def _normalize_cell(cell: object, normalize: Callable[[str], str]) -> str:
    """The normalised text of a cell, or of the values in a list or mapping."""
    if isinstance(cell, Mapping):
        cell = list(cell.values())
    if isinstance(cell, list | tuple):
        return json.dumps([_normalize_cell(part, normalize) for part in cell])
    return normalize(read_cell(cell) or "")


def _remove_punctuation(text: str) -> str:
    """`normalize_copy`, also without punctuation outside numbers."""
    return normalize_copy(_PUNCTUATION.sub("", unicodedata.normalize("NFKC", text)))


def _encode_group(group: str) -> bytes:
    # The prefix keeps groups apart from questions, whose hashes have 16 bytes.
    return f"group: {normalize_group(group)}".encode("utf-8", "surrogatepass")

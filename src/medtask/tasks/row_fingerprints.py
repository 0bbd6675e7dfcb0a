"""Fingerprints of rows: which rows a model or a calibration was made from, without their text.

    training_rows.json    {"format": 1, "rows": [{"use": "training", "salt": "...",
                           "questions": ["9f0c...", ...], "groups": ["77ab...", ...]}, ...]}

A fingerprint is a salted hash of a question (text, context and options, without case and spaces) or
of a group. Whoever has a row can find out whether it was used; nobody can read a row from the file.
Short texts can be guessed, so the file is as confidential as the model that learnt the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

from medtask.atomic_files import replace_text
from medtask.display import format_path
from medtask.errors import InputError
from medtask.records import Prompt, Record
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.label_definitions import normalize_name
from medtask.tasks.task import Task

TRAINING_ROWS_FILE = "training_rows.json"
FORMAT = 1

# Rows that weights were fitted on; rows that chose a model or its thresholds; rows that a
# calibration was fitted on.
RowUse = Literal["training", "validation", "calibration"]


@dataclass(frozen=True, slots=True)
class RowFingerprints:
    """The fingerprints of rows that were used in one way.

    Attributes:
        use: What the rows were used for.
        salt: Part of every hash, so that two files cannot be compared with each other.
        questions: Hashes of the questions.
        groups: Hashes of the groups; empty if rows have no group.
    """

    use: RowUse
    salt: str
    questions: frozenset[str]
    groups: frozenset[str]

    def has_question(self, question: bytes) -> bool:
        """Whether a question was used; ``question`` is from `hash_question`."""
        return _hash(self.salt, question) in self.questions

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
        json.dumps([normalize_name(part) for part in parts]).encode(), digest_size=16
    ).digest()


def fingerprint_rows(
    questions: Iterable[tuple[bytes, str | None]], use: RowUse, salt: str
) -> RowFingerprints:
    """The fingerprints of rows.

    Args:
        questions: The hash of each row's question (see `hash_question`), and its group.
        use: What the rows were used for.
        salt: A value that is specific to these rows, such as the hash of their table.
    """
    hashed, groups = set(), set()
    for question, group in questions:
        hashed.add(_hash(salt, question))
        if group is not None:
            groups.add(_hash(salt, _encode_group(group)))
    return RowFingerprints(use, salt, frozenset(hashed), frozenset(groups))


def parse_fingerprints(content: Mapping[str, Any]) -> RowFingerprints:
    """The fingerprints from `RowFingerprints.to_json`.

    Raises LookupError, TypeError or ValueError if not valid.
    """
    if content["use"] not in get_args(RowUse):
        raise ValueError(content["use"])
    questions, groups = (frozenset(map(str, content[name])) for name in ("questions", "groups"))
    return RowFingerprints(content["use"], str(content["salt"]), questions, groups)


def write_training_rows(folder: Path, fingerprints: Sequence[RowFingerprints]) -> None:
    """Write the fingerprints of the rows that a model was made from (mode 0600).

    A model that was made from trained models also gets the fingerprints of those models' folders.
    """
    document = {"format": FORMAT, "rows": [one.to_json() for one in fingerprints]}
    replace_text(folder / TRAINING_ROWS_FILE, json.dumps(document) + "\n")


def read_training_rows(folder: Path) -> tuple[RowFingerprints, ...] | None:
    """The fingerprints of a model folder; None if it has none, as folders of older versions.

    Raises:
        InputError: The file is not valid.
    """
    path = folder / TRAINING_ROWS_FILE
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(document["format"])
        return tuple(map(parse_fingerprints, document["rows"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{format_path(path)} is not a valid list of training rows ({type(error).__name__})",
            fix="copy the model's whole folder again, or train the model again",
        ) from error


def _hash(salt: str, content: bytes) -> str:
    # 16 hex digits: among 100,000 learnt and 100,000 other rows, a false match has a probability
    # below 1e-9.
    key = blake2b(salt.encode(), digest_size=16).digest()
    return blake2b(content, key=key, digest_size=8).hexdigest()


def _encode_group(group: str) -> bytes:
    # The prefix keeps groups apart from questions, whose hashes have 16 bytes.
    return b"group:" + " ".join(group.split()).casefold().encode("utf-8", "surrogatepass")

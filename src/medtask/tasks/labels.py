"""The answers that a task allows: names that a reader can tell apart, and what the model would
write for each.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from medtask.errors import TaskFault
from medtask.tasks.hints import quote
from medtask.tasks.hygiene import is_clean_line
from medtask.tasks.source import Document, KeyPath, NullWord
from medtask.tasks.task import Label

PLACEHOLDERS = (
    "<first label>",
    "<second label>",
)  # what a drafted task holds until someone fills in the labels
LISTED_WARNINGS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One label as it stands in the file."""

    name: str
    definition: str
    path: KeyPath


def read_labels(document: Document, raw: object) -> tuple[list[Entry], list[TaskFault]]:
    """The labels of ``answer: labels``, a mapping to definitions or a list of names; faulty ones
    are left out.
    """
    path = ("answer", "labels")
    if not isinstance(raw, dict | list):
        message = (
            '"labels" is a list of names, or a mapping of names to definitions'
            if raw
            else '"labels" is empty - name the answers'
        )
        return [], [document.fault(message, *path)]
    if not raw:
        return [], [document.fault('"labels" is empty - name the answers', *path)]
    if any(name in PLACEHOLDERS for name in raw):
        return [], [
            document.fault(
                "fill in the labels: the names and definitions that stand here are only "
                "placeholders",
                *path,
            )
        ]
    if isinstance(raw, dict):
        typed = [(key, key, definition) for key, definition in raw.items()]
    else:
        typed = [(index, name, None) for index, name in enumerate(raw)]
    entries: list[Entry] = []
    faults: list[TaskFault] = []
    seen: dict[str, Entry] = {}
    for key, name, definition in typed:
        entry = _read_entry(document, name, definition, (*path, key), faults)
        if entry is None:
            continue
        twin = seen.setdefault(fold_name(entry.name), entry)
        if twin is entry:
            entries.append(entry)
        else:
            message = (
                f"the labels {quote(twin.name)} (line {document.line(*twin.path)}) and "
                f"{quote(entry.name)} cannot be told apart"
            )
            faults.append(document.fault(message, *entry.path))
    return entries, faults


def read_abstention(
    document: Document, raw: object, labels: Sequence[Entry]
) -> tuple[Entry | None, list[TaskFault]]:
    """The answer of ``answer: abstain``: a name, or a mapping of one name to its definition."""
    path = ("answer", "abstain")
    if raw is None or isinstance(raw, NullWord):
        return None, []
    if isinstance(raw, list) or (isinstance(raw, dict) and len(raw) != 1):
        return None, [
            document.fault('"abstain" is one name, or one name with its definition', *path)
        ]
    name, definition = next(iter(raw.items())) if isinstance(raw, dict) else (raw, None)
    faults: list[TaskFault] = []
    entry = _read_entry(document, name, definition, path, faults)
    if entry and any(fold_name(entry.name) == fold_name(label.name) for label in labels):
        return None, [
            document.fault(f"{quote(entry.name)} cannot be both a label and the abstention", *path)
        ]
    return entry, faults


def fold_name(name: str) -> str:
    """Equal for names that a reader cannot tell apart: case, blanks and width do not count."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _read_entry(
    document: Document, name: object, definition: object, path: KeyPath, faults: list[TaskFault]
) -> Entry | None:
    if isinstance(name, dict | list):
        faults.append(
            document.fault(
                'a list of labels holds names only - to define them, leave out the "-" before each',
                *path,
            )
        )
    elif name is None or not str(name).strip():
        faults.append(document.fault("a label has no name", *path))
    elif not is_clean_line(str(name)):
        faults.append(
            document.fault(
                f"the label {quote(name)} holds a line break or an invisible character", *path
            )
        )
    elif isinstance(definition, dict | list):
        faults.append(
            document.fault(
                f'the definition of {quote(name)} must be a text - put " around it', *path
            )
        )
    else:
        words = (
            ""
            if definition is None or isinstance(definition, NullWord)
            else " ".join(str(definition).split())
        )
        return Entry(str(name).strip(), words, path)
    return None


def assign_says(
    labels: Sequence[Entry | Label], abstain: Entry | Label | None, readout: Literal["name", "code"]
) -> tuple[tuple[Label, ...], Label | None]:
    """Labels with what the model would write: their names, or codes A to Z (1, 2, ... where there
    are more).
    """
    entries = [*labels, abstain] if abstain else list(labels)
    names = [entry.name for entry in entries]
    codes = (
        list(ascii_uppercase)
        if len(entries) <= len(ascii_uppercase)
        else [str(number + 1) for number in range(len(entries))]
    )
    says = names if readout == "name" else codes
    made = tuple(
        Label(entry.name, entry.definition, say) for entry, say in zip(entries, says, strict=False)
    )
    return (made[:-1], made[-1]) if abstain else (made, None)


def find_warnings(
    document: Document, file_name: str, labels: Sequence[Entry], exclusive: bool
) -> Iterator[str]:
    """What is allowed but probably not meant: a single label to choose from (``exclusive``), labels
    without a definition.
    """
    if exclusive and len(labels) == 1:
        line = document.line("answer", "labels")
        yield (
            f"{file_name}:{line}: {quote(labels[0].name)} is the only label - its confidence "
            "will always be 1"
        )
    bare = [label for label in labels if not label.definition]
    for label in bare[:LISTED_WARNINGS]:
        yield (
            f"{file_name}:{document.line(*label.path)}: {quote(label.name)} has no definition "
            "- the model sees the bare word"
        )
    if rest := bare[LISTED_WARNINGS:]:
        line = document.line(*rest[0].path)
        yield f"{file_name}:{line}: {len(rest):,} more labels have no definition"

"""The answers that a task allows: names that a reader can tell apart, and what the model would
write for each.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from medtask.display import quote
from medtask.errors import TaskFault
from medtask.tasks.document import Document, KeyPath, NullScalar
from medtask.tasks.task import Label
from medtask.tasks.text_cleaning import is_clean_line

PLACEHOLDER_LABELS = (
    "<first label>",
    "<second label>",
)  # what a drafted task holds until someone fills in the labels
MAX_LISTED_WARNINGS = 5


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One label as it stands in the file."""

    name: str
    definition: str
    path: KeyPath


def read_labels(document: Document, raw: object) -> tuple[list[LabelEntry], list[TaskFault]]:
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
        return [], [document.make_fault(message, *path)]
    if not raw:
        return [], [document.make_fault('"labels" is empty - name the answers', *path)]
    if any(name in PLACEHOLDER_LABELS for name in raw):
        return [], [
            document.make_fault(
                "fill in the labels: the names and definitions that stand here are only "
                "placeholders",
                *path,
            )
        ]
    if isinstance(raw, dict):
        typed = [(key, key, definition) for key, definition in raw.items()]
    else:
        typed = [(index, name, None) for index, name in enumerate(raw)]
    entries: list[LabelEntry] = []
    faults: list[TaskFault] = []
    seen: dict[str, LabelEntry] = {}
    for key, name, definition in typed:
        entry = _read_label_entry(document, name, definition, (*path, key), faults)
        if entry is None:
            continue
        duplicate = seen.setdefault(normalize_name(entry.name), entry)
        if duplicate is entry:
            entries.append(entry)
        else:
            message = (
                f"the labels {quote(duplicate.name)} (line "
                f"{document.find_line(*duplicate.path)}) and "
                f"{quote(entry.name)} cannot be told apart"
            )
            faults.append(document.make_fault(message, *entry.path))
    return entries, faults


def read_abstain_label(
    document: Document, raw: object, labels: Sequence[LabelEntry]
) -> tuple[LabelEntry | None, list[TaskFault]]:
    """The answer of ``answer: abstain``: a name, or a mapping of one name to its definition."""
    path = ("answer", "abstain")
    if raw is None or isinstance(raw, NullScalar):
        return None, []
    if isinstance(raw, list) or (isinstance(raw, dict) and len(raw) != 1):
        return None, [
            document.make_fault('"abstain" is one name, or one name with its definition', *path)
        ]
    name, definition = next(iter(raw.items())) if isinstance(raw, dict) else (raw, None)
    faults: list[TaskFault] = []
    entry = _read_label_entry(document, name, definition, path, faults)
    if entry and any(normalize_name(entry.name) == normalize_name(label.name) for label in labels):
        return None, [
            document.make_fault(
                f"{quote(entry.name)} cannot be both a label and the abstention", *path
            )
        ]
    return entry, faults


def normalize_name(name: str) -> str:
    """Equal for names that a reader cannot tell apart: case, blanks and width do not count."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _read_label_entry(
    document: Document, name: object, definition: object, path: KeyPath, faults: list[TaskFault]
) -> LabelEntry | None:
    if isinstance(name, dict | list):
        faults.append(
            document.make_fault(
                'a list of labels holds names only - to define them, leave out the "-" before each',
                *path,
            )
        )
    elif name is None or not str(name).strip():
        faults.append(document.make_fault("a label has no name", *path))
    elif not is_clean_line(str(name)):
        faults.append(
            document.make_fault(
                f"the label {quote(name)} holds a line break or an invisible character", *path
            )
        )
    elif isinstance(definition, dict | list):
        faults.append(
            document.make_fault(
                f'the definition of {quote(name)} must be a text - put " around it', *path
            )
        )
    else:
        words = (
            ""
            if definition is None or isinstance(definition, NullScalar)
            else " ".join(str(definition).split())
        )
        return LabelEntry(str(name).strip(), words, path)
    return None


def assign_verbalizers(
    labels: Sequence[LabelEntry | Label],
    abstain: LabelEntry | Label | None,
    readout: Literal["name", "code"],
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
    verbalizers = names if readout == "name" else codes
    made = tuple(
        Label(entry.name, entry.definition, verbalizer)
        for entry, verbalizer in zip(entries, verbalizers, strict=False)
    )
    return (made[:-1], made[-1]) if abstain else (made, None)


def find_label_warnings(
    document: Document, file_name: str, labels: Sequence[LabelEntry], exclusive: bool
) -> Iterator[str]:
    """What is allowed but probably not meant: a single label to choose from (``exclusive``), labels
    without a definition.
    """
    if exclusive and len(labels) == 1:
        line = document.find_line("answer", "labels")
        yield (
            f"{file_name}:{line}: {quote(labels[0].name)} is the only label - its confidence "
            "will always be 1"
        )
    bare = [label for label in labels if not label.definition]
    for label in bare[:MAX_LISTED_WARNINGS]:
        yield (
            f"{file_name}:{document.find_line(*label.path)}: {quote(label.name)} has no "
            "definition "
            "- the model sees the bare word"
        )
    if rest := bare[MAX_LISTED_WARNINGS:]:
        line = document.find_line(*rest[0].path)
        yield f"{file_name}:{line}: {len(rest):,} more labels have no definition"

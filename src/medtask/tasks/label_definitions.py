"""The labels of a task: distinguishable names, definitions, and verbalizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from medtask.display import quote, quote_names
from medtask.names import fold_case, normalize_spelling
from medtask.tasks.document import KeyPath
from medtask.tasks.reader import TaskReader, is_null
from medtask.tasks.task import Label
from medtask.tasks.text_cleaning import find_unclean_character

PLACEHOLDER_LABELS = ("<first label>", "<second label>")  # in drafts of task files
MAX_LISTED_WARNINGS = 5


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One label as in the task file."""

    name: str
    definition: str
    path: KeyPath


def read_labels(reader: TaskReader, raw: object) -> list[LabelEntry]:
    """The labels under ``labels``: a mapping to definitions, or a list of names.

    Invalid ones are left out, with a fault for each.
    """
    path = ("answer", "labels")
    if raw and not isinstance(raw, dict | list):
        message = '"labels" is a list of names, or a mapping of names to definitions'
        reader.add_fault(message, *path)
        return []
    if not isinstance(raw, dict | list) or not raw:
        reader.add_fault('"labels" is empty - name the answers', *path)
        return []
    if any(name in PLACEHOLDER_LABELS for name in raw):
        message = "fill in the labels: these names and definitions are placeholders"
        reader.add_fault(message, *path)
        return []
    if isinstance(raw, dict):
        typed = [(key, key, definition) for key, definition in raw.items()]
    else:
        typed = [(index, name, None) for index, name in enumerate(raw)]
    entries: list[LabelEntry] = []
    seen: dict[str, LabelEntry] = {}
    for key, name, definition in typed:
        entry = _read_label_entry(reader, name, definition, (*path, key))
        if entry is None:
            continue
        duplicate = seen.setdefault(normalize_spelling(entry.name), entry)
        if duplicate is entry:
            entries.append(entry)
        else:
            message = (
                f"the labels {quote(duplicate.name)} (line "
                f"{reader.document.find_line(*duplicate.path)}) and {quote(entry.name)} "
                "cannot be told apart"
            )
            reader.add_fault(message, *entry.path)
    return entries


def read_abstain_label(
    reader: TaskReader, raw: object, labels: Sequence[LabelEntry]
) -> LabelEntry | None:
    """Read ``abstain``: a name, or a mapping of one name to its definition."""
    path = ("answer", "abstain")
    if is_null(raw):
        return None
    if isinstance(raw, list) or (isinstance(raw, dict) and len(raw) != 1):
        reader.add_fault('"abstain" is one name, or one name with its definition', *path)
        return None
    name, definition = next(iter(raw.items())) if isinstance(raw, dict) else (raw, None)
    entry = _read_label_entry(reader, name, definition, path)
    if entry and any(fold_case(entry.name) == fold_case(label.name) for label in labels):
        message = f"{quote(entry.name)} cannot be both a label and the abstention"
        reader.add_fault(message, *path)
        return None
    return entry


def _read_label_entry(
    reader: TaskReader, name: object, definition: object, path: KeyPath
) -> LabelEntry | None:
    fault = _find_label_fault(name, definition)
    if fault:
        reader.add_fault(fault, *path)
        return None
    text = "" if is_null(definition) else " ".join(str(definition).split())
    return LabelEntry(str(name).strip(), text, path)


def _find_label_fault(name: object, definition: object) -> str | None:
    if isinstance(name, dict | list):
        return (
            'a list of labels holds names only - put quotes around a name with ": " or "? ", or '
            'leave out the "-" before each to define them'
        )
    if name is None or not str(name).strip():
        return "a label has no name"
    if unclean := find_unclean_character(str(name)):
        return f"the label {quote(name)} has a line break or an invisible character: {unclean}"
    if isinstance(definition, dict | list):
        return f'the definition of {quote(name)} must be a text - put " around it'
    return None


def assign_verbalizers(
    labels: Sequence[LabelEntry | Label],
    abstain: LabelEntry | Label | None,
    readout: Literal["name", "code"],
) -> tuple[tuple[Label, ...], Label | None]:
    """Labels with their verbalizers: names, or codes A to Z (for more than 26: 1, 2, ...)."""
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
    reader: TaskReader, labels: Sequence[LabelEntry], *, exclusive: bool
) -> Iterator[str]:
    """Warnings for a single label (if ``exclusive``), and for labels without a definition."""
    if exclusive and len(labels) == 1:
        name = quote(labels[0].name)
        message = f"{name} is the only label - its confidence will always be 1"
        yield reader.format_warning(message, "answer", "labels")
    yield from _find_case_variants(reader, labels)
    bare = [label for label in labels if not label.definition]
    for label in bare[:MAX_LISTED_WARNINGS]:
        message = f"{quote(label.name)} has no definition - the model sees the bare word"
        yield reader.format_warning(message, *label.path)
    if rest := bare[MAX_LISTED_WARNINGS:]:
        message = f"{len(rest):,} more labels have no definition"
        yield reader.format_warning(message, *rest[0].path)


def _find_case_variants(reader: TaskReader, labels: Sequence[LabelEntry]) -> Iterator[str]:
    variants: dict[str, list[LabelEntry]] = {}
    for label in labels:
        variants.setdefault(fold_case(label.name), []).append(label)
    for same in variants.values():
        if len(same) > 1:
            names = quote_names(label.name for label in same)
            message = (
                f"the labels {names} differ in capital letters or blanks only - they are different "
                "labels, and gold must be written exactly like them"
            )
            yield reader.format_warning(message, *same[-1].path)

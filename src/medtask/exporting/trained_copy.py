"""Copies of trained folders that need nothing from the folders that they were made from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from medtask.display import format_path
from medtask.engines.hybrid import MEMBERS_FOLDER, find_member, read_members, save_hybrid
from medtask.engines.model_metadata import METADATA_FILE, read_model_metadata
from medtask.errors import UsageError


def copy_trained(source: Path, folder: Path) -> None:
    """Copy the files that a trained model needs, and the members of a hybrid.

    Fingerprints of rows, logs, the card and calibrations are not copied.

    Raises:
        UsageError: A member is neither a trained folder nor named independently of this machine.
    """
    metadata = read_model_metadata(source)
    if metadata.engine != "hybrid":
        for name in (*metadata.sha256, METADATA_FILE):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
        return
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for number, member in enumerate(read_members(source, metadata), 1):
        reference = find_member(member.reference, source)
        if (Path(reference) / METADATA_FILE).is_file():
            name = f"{MEMBERS_FOLDER}/{number}-{Path(reference).name}"
            copy_trained(Path(reference), folder / name)
            reference = name
        elif "/" in reference and Path(reference.rpartition(":")[2]).expanduser().exists():
            raise UsageError(
                f"{format_path(source)} is a hybrid with {format_path(reference)}, a model that "
                "medtask did not train and that is only on this machine",
                fix="train a hybrid of trained models and models of the Hub",
            )
        members.append(replace(member, reference=reference))
    # Without the paths of this machine.
    base = ", ".join(member.reference for member in members)
    save_hybrid(folder, members, replace(metadata, base=base))

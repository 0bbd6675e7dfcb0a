"""The contract of a model folder that training writes: a label list, what it was trained for, and a
hash of every file.

    medtask.json   {"format": 1, "engine": "linear", "kind": "label", "labels": [...], ...,
    "sha256": {file: hash}} linear.json, linear.npz                        of a linear model, or
    config.json, model.safetensors, tokenizer.json, ...       of an encoder or a whole language
    model, or adapter_config.json, adapter_model.safetensors            of a language model's
    adapter, or hybrid.json                                               of several models together

``medtask.json`` is written last and holds the hashes of all files that are read with the model: a
folder that was only half written, or changed since, is refused. What people read (README.md,
loss.csv, pictures) may be edited.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from medtask.data.atomic import replace_file
from medtask.data.source import list_names, show_name, show_path
from medtask.errors import InputError

FORMAT = 1
CONTRACT = "medtask.json"
TRAINING = "training.json"  # what a training notes from its first step on
CALIBRATION = (
    "calibration.json"  # made after the model and looked at by itself: it may come, change and go
)

EngineName = Literal["linear", "encoder", "hf", "hybrid"]
Kind = Literal["label", "labels", "choice", "answer", "fields"]
Phi = Literal["yes", "no", "unknown"]

_AGAIN = "train the model again, or take a whole copy of its folder"
# What a loader may read without being told its name: it must not come into the folder afterwards.
_FOR_PEOPLE = frozenset({".md", ".csv", ".svg"})
_READ_UNASKED = frozenset({".json", ".jinja", ".model", ".npz", ".safetensors", ".txt"})


@dataclass(frozen=True, slots=True)
class Trained:
    """What a trained model is.

    ``labels``: in the order of the model's outputs; none of a language model, which reads its
    labels in the prompt. ``kind``: of the task; a head knows one label that is right ("label"), or
    any ("labels"). ``abstain``: the task's answer for "cannot tell", where the model was not
    trained to give it. ``untaught``: the task's labels that had no example, to which the model
    gives no probability. ``base``: what the training began with. ``task_fingerprint``: of the task
    that it was trained for. ``phi``: whether it was trained on texts of patients. ``sha256``: by
    file, with ``/`` between folders; write_trained fills it in.
    """

    engine: EngineName
    kind: Kind
    labels: tuple[str, ...]
    abstain: str | None = None
    untaught: tuple[str, ...] = ()
    base: str = ""
    task_fingerprint: str = ""
    phi: Phi = "unknown"
    sha256: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def find_engine(folder: Path) -> EngineName | None:
    """Which engine a folder's model was trained for; None where the folder holds no contract.

    InputError where it holds one that cannot be read, or none yet because a training in it has not
    ended.
    """
    if (folder / CONTRACT).is_file():
        return _parse(folder).engine
    if (folder / TRAINING).is_file():
        fix = "run the same `medtask train` command again: it goes on where it stopped"
        raise InputError(
            f"{show_path(folder)} holds no finished model: its training has not ended", fix=fix
        )
    return None


def read_trained(folder: Path) -> Trained:
    """The contract of a folder, all of whose files are there and as they were written.

    InputError where there is none, where it has an unknown format or says what cannot be, and where
    a file is missing, was changed or has come in since.
    """
    trained = _parse(folder)
    for name, expected in trained.sha256.items():
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"{show_path(folder)} is not whole: {show_name(name)} is missing", fix=_AGAIN
            )
        if _hash_file(path) != expected:
            raise InputError(f"{show_path(path)} is not the file that training wrote", fix=_AGAIN)
    if unknown := sorted(
        name
        for name in _list_files(folder)
        if _is_read_unasked(name) and name not in trained.sha256
    ):
        raise InputError(
            f"{show_path(folder)} holds files that training did not write: {list_names(unknown)}",
            fix=f"take them away, or {_AGAIN}",
        )
    return trained


def write_trained(folder: Path, trained: Trained) -> Trained:
    """Hash all files of a folder and write its contract, last of all; returns it with the hashes.

    InputError for labels that cannot be told apart; StorageError where the folder cannot be
    written.
    """
    hashed = replace(
        trained, sha256={name: _hash_file(folder / name) for name in _list_files(folder)}
    )
    content = {
        "format": FORMAT,
        **{key: value for key, value in asdict(hashed).items() if value is not None},
    }
    _check(folder / CONTRACT, json.loads(json.dumps(content)))
    with replace_file(folder / CONTRACT) as draft:
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return hashed


def hash_contract(folder: Path) -> str:
    """One SHA-256 that stands for the whole model, since the contract holds the hashes of all other
    files.
    """
    return _hash_file(folder / CONTRACT)


def _parse(folder: Path) -> Trained:
    path = folder / CONTRACT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{show_path(folder)} holds no trained model: {CONTRACT} is missing", fix=_AGAIN
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{show_path(path)} cannot be read ({type(error).__name__})", fix=_AGAIN
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{show_path(path)} holds no JSON object", fix=_AGAIN)
    _check(path, content)
    del content["format"]
    lists = {key: tuple(content.get(key, ())) for key in ("labels", "untaught")}
    return Trained(**{**content, **lists, "sha256": MappingProxyType(content["sha256"])})


def _check(path: Path, content: Mapping[str, Any]) -> None:
    if content.get("format") != FORMAT:
        said = content.get("format")
        raise InputError(
            f"{show_path(path)} has the format {show_name(repr(said))}; this version of medtask "
            f"reads format {FORMAT}",
            fix="take the version that wrote it",
        )
    allowed = {"engine": EngineName, "kind": Kind, "phi": Phi}
    wrong = [
        key for key in content if key not in {"format", *(part.name for part in fields(Trained))}
    ]
    wrong += [key for key, choice in allowed.items() if content.get(key) not in get_args(choice)]
    wrong += [key for key in ("base", "task_fingerprint") if not isinstance(content.get(key), str)]
    wrong += ["abstain"] if not isinstance(content.get("abstain", ""), str) else []
    hashes, labels = content.get("sha256"), content.get("labels")
    if not isinstance(hashes, dict) or not all(
        isinstance(value, str) and _is_inside(name) for name, value in hashes.items()
    ):
        wrong.append("sha256")
    untaught = content.get("untaught", [])
    wrong += [
        key for key, names in (("labels", labels), ("untaught", untaught)) if not _are_names(names)
    ]
    if content.get("engine") in (
        "linear",
        "encoder",
    ):  # these have a head, which knows its labels and nothing else
        wrong += ["labels"] if not labels else []
        wrong += ["kind"] if content.get("kind") not in ("label", "labels") else []
    if not wrong and (
        twice := [
            label
            for label, count in Counter([*cast("list[str]", labels), *untaught]).items()
            if count > 1
        ]
    ):
        raise InputError(
            f"{show_path(path)} names the label {list_names(twice[:1])} twice",
            fix="give every label a name of its own",
        )
    if wrong:
        raise InputError(
            f"{show_path(path)} says nothing usable under {list_names(sorted(set(wrong)))}",
            fix=_AGAIN,
        )


def _are_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(name)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
        and "\0" not in name
    )


def _list_files(folder: Path) -> list[str]:
    """Every file but the contract, hidden ones and those for people, by its path from the
    folder.
    """
    found = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in _FOR_PEOPLE
    ]
    names = [
        path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)
    ]
    return sorted(name for name in names if name not in {CONTRACT, CALIBRATION, TRAINING})


def _is_read_unasked(name: str) -> bool:
    return "/" not in name and PurePosixPath(name).suffix in _READ_UNASKED


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

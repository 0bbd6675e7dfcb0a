"""Export as a folder in transformers' format, with the adapter merged into the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from medtask.engines.base import Engine
from medtask.engines.files.weights import is_tokenizer_file, list_model_files
from medtask.engines.model_metadata import TRAINING_FILE, write_model_metadata
from medtask.engines.registry import load_model
from medtask.exporting.source import CausalModel, ExportSource
from medtask.exporting.targets import ExportRequest
from medtask.exporting.weight_files import write_weights
from medtask.tasks.row_fingerprints import TRAINING_ROWS_FILE

INDEX_FILE = "model.safetensors.index.json"
LICENCE_PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def write(request: ExportRequest, draft: Path) -> tuple[str, ...]:
    """See `ExportWriter.write`."""
    with CausalModel(request.source) as model:
        write_merged(model, draft)
    if request.source.metadata is not None:
        write_model_metadata(draft, request.source.metadata)
        copy_training_files(request.source, draft)
    return ()


def check(request: ExportRequest, draft: Path) -> list[str]:
    """See `ExportWriter.check`: the comparison of answers reads all that this target writes."""
    return []


def open_exported(draft: Path) -> Engine:
    """See `ExportWriter.open_exported`."""
    return load_model(str(draft), dtype="float32")


def finish(request: ExportRequest, path: Path) -> tuple[str, ...]:
    """See `ExportWriter.finish`: there is nothing to do."""
    return ()


def write_merged(model: CausalModel, folder: Path) -> None:
    """Write config, tokenizer and merged weights, file by file as the base has them.

    Memory is needed for the largest file of the base and a few copies of the largest weight, not
    for the model.

    Raises:
        StorageError: The folder cannot be written.
    """
    copy_model_files(model, folder)
    total, weight_map = 0, dict[str, str]()
    for file, names in model.weight_files.items():
        total += write_weights(
            folder / file,
            {name: model.get_shape(name) for name in names},
            {name: model.get_dtype(name) for name in names},
            ((name, model.read_weight(name)) for name in names),
        )
        weight_map |= dict.fromkeys(names, file)
    if len(model.weight_files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def copy_training_files(source: ExportSource, folder: Path) -> None:
    """Copy what a trained folder knows about its training: rows that metrics leave out, tasks."""
    assert source.folder is not None
    for name in (TRAINING_ROWS_FILE, TRAINING_FILE):
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)


def copy_model_files(model: CausalModel, folder: Path) -> None:
    """Write the config, and copy the tokenizer's files and licences."""
    has_own_tokenizer = model.tokenizer_folder != model.folder
    found = [
        (model.folder, path)
        for path in list_model_files(model.folder)
        if not (has_own_tokenizer and is_tokenizer_file(path))
    ]
    if has_own_tokenizer:
        files = list_model_files(model.tokenizer_folder)
        found += [(model.tokenizer_folder, path) for path in files if is_tokenizer_file(path)]
    licences = (path for pattern in LICENCE_PATTERNS for path in model.folder.glob(pattern))
    found += [(model.folder, path) for path in licences]
    for parent, path in found:
        target = folder / path.relative_to(parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)  # through links, as in the Hub's cache
    config = json.dumps(model.config, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")

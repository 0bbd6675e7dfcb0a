"""`medtask.export`: writes a model for another system, and compares it with its source before."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from medtask.atomic_files import replace_text
from medtask.display import format_path
from medtask.engines.files.weights import hash_model_files, hash_weights
from medtask.engines.load_options import Dtype
from medtask.engines.registry import choose_engine, is_installed, load_model
from medtask.engines.specs import find_engine
from medtask.errors import EngineError, UsageError
from medtask.exporting.carried_calibration import find_calibrations, write_carried
from medtask.exporting.drafts import ignore_step, open_draft
from medtask.exporting.export_card import write_export_card
from medtask.exporting.export_manifest import (
    ExportManifest,
    hash_files,
    locate_card,
    locate_manifest,
    read_manifest,
    verify_files,
    write_manifest,
)
from medtask.exporting.parity import (
    ChoosePrompts,
    ModelOutputs,
    Parity,
    ParityBounds,
    collect_outputs,
    compare_on_prompts,
)
from medtask.exporting.parity_prompts import PARITY_PROMPTS, make_default_prompts, sample_prompts
from medtask.exporting.source import ExportSource, open_source
from medtask.exporting.targets import TARGETS, ExportRequest, ExportTarget, find_target
from medtask.records import Prompt
from medtask.runs.calibration_store import locate_model_calibration
from medtask.runs.manifest import get_timestamp, list_versions
from medtask.tables.read import read_table
from medtask.tasks.fingerprint import match_prompt_versions
from medtask.tasks.task import Task
from medtask.training.model_folder import TRAINING_PACKAGES, find_hub_id
from medtask.training.trained_model import TrainedModel, read_trained_model


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A model that was exported.

    Attributes:
        path: The folder or file.
        manifest: What was exported, how it compares with its source, and its hashes.
        parity: The comparison with the source; None if it was not made.
        notes: Notes for the user.
    """

    path: Path
    manifest: ExportManifest
    parity: Parity | None
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> Path:
        """The card."""
        return locate_card(self.path)

    def to_json(self) -> dict[str, Any]:
        """The manifest with the path and the notes."""
        return {"path": str(self.path), "notes": list(self.notes), **self.manifest.model_dump()}


def export(
    model: str | Path | TrainedModel,
    *,
    to: str,
    out: str | Path,
    quant: str | None = None,
    task: Task | None = None,
    table: object | None = None,
    check: bool = True,
    force: bool = False,
    rows: int = PARITY_PROMPTS,
    register: str = "",
    public: bool = False,
    acknowledge_phi: bool = False,
    on_step: Callable[[str], None] = ignore_step,
) -> ExportedModel:
    """Export a model, and publish it only if it answers as its source does.

    Args:
        model: A model reference, or the result of `medtask.train`.
        to: The target: "merged", "gguf", "ollama", "mlx", "mlflow", "onnx" or "hub".
        out: The folder or file to write, which must not exist.
        quant: A quantisation of the target; by default the one that the target recommends.
        task: The task whose prompts are asked; by default the one that the model was trained for.
        table: Its rows; by default invented sentences.
        check: Compare the exported model with its source.
        force: Publish the model although the comparison failed; the card then says so.
        rows: The number of prompts to compare. Four times as many are compared if only answers
            that were nearly undecided differ, and these could then be within the bounds.
        register: The name under which MLflow registers the model, or the repository on the Hub.
        public: Make a new repository on the Hub public.
        acknowledge_phi: Send a model to the Hub although it learnt from texts of patients.
        on_step: Called with a description of each step.

    Returns:
        The exported model.

    Raises:
        UsageError: The target, its quantisation or the path is not valid for this model.
        EngineError: The models do not answer alike; nothing is published.
        InputError: A file of the model is damaged.
        StorageError: The disk is full, or the folder is not writable.
    """
    reference = str(model.path if isinstance(model, TrainedModel) else model)
    target, path = find_target(to), Path(out).expanduser()
    source = open_source(reference)
    request = ExportRequest(
        source,
        target.choose_quantization(quant),
        path.stem,
        task,
        register,
        public=public,
        acknowledge_phi=acknowledge_phi,
    )
    _check_request(request, target, path)
    choose = lru_cache(partial(_choose_prompts, source, task, table))
    if check:
        choose(rows, frozenset())  # a table without prompts is refused before anything is written
    with open_draft(path, is_folder=not target.suffix) as draft:
        on_step(f"Writing {target.description}")
        writer = target.import_writer()
        notes = writer.write(request, draft)
        parity = _check_draft(request, target, draft, choose, rows, on_step) if check else None
        if parity and not parity.passed and not force:
            raise _make_parity_error(parity, target.list_finer(request.quantization))
        on_step("Writing the card and the hashes")
        manifest = _build_manifest(
            request, target, parity, forced=bool(parity and not parity.passed)
        ).model_copy(update={"calibrations": _carry_calibrations(request, target, draft)})
        manifest = manifest.model_copy(update={"files": hash_files(draft)})
        _publish(draft, path, manifest, target)
    notes += writer.finish(request, path)
    return ExportedModel(path, manifest, parity, notes)


def compare_models(
    first: str,
    second: str,
    *,
    task: Task | None = None,
    table: object | None = None,
    bounds: ParityBounds,
    rows: int = PARITY_PROMPTS,
) -> Parity:
    """Compare two models as the parity gate does; ``first`` is the reference."""
    return compare_on_prompts(
        partial(_load_and_ask, first),
        partial(_load_and_ask, second),
        partial(_choose_prompts, open_source(first), task, table),
        rows,
        bounds,
    )


def verify_export(path: Path) -> list[str]:
    """Each difference between an export and its manifest, as a sentence. Raises InputError."""
    return verify_files(path, read_manifest(path))


def _carry_calibrations(request: ExportRequest, target: ExportTarget, draft: Path) -> int:
    """Give the draft the calibrations of its source; returns their number."""
    if not target.keeps_calibrations:
        return 0
    model = draft / target.model_path if target.model_path else draft
    calibrations = find_calibrations(request, model)
    write_carried(calibrations, model)
    return len(calibrations)


def _check_request(request: ExportRequest, target: ExportTarget, path: Path) -> None:
    if request.source.engine not in target.engines:
        raise UsageError(
            f"{request.source.reference} cannot be exported --to {target.name}: it is a model of "
            f"the {request.source.engine} engine",
            fix="export it "
            + " or ".join(
                f"--to {other.name}"
                for other in TARGETS.values()
                if request.source.engine in other.engines
            ),
        )
    if path.suffix != target.suffix and target.suffix:
        raise UsageError(
            f"--to {target.name} writes a file, and {format_path(path)} does not end in "
            f"{target.suffix}",
            fix=f"name it {path.name}{target.suffix}",
        )
    if os.path.lexists(path):
        raise UsageError(
            f"{format_path(path)} exists already", fix="name another path, or remove it"
        )


def _choose_prompts(
    source: ExportSource,
    task: Task | None,
    table: object | None,
    rows: int,
    excluded: frozenset[str],
) -> list[Prompt]:
    if (task is None) != (table is None):
        raise UsageError("a task needs a table, and a table a task", fix="name both, or neither")
    if task is None:
        found = make_default_prompts(source, rows + len(excluded))
        return [prompt for prompt in found if prompt.record_id not in excluded]
    version = source.metadata.prompt_version if source.metadata else None
    matched = match_prompt_versions(task, version, {})
    return sample_prompts(matched, read_table(table), rows, excluded)


def _check_draft(
    request: ExportRequest,
    target: ExportTarget,
    draft: Path,
    choose_prompts: ChoosePrompts,
    rows: int,
    on_step: Callable[[str], None],
) -> Parity:
    writer = target.import_writer()

    def ask_source(prompts: Sequence[Prompt]) -> ModelOutputs:
        on_step(f"Asking {request.source.reference} {len(prompts):,} prompts")
        return _load_and_ask(request.source.reference, prompts)

    def ask_exported(prompts: Sequence[Prompt]) -> ModelOutputs:
        on_step("Asking the exported model the same prompts")
        with closing(writer.open_exported(draft)) as engine:
            return collect_outputs(engine, prompts)

    problems = writer.check(request, draft)
    bounds = target.bounds[request.quantization]
    parity = compare_on_prompts(ask_source, ask_exported, choose_prompts, rows, bounds)
    return replace(parity, problems=(*problems, *parity.problems))


def _make_parity_error(parity: Parity, finer: Sequence[str]) -> EngineError:
    more = (
        "compare on more rows of your own, of which fewer may be undecided (--task TASK DATA "
        "--rows 500), or "
    )
    return EngineError(
        "the exported model is not the same as its source, and was not published:"
        + "".join(f"\n  {problem}" for problem in parity.problems),
        fix=(f"choose --quant {' or '.join(finer)}, or " if finer else "")
        + (more if parity.differs_only_undecided else "")
        + "publish it with --force",
    )


def _load_and_ask(reference: str, prompts: Sequence[Prompt]) -> ModelOutputs:
    """The outputs of a model, in float32 where the engine computes in number formats."""
    spec = choose_engine(reference).spec
    # The members of a hybrid need not compute in number formats.
    has_formats = "dtype" in spec.option_fields and spec.traits.family != "hybrid"
    # A GGUF file is compared as it is stored, where llama.cpp can read it.
    is_stored = Path(reference).suffix == ".gguf" and is_installed("llamacpp")
    dtype: Dtype = "auto" if not has_formats else "file" if is_stored else "float32"
    with closing(load_model(reference, dtype=dtype)) as engine:
        return collect_outputs(engine, prompts)


def _build_manifest(
    request: ExportRequest, target: ExportTarget, parity: Parity | None, *, forced: bool
) -> ExportManifest:
    source = request.source
    trained = read_trained_model(source.folder) if source.training and source.folder else None
    identity = source.training.get("identity", {})
    hashes = (
        {"weights": hash_weights(source.folder), **hash_model_files(source.folder)}
        if source.folder
        else {}
    )
    return ExportManifest(
        target=target.name,
        quantization=request.quantization,
        source={
            "model": source.name,
            "base": source.base,
            "license": source.license,
            "family": find_engine(source.engine).traits.family,
            **({"hub": hub_id} if (hub_id := find_hub_id(source.base)) else {}),
            **hashes,
        },
        phi=source.phi,
        tasks=trained.to_json()["tasks"] if trained else [],
        demonstration=source.is_demonstration,
        questions=[] if target.is_sent else list(source.training.get("tasks", ())),
        data={name: value for name, value in identity.items() if name.endswith(".data")},
        parity=parity.to_json() if parity else None,
        forced=forced,
        command=_format_command(target),
        created=get_timestamp(),
        versions=list_versions(TRAINING_PACKAGES),
    )


def _publish(draft: Path, path: Path, manifest: ExportManifest, target: ExportTarget) -> None:
    """Complete the draft with its card and its manifest, and move it to its place."""
    card = write_export_card(manifest, path.stem, target.description)
    replace_text(locate_card(draft), card)
    write_manifest(manifest, locate_manifest(draft))
    if draft.is_file():
        draft.chmod(0o600)  # a model can repeat texts that it was trained on
        for locate in (locate_card, locate_manifest, locate_model_calibration):
            if locate(draft).exists():
                locate(draft).replace(locate(path))
            else:  # of an earlier export to this path, which was removed
                locate(path).unlink(missing_ok=True)
    draft.replace(path)


def _format_command(target: ExportTarget) -> str:
    """The command of this process; without the folders of this machine if the card is sent away."""
    if "medtask" not in sys.argv[0]:
        return ""
    words = [Path(word).name if target.is_sent else word for word in sys.argv[1:]]
    if target.is_sent and "--register" in words:  # ORGANISATION/NAME is not a path
        place = words.index("--register") + 1
        words[place : place + 1] = sys.argv[1:][place : place + 1]
    return shlex.join(["medtask", *words])

"""JSON files that medtask reads back, damaged in many ways: each is read, or refused by its name.

The error has a remedy; no other exception is raised.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import medtask
from medtask.engines.hybrid import HybridMember, save_hybrid
from medtask.engines.load_options import LoadOptions
from medtask.engines.model_metadata import ModelMetadata, read_model_metadata, read_prompt_version
from medtask.errors import MedtaskError
from medtask.evaluation.report.report_numbers import read_report_numbers
from medtask.exporting.export_manifest import ExportManifest, write_manifest
from medtask.exporting.export_manifest import read_manifest as read_export_manifest
from medtask.runs.calibration_store import calibrate_answer, read_calibrations
from medtask.runs.manifest import read_manifest
from medtask.scaling.local_shards import answer_shards
from medtask.scaling.merging import merge
from medtask.scaling.plan import PlannedOptions, RunPlan, read_plan
from medtask.scaling.planning import PlanRequest, open_plan
from medtask.scaling.run_status import status
from medtask.scaling.slurm_jobs import add_job, read_jobs
from medtask.server.pages.runs import read_confusion
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from medtask.tasks.row_fingerprints import RowKey, fingerprint_rows, write_fingerprints
from medtask.tasks.row_fingerprints import read_training_rows as read_rows
from medtask.training.checkpoints import read_best_checkpoint
from medtask.training.training_manifest import read_training_manifest
from support.damaged_json import damage_text

FILES = Path(__file__).parent / "compatibility" / "files"
LABEL_TASK, LINEAR = FILES / "tasks" / "label", FILES / "models" / "linear"

Use = Callable[[Path], object]
Case = tuple[Path, Use]


def copy_run(folder: Path) -> Path:
    """A run folder of an earlier version, beside its task and its table."""
    shutil.copy(FILES / "table.csv", folder)
    return shutil.copytree(LABEL_TASK, folder / "tasks" / "label") / "runs" / "full"


def apply_calibrations(path: Path) -> None:
    task = load_task(path.parent)
    answer = medtask.Answer(
        "r1", "ok", task.candidates[0].name, 0.6, {one.name: 0.25 for one in task.candidates}
    )
    for saved in read_calibrations(path):
        calibrate_answer(task, answer, saved.calibration)


def write_calibrations_without_checksum(folder: Path) -> Case:
    return copy_run(folder).parents[1] / "calibration.json", apply_calibrations


def write_report(folder: Path) -> Case:
    gold = {"classes": ["a", "b", None], "confusion": [[0, 0, 5], [1, 2, 3]], "rows": 8}
    content = {"rows": 8, "gold": gold, "off_set": {"bins": [1, 2, 5], "mean": 0.25}}
    (folder / "report.json").write_text(json.dumps(content))
    return (
        folder / "report.json",
        lambda path: (read_report_numbers(path.parent), read_confusion(path.parent)),
    )


def write_export(folder: Path) -> Case:
    manifest = ExportManifest(
        target="gguf",
        source={"reference": "models/linear", "licence": "mit"},
        questions=[{"name": "label", "prompt_version": 2}],
        tasks=[{"task": "label", "figures": {"accuracy": {"value": 0.5}}}],
        parity={"agreement": 1.0, "questions": 64},
        files={"model.gguf": "0" * 64},
    )
    write_manifest(manifest, folder / "export.json")
    return (
        folder / "export.json",
        lambda path: (read_prompt_version(path.parent), read_export_manifest(path.parent)),
    )


def write_training_rows(folder: Path) -> Case:
    keys = [RowKey((b"one", b"two"), "group"), RowKey((b"three",), None)]
    write_fingerprints(folder / "training_rows.json", [fingerprint_rows(keys, "training", "salt")])
    return folder / "training_rows.json", lambda path: read_rows(path.parent)


def write_best_checkpoint(folder: Path) -> Case:
    (folder / "best").mkdir()
    (folder / "best" / "best.json").write_text('{"step": 7, "loss": 0.5, "score": null}')
    return folder / "best" / "best.json", lambda path: read_best_checkpoint(path.parents[1])


def plan_run(folder: Path) -> RunPlan:
    table = FILES / "table.csv"
    request = PlanRequest(
        load_task(LABEL_TASK),
        read_table(table),
        ("fake:seed=3", LoadOptions()),
        PlannedOptions(limit=6, baselines=False),
        2,
        out=folder / "run",
    )
    plan, _ = open_plan(request)
    return plan


def write_plan(folder: Path) -> Case:
    plan = plan_run(folder)
    return plan.folder / "plan.json", lambda path: (read_plan(path.parent), status(path.parent))


def write_jobs(folder: Path) -> Case:
    add_job(folder, "4711", [1, 2])
    return folder / "jobs.json", lambda path: read_jobs(path.parent)


def write_shard_file(name: str) -> Callable[[Path], Case]:
    def write(folder: Path) -> Case:
        plan = plan_run(folder)
        list(answer_shards(plan))
        shard = plan.get_folder(1)
        if name == "done.json":
            return shard.path / name, lambda path: merge(plan.folder)
        (shard.path / "done.json").unlink()
        (shard.path / ".progress.json").write_text('{"done": 2, "new": 1, "seconds": 0.5}')
        return shard.path / name, lambda path: status(plan.folder)

    return write


def write_task(folder: Path) -> Case:
    content = {
        "name": "purpose",
        "instruction": "Decide the main purpose.",
        "input": "{{ procedure }}",
        "answer": {"kind": "label", "labels": {"a": "first", "b": "second"}},
        "examples": [{"procedure": "x", "answer": "a"}],
        "gate": {"min_words": 2},
    }
    (folder / "task.json").write_text(json.dumps(content))
    return folder / "task.json", load_task


CASES: dict[str, tuple[Callable[[Path], Case], int]] = {
    "manifest.json": (
        lambda folder: (
            copy_run(folder) / "manifest.json",
            lambda path: read_manifest(path.parent),
        ),
        200,
    ),
    "audit.json": (
        lambda folder: (
            copy_run(folder) / "audit" / "audit.json",
            lambda path: medtask.audit(path.parents[1]),
        ),
        40,
    ),
    "medtask.json": (
        lambda folder: (
            shutil.copytree(LINEAR, folder / "linear") / "medtask.json",
            lambda path: medtask.load_model(str(path.parent)),
        ),
        200,
    ),
    "linear.json": (
        lambda folder: (
            shutil.copytree(LINEAR, folder / "linear") / "linear.json",
            lambda path: medtask.load_model(str(path.parent)),
        ),
        60,
    ),
    "training.json": (
        lambda folder: (
            shutil.copytree(LINEAR, folder / "linear") / "training.json",
            lambda path: read_training_manifest(path.parent),
        ),
        200,
    ),
    "calibration.json": (write_calibrations_without_checksum, 200),
    "report.json": (write_report, 200),
    "export.json": (write_export, 200),
    "training_rows.json": (write_training_rows, 200),
    "best.json": (write_best_checkpoint, 200),
    "plan.json": (write_plan, 200),
    "jobs.json": (write_jobs, 200),
    "done.json": (write_shard_file("done.json"), 40),
    ".attempts.json": (write_shard_file(".attempts.json"), 100),
    ".progress.json": (write_shard_file(".progress.json"), 100),
    "task.json": (write_task, 200),
}
# Nothing depends on them: one that is not valid is as one that is missing.
OPTIONAL = {"report.json", "best.json", ".attempts.json", ".progress.json"}


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_read_or_refused_by_its_name(tmp_path: Path, name: str) -> None:
    write, count = CASES[name]
    path, use = write(tmp_path)
    content = json.loads(path.read_text("utf-8"))
    use(path)
    refused = 0
    for seed in range(count):
        data = damage_text(content, random.Random(seed))
        path.write_bytes(data)
        try:
            use(path)
        except MedtaskError as error:
            refused += 1
            assert error.fix, error
            # Or a folder that the file belongs to, such as a run.
            parts = path.relative_to(tmp_path).parts
            assert any(part in str(error) for part in parts), error
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}\n{data[:300]!r}")
    assert (refused > 0) is (name not in OPTIONAL)


def test_a_damaged_list_of_members_is_refused_by_the_name_of_its_folder(tmp_path: Path) -> None:
    from medtask.engines.hybrid import read_members

    (tmp_path / "model").mkdir()
    members = [HybridMember(f"fake:seed={seed}", {"model.seed": str(seed)}, 0.5) for seed in (1, 2)]
    save_hybrid(tmp_path / "model", members, ModelMetadata("hybrid", "label", ("a", "b")))
    metadata = read_model_metadata(tmp_path / "model")
    path = tmp_path / "model" / "hybrid.json"
    content = json.loads(path.read_text())
    for seed in range(200):
        path.write_bytes(damage_text(content, random.Random(seed)))
        try:
            read_members(tmp_path / "model", metadata)
        except MedtaskError as error:
            assert error.fix
            assert "model" in str(error)


@pytest.mark.parametrize(
    "name",
    ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "pooling"],
)
def test_damaged_settings_of_a_sentence_encoder_are_refused_by_the_name_of_their_file(
    tmp_path: Path, name: str
) -> None:
    from medtask.similarity import load_sentence_encoder
    from support.tiny_encoders import save_sentence_encoder

    folder = save_sentence_encoder(
        tmp_path / "encoder",
        ["a cut", "a burn"],
        {"Pooling": {"pooling_mode_mean_tokens": True}, "Normalize": {}},
    )
    prompts = {"prompts": {"query": "Q: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    path = folder / "1_Pooling" / "config.json" if name == "pooling" else folder / name
    content = json.loads(path.read_text())
    refused = 0
    for seed in range(15):
        path.write_bytes(damage_text(content, random.Random(seed)))
        try:
            load_sentence_encoder(folder)
        except MedtaskError as error:
            refused += 1
            assert error.fix
            assert "encoder" in str(error)
    assert refused

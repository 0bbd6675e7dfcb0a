"""Models are sent to the Hub after the comparison, private by default, and never by accident."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="huggingface_hub sends models")

import medtask
from medtask.errors import EngineError, UsageError
from medtask.exporting.export import export, verify_export
from medtask.exporting.export_manifest import locate_manifest
from medtask.training.model_card import PHI_NOTICES
from medtask.training.trained_model import TrainedModel
from support.hub_server import Hub, run_hub
from support.small_trainings import make_rows, make_task
from support.tiny_adapters import LORA_SETTINGS, save_adapter
from support.tiny_models import save_model

NAME = "clinic/parts"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with run_hub() as server:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


def train(folder: Path, *, phi: bool) -> TrainedModel:
    make_task(folder / "task")
    settings = json.loads((folder / "task" / "task.json").read_text()) | {"phi": phi}
    (folder / "task" / "task.json").write_text(json.dumps(settings))
    task = medtask.load_task(folder / "task")
    return medtask.train(task, make_rows(), method="linear", out=folder / "model")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train(tmp_path_factory.mktemp("public"), phi=False)


def test_the_repository_is_private_and_has_the_card_and_the_hashes(
    hub: Hub, model: TrainedModel, tmp_path: Path
) -> None:
    done = export(model, to="hub", register=NAME, out=tmp_path / "copy", rows=8)
    assert hub.private == {NAME: True}, hub.calls
    assert NAME in done.notes[-1]
    assert verify_export(done.path) == []
    assert {"README.md", "export.json", "medtask.json"} <= hub.files.keys()
    sent = {path.relative_to(done.path).as_posix() for path in done.path.rglob("*")}
    assert set(hub.files) == sent
    for name, content in hub.files.items():
        assert content == (done.path / name).read_bytes()
    assert "pipeline_tag: text-classification" in hub.files["README.md"].decode()
    assert not {"training_rows.json", "training.json", "calibration.json"} & hub.files.keys()


def test_a_model_of_patients_texts_is_not_sent_without_acknowledgement(
    hub: Hub, tmp_path: Path
) -> None:
    model = train(tmp_path, phi=True)
    with pytest.raises(UsageError, match="learnt from texts of patients") as refusal:
        export(model, to="hub", register=NAME, out=tmp_path / "copy")
    assert "--acknowledge-phi" in refusal.value.fix
    assert hub.calls == []
    assert not (tmp_path / "copy").exists()
    export(model, to="hub", register=NAME, out=tmp_path / "copy", acknowledge_phi=True)
    assert "patients" in hub.files["README.md"].decode()
    assert hub.private == {NAME: True}


def test_nothing_is_sent_if_the_comparison_fails(
    hub: Hub, model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtask.exporting.hub.check", lambda request, draft: ["it is another"])
    with pytest.raises(EngineError, match="it is another"):
        export(model, to="hub", register=NAME, out=tmp_path / "copy", rows=8)
    assert hub.calls == []


def test_a_public_repository_is_refused_unless_it_is_asked_for(
    hub: Hub, model: TrainedModel, tmp_path: Path
) -> None:
    hub.private[NAME] = False
    with pytest.raises(UsageError, match="is public"):
        export(model, to="hub", register=NAME, out=tmp_path / "copy", rows=8)
    assert not hub.files
    done = export(model, to="hub", register=NAME, out=tmp_path / "more", rows=8, public=True)
    assert hub.files
    assert "(public)" in done.notes[-1]


def test_a_refusal_of_the_hub_leaves_the_export(
    hub: Hub, model: TrainedModel, tmp_path: Path
) -> None:
    hub.refuses = True
    with pytest.raises(EngineError, match="not sent to clinic/parts") as refusal:
        export(model, to="hub", register=NAME, out=tmp_path / "copy", rows=8)
    assert "hf auth login" in refusal.value.fix
    assert verify_export(tmp_path / "copy") == []


def test_an_offline_machine_and_a_missing_name_are_refused(
    hub: Hub, model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="name of a repository"):
        export(model, to="hub", out=tmp_path / "copy", rows=8)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="offline"):
        export(model, to="hub", register=NAME, out=tmp_path / "copy", rows=8)
    assert hub.calls == []


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", ["folder", "file", "part of a folder", "base of an adapter"])
def test_an_export_of_a_model_of_patients_texts_is_not_sent_either(
    hub: Hub, tmp_path: Path, kind: str
) -> None:
    model = save_model(tmp_path / "base", "llama")
    target = {"file": "gguf", "part of a folder": "ollama"}.get(kind, "merged")
    suffix = ".gguf" if target == "gguf" else ""
    out = tmp_path / f"export{suffix}"
    quant = None if target == "merged" else "f16"
    done = export(model, to=target, quant=quant, out=out, check=False)
    manifest = locate_manifest(done.path)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"phi": "yes"}))
    source = done.path / "model.gguf" if target == "ollama" else done.path
    if kind == "base of an adapter":
        source = save_adapter(tmp_path / "adapter", source, **LORA_SETTINGS["lora"])
    with pytest.raises(UsageError, match="learnt from texts of patients"):
        export(source, to="hub", register=NAME, out=tmp_path / "copy", check=False)
    assert hub.calls == []
    options = {"register": NAME, "acknowledge_phi": True, "check": False}
    copy = export(source, to="hub", out=tmp_path / "copy", **options)
    assert PHI_NOTICES["yes"] in copy.report.read_text()

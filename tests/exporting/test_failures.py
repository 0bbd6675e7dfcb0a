"""Exports that cannot be written, or with input that is not valid: an error, and no file."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="llama.cpp quantises and reads the written files")

import torch

from medtask.errors import EngineError, InputError, StorageError, UsageError
from medtask.exporting.export import export
from medtask.exporting.targets import find_target
from support.command_line import time_signal
from support.file_size_limit import limit_file_size
from support.ordinary_user import act_as_ordinary_user, make_readable_folder
from support.tiny_adapters import LORA_SETTINGS, save_adapter
from support.tiny_encoders import save_sentence_encoder
from support.tiny_models import save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    base = save_model(tmp_path / "base", "llama")
    return save_adapter(tmp_path / "adapter", base, **LORA_SETTINGS["lora"])


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    texts = ["one text", "another text"]
    return save_sentence_encoder(tmp_path / "encoder", texts, {"Pooling": pooling})


def export_to_full_disk(model: Path, out: Path, to: str, quant: str | None, *, size: int) -> None:
    """Export to a disk on which no file can have more than ``size`` bytes."""
    with (
        limit_file_size(size),
        pytest.raises(StorageError, match="cannot be written") as refusal,
    ):
        export(model, to=to, quant=quant, out=out, check=False)
    assert "free disk space" in refusal.value.fix
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(
    ("to", "quant"), [("merged", None), ("gguf", "f16"), ("gguf", "q8_0"), ("ollama", "q8_0")]
)
def test_a_full_disk_leaves_nothing(
    adapter: Path, tmp_path: Path, to: str, quant: str | None
) -> None:
    out = tmp_path / "out" / ("model.gguf" if to == "gguf" else "model")
    export_to_full_disk(adapter, out, to, quant, size=60_000)


@pytest.mark.parametrize("quant", ["f32", "4bit"])
def test_a_disk_that_is_full_when_mlx_lm_converts_leaves_nothing(
    tmp_path: Path, quant: str
) -> None:
    pytest.importorskip("mlx_lm", reason="mlx-lm converts the model")
    base = save_model(tmp_path / "base", "llama")  # without an adapter, nothing is written before
    export_to_full_disk(base, tmp_path / "out" / "model", "mlx", quant, size=20_000)


@pytest.mark.scale
def test_a_disk_that_is_full_when_the_graph_is_written_leaves_nothing(
    encoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="torch exports with onnxscript")
    export_to_full_disk(encoder, tmp_path / "out" / "model", "onnx", None, size=2_000)


def test_a_disk_that_is_full_when_the_file_is_quantised_leaves_nothing(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtask.exporting.gguf import writer

    quantize_file = writer.quantize_file

    def quantize_on_full_disk(*arguments: object, **options: object) -> None:
        with limit_file_size(60_000):
            quantize_file(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "quantize_file", quantize_on_full_disk)
    out = tmp_path / "out" / "model.gguf"
    with pytest.raises(StorageError, match="cannot be written"):
        export(adapter, to="gguf", quant="q8_0", out=out, check=False)
    assert not list(out.parent.iterdir())


@pytest.mark.scale
def test_a_killed_export_leaves_nothing_that_can_be_loaded(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "model.gguf"
    arguments = ["export", str(adapter), "--to", "gguf", "--quant", "f16", "--out", str(out)]
    code, _ = time_signal(arguments, "Asking the exported model", signal.SIGKILL)
    assert code == -signal.SIGKILL
    (left,) = out.parent.iterdir()
    assert (left.name, (left / "model.gguf").is_file()) == (".model.gguf.export", True)
    (left / "model.gguf.full").write_bytes(b"half")  # of a quantisation
    done = export(adapter, to="gguf", quant="f16", out=out, rows=4)
    assert done.parity is not None
    assert done.parity.passed
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "model.gguf",
        "model.gguf.README.md",
        "model.gguf.export.json",
    ]


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_write_permission_is_named(mode: int) -> None:
    with make_readable_folder() as folder:
        base = save_model(folder / "base", "llama")
        closed = folder / "closed"
        closed.mkdir()
        closed.chmod(mode)
        try:
            with (
                act_as_ordinary_user(),
                pytest.raises(StorageError, match="Permission denied") as refusal,
            ):
                export(base, to="merged", out=closed / "model", check=False)
            assert "permissions" in refusal.value.fix
        finally:
            closed.chmod(0o755)
        assert not list(closed.iterdir())


def test_a_parent_that_is_a_file_is_named(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="File exists"):
        export(adapter, to="merged", out=tmp_path / "file" / "model", check=False)


def test_an_adapter_without_weights_is_refused(adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="pickled weights are not loaded"):
        export(adapter, to="merged", out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_whose_base_is_missing_is_refused(adapter: Path, tmp_path: Path) -> None:
    config = adapter / "adapter_config.json"
    missing = str(tmp_path / "missing")
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": missing})
    )
    with pytest.raises(EngineError, match="missing"):
        export(adapter, to="merged", out=tmp_path / "merged")


def test_an_adapter_of_a_base_of_another_size_is_refused(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    wider = {
        name: torch.zeros(weight.shape[0], 2 * weight.shape[1]) if "lora_A" in name else weight
        for name, weight in load_file(path).items()
    }
    save_file(wider, path)
    with pytest.raises(EngineError, match="does not fit this model") as refusal:
        export(adapter, to="merged", out=tmp_path / "merged", check=False)
    assert str(tmp_path / "base") in refusal.value.fix


def test_an_encoder_is_not_written_as_gguf(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be exported --to gguf") as refusal:
        export(encoder, to="gguf", out=tmp_path / "model.gguf")
    assert "--to onnx" in refusal.value.fix


def test_an_encoder_without_pooling_is_not_written_as_gguf(tmp_path: Path) -> None:
    encoder = save_sentence_encoder(tmp_path / "encoder", ["one text", "another text"])
    with pytest.raises(UsageError, match="'bert' cannot be written as GGUF"):
        export(encoder, to="gguf", out=tmp_path / "out" / "model.gguf", check=False)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("name", "fix"), [("q4_k", "q4_k_m"), ("int4", "q4_k_m"), ("", "q8_0")])
def test_an_unknown_quantisation_is_refused(
    adapter: Path, tmp_path: Path, name: str, fix: str
) -> None:
    with pytest.raises(UsageError, match="is not a quantisation of --to gguf") as refusal:
        export(adapter, to="gguf", quant=name, out=tmp_path / "out" / "model.gguf")
    assert fix in refusal.value.fix
    assert not (tmp_path / "out").exists()


def test_an_existing_file_is_not_replaced(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    out.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        export(adapter, to="gguf", quant="f16", out=out, force=True)
    assert out.read_text() == "precious"


def test_a_refused_quantisation_names_the_finer_ones() -> None:
    target = find_target("gguf")
    assert target.list_finer("q6_k") == ["q8_0", "bf16", "f16", "f32"]
    assert target.list_finer("f32") == []

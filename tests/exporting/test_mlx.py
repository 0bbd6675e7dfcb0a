"""Folders for mlx-lm: converted by mlx-lm, and read as their source is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm converts the model")
pytest.importorskip("torch", reason="the hf engine reads the source")

import medtask.exporting.mlx as writer
from medtask.engines.mlx.load import translate_config
from medtask.errors import EngineError, UsageError
from medtask.exporting.export import export, verify_export
from support.tiny_adapters import LORA_SETTINGS, save_adapter
from support.tiny_models import save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
ROWS = 4


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = save_model(folder / "base", "llama")
    config = json.loads((base / "config.json").read_text())
    # A value that mlx-lm does not find under the name that transformers 5 writes.
    config["rope_parameters"]["rope_theta"] = 500.0
    (base / "config.json").write_text(json.dumps(config))
    return save_adapter(folder / "adapter", base, **LORA_SETTINGS["rslora"])


def test_a_merged_model_is_the_same_in_mlx(adapter: Path, tmp_path: Path) -> None:
    done = export(adapter, to="mlx", quant="f32", out=tmp_path / "model", rows=ROWS)
    assert done.parity is not None
    assert done.parity.agreement == 1
    assert done.parity.mean_kl < 1e-4
    assert f"--model mlx:{done.path}" in done.notes[0]
    assert verify_export(done.path) == []
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("quantization", "bits"), [("8bit", 8), ("4bit", 4)])
def test_weights_are_quantised(adapter: Path, tmp_path: Path, quantization: str, bits: int) -> None:
    out = tmp_path / "model"
    done = export(adapter, to="mlx", quant=quantization, out=out, rows=ROWS, force=True)
    config = json.loads((out / "config.json").read_text())
    assert config["quantization"]["bits"] == bits
    assert config["rope_theta"] == 500.0
    assert done.parity is not None
    assert 0 < done.parity.mean_kl < 2
    full = sum(path.stat().st_size for path in (adapter.parent / "base").glob("*.safetensors"))
    assert (out / "model.safetensors").stat().st_size < full / 2


def test_a_dropped_adapter_is_found(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medtask.exporting.lora.LoraAdapter.merge", lambda self, name, weight: weight
    )
    with pytest.raises(EngineError, match="not the same"):
        export(adapter, to="mlx", quant="f32", out=tmp_path / "model", rows=ROWS)
    assert not list(tmp_path.iterdir())


def test_a_rotary_base_that_is_lost_is_found(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = writer._convert

    def lose_base(source: Path, *rest: object) -> None:
        path = source / "config.json"
        config = json.loads(path.read_text())
        assert (
            config["rope_theta"] == translate_config({**config, "rope_theta": None})["rope_theta"]
        )
        path.write_text(json.dumps(config | {"rope_theta": 10_000.0}))
        original(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "_convert", lose_base)
    with pytest.raises(EngineError, match=r"rope_theta is 10000\.0 instead of 500\.0"):
        export(adapter, to="mlx", quant="f32", out=tmp_path / "model", rows=ROWS)


def test_what_mlx_lm_cannot_read_or_quantise_is_refused(tmp_path: Path) -> None:
    bloom = save_model(tmp_path / "bloom", "bloom")
    with pytest.raises(UsageError, match=r"bloom not supported"):
        export(bloom, to="mlx", quant="f16", out=tmp_path / "model", check=False)
    config = json.loads((bloom / "config.json").read_text())
    (bloom / "config.json").write_text(json.dumps(config | {"hidden_size": 40}))
    with pytest.raises(UsageError, match=r"its hidden size, 40, is no multiple of 32"):
        export(bloom, to="mlx", quant="4bit", out=tmp_path / "model", check=False)
    with pytest.raises(UsageError, match="'4' is not a quantisation"):
        export(bloom, to="mlx", quant="4", out=tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["bloom"]

"""Merged folders are those that PEFT would write, in the memory of one file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from medtask.engines.files.model_files import ADAPTER_CONFIG
from medtask.exporting.export import export
from medtask.exporting.weight_files import WeightFiles, write_weights
from support.tiny_adapters import LORA_SETTINGS, save_adapter
from support.tiny_models import save_model

MEASURE = """
import sys
from pathlib import Path
import torch
from medtask.exporting.merged import write_merged
from medtask.exporting.source import CausalModel, open_source
from medtask.hardware import measure_peak_memory
folder = Path(sys.argv[2])
folder.mkdir()
with CausalModel(open_source(sys.argv[1])) as model:
    write_merged(model, folder)
print(measure_peak_memory()["memory"])
"""
ROWS, COLUMNS = 4096, 2048  # of a matrix, which is one file of 32 MiB
FILE_BYTES = 4 * ROWS * COLUMNS


def write_sharded_model(folder: Path, layers: int) -> Path:
    """An adapter on a made-up model with one file for each layer; returns the adapter."""
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    (base / "config.json").write_text('{"model_type": "llama"}')
    updates: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    for layer in range(layers):
        module = f"model.layers.{layer}.mlp.up_proj"
        header = json.dumps(
            {
                f"{module}.weight": {
                    "dtype": "F32",
                    "shape": [ROWS, COLUMNS],
                    "data_offsets": [0, FILE_BYTES],
                }
            }
        ).encode()
        with (base / f"model-{layer:03}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(file.tell() + FILE_BYTES)  # zeros that take no room on the disk
        places[f"{module}.weight"] = f"model-{layer:03}.safetensors"
        updates[f"base_model.model.{module}.lora_A.weight"] = torch.ones(1, COLUMNS)
        updates[f"base_model.model.{module}.lora_B.weight"] = torch.full((ROWS, 1), 1.0 + layer)
    index = json.dumps({"metadata": {}, "weight_map": places})
    (base / "model.safetensors.index.json").write_text(index)
    settings = peft.LoraConfig(r=1, lora_alpha=1, base_model_name_or_path=str(base))
    settings.save_pretrained(str(adapter))
    save_file(updates, adapter / "adapter_model.safetensors")
    assert (adapter / ADAPTER_CONFIG).is_file()
    return adapter


def measure_peak_bytes(adapter: Path, out: Path) -> int:
    command = [sys.executable, "-c", MEASURE, str(adapter), str(out)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.scale
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured in KiB on Linux")
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    one, many = 1, 12
    few_bytes = measure_peak_bytes(write_sharded_model(tmp_path / "one", one), tmp_path / "few")
    adapter = write_sharded_model(tmp_path / "many", many)
    many_bytes = measure_peak_bytes(adapter, tmp_path / "merged")
    assert many_bytes < few_bytes + FILE_BYTES
    last = load_file(tmp_path / "merged" / f"model-{many - 1:03}.safetensors")
    (weight,) = last.values()
    assert torch.equal(weight, torch.full((ROWS, COLUMNS), float(many)))
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == many * FILE_BYTES
    assert len(index["weight_map"]) == many


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.uint8])
def test_files_are_those_of_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = {
        "b": torch.rand(3, 5).mul(9).to(dtype),
        "a": torch.ones(7).to(dtype),
        "scalar": torch.tensor(2.0).to(dtype),
    }
    save_file(weights, tmp_path / "model.safetensors")
    files = WeightFiles(tmp_path)
    names = files.list_names()
    size = write_weights(
        tmp_path / "own.safetensors",
        {name: files.get_shape(name) for name in names},
        {name: files.get_dtype(name) for name in names},
        ((name, files.read(name)) for name in names),
    )
    found = load_file(tmp_path / "own.safetensors")
    assert size == sum(one.numel() * one.element_size() for one in weights.values())
    for name, weight in weights.items():
        assert found[name].dtype == dtype
        assert torch.equal(
            found[name].reshape(-1).view(torch.uint8), weight.reshape(-1).view(torch.uint8)
        )


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_only_the_weights_that_transformers_loads_are_exported(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapter = save_adapter(tmp_path / "adapter", base, **LORA_SETTINGS["lora"])
    # As in repositories of Mistral: the weights again, with the names of its own library.
    save_file({"layers.0.attention.wq.weight": torch.ones(8, 8)}, base / "consolidated.safetensors")
    earlier = {name: one + 1 for name, one in load_file(base / "model.safetensors").items()}
    save_file(earlier, base / "model_earlier.safetensors")
    done = export(adapter, to="merged", out=tmp_path / "merged", rows=4)
    assert [path.name for path in done.path.glob("*.safetensors*")] == ["model.safetensors"]

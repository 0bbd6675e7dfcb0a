from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask.engines.files.model_files import locate_model, read_model_json
from medtask.engines.files.weights import read_safetensors_header
from medtask.errors import InputError, ModelNotFound
from medtask.privacy import EgressError, block_network


def write_adapter(folder: Path, base: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


@pytest.fixture
def empty_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_the_name_of_a_file_is_not_looked_up_on_the_hub(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_hub_cache: None
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("patients/smith.bin")
    path.parent.mkdir()
    if kind == "file":
        path.touch()
    else:
        path.symlink_to("nowhere")
    with (
        block_network() as guard,
        pytest.raises(ModelNotFound, match=r"patients/smith\.bin is a file, but not of a model"),
    ):
        locate_model("patients/smith.bin")
    assert guard.attempts == 0


def test_the_base_that_an_adapter_names_is_not_downloaded(
    tmp_path: Path, empty_hub_cache: None
) -> None:
    adapter = write_adapter(tmp_path / "adapter", "someone/model")
    with block_network() as guard, pytest.raises(ModelNotFound) as caught:
        locate_model(str(adapter))
    assert guard.attempts == 0
    assert "names the base someone/model, which is not on this machine" in str(caught.value)
    assert "hf download someone/model" in caught.value.fix
    assert f"--model someone/model --adapter {adapter}" in caught.value.fix
    with block_network(), pytest.raises(EgressError):  # as a model that the user names
        locate_model("someone/model")


def test_a_missing_base_that_an_adapter_names_is_named_with_the_adapter(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", str(tmp_path / "base"))
    with pytest.raises(ModelNotFound, match=r"adapter names the base .*base, which is not here"):
        locate_model(str(adapter))


def test_an_adapter_whose_base_is_an_adapter_is_refused(tmp_path: Path) -> None:
    own = write_adapter(tmp_path / "own", str(tmp_path / "own"))
    first = write_adapter(tmp_path / "first", str(tmp_path / "second"))
    write_adapter(tmp_path / "second", str(first))
    for folder in (own, first):
        with pytest.raises(InputError, match="is an adapter too") as caught:
            locate_model(str(folder))
        assert "merge" in caught.value.fix


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{", "line 1 is not JSON"),
        ("[]", "not a JSON object"),
        (None, "it does not exist"),
    ],
)
def test_a_config_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        read_model_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "org/kernel"},
        {"attn_implementation": "org/kernel@v1:forward"},
        {"attn_implementation": "org__kernel"},
        {"text_config": {"attn_implementation": "org/kernel"}},
        {"text_config": {"_attn_implementation": "org/kernel"}},
        {"attn_implementation": {"text_config": "org/kernel"}},
    ],
)
def test_an_attention_whose_code_would_be_downloaded_is_refused(
    tmp_path: Path, config: dict[str, object]
) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    with pytest.raises(InputError, match="would be downloaded and run"):
        locate_model(str(tmp_path))


@pytest.mark.parametrize("name", ["eager", "sdpa", "flash_attention_2", None])
def test_an_attention_of_transformers_is_accepted(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "attn_implementation": name})
    )
    assert locate_model(str(tmp_path)).path == tmp_path


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [4]}}',
        b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}}',
        b"[" * 5000,
    ],
)
def test_weights_with_an_invalid_header_are_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="not a complete safetensors file"):
        read_safetensors_header(path)

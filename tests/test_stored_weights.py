"""Only the safetensors files of a model's own folder are its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask.errors import InputError
from medtask.stored_weights import INDEX_FILE, list_weight_files


def write_index(folder: Path, content: object) -> None:
    (folder / INDEX_FILE).write_text(json.dumps(content))


def test_one_file_is_preferred_to_an_index_and_other_files_are_left_out(tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "zzz.safetensors").touch()
    write_index(tmp_path, {"weight_map": {"a": "model-2.safetensors"}})
    assert list_weight_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_the_files_of_an_index_are_listed_once_each(tmp_path):
    names = {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    write_index(tmp_path, {"weight_map": names})
    assert [path.name for path in list_weight_files(tmp_path)] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]


def test_a_folder_with_pickled_weights_has_none(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    (tmp_path / "other.safetensors").touch()
    assert list_weight_files(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [
        *({"weight_map": {"a": name}} for name in ("x.bin", "../x.safetensors", "/x.safetensors")),
        *({"weight_map": {"a": name}} for name in ("b/x.safetensors", ".x.safetensors", 3, None)),
        *({"weight_map": {}}, {"weight_map": 3}, {}, [], "x", {"weight_map": {"a": ["b"]}}),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, content):
    write_index(tmp_path, content)
    with pytest.raises(InputError, match="does not name safetensors files of its folder") as raised:
        list_weight_files(tmp_path)
    assert raised.value.fix

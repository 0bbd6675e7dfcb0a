from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask.json_content import JsonContent, load_checked
from medtask.json_files import MAX_DEPTH, InvalidJsonFile, load_json, load_json_object


class Settings(JsonContent):
    size: int
    names: list[str]


def nest(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b"", "line 1 is not JSON"),
        (b'{\n"size":', "line 2 is not JSON"),
        (b"9" * 5000, "too many digits"),
        (nest(MAX_DEPTH + 1).encode(), "nested too deeply"),
        (nest(1_000_000).encode(), "nested too deeply"),
        (b"[1]", "not a JSON object"),
    ],
)
def test_a_file_that_is_not_a_json_object_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(InvalidJsonFile, match=reason):
        load_json_object(path)


def test_a_file_that_is_missing_is_told_apart_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none.json", tmp_path / "file" / "none.json"):
        with pytest.raises(FileNotFoundError):
            load_json(path)
    with pytest.raises(InvalidJsonFile, match="Is a directory"):
        load_json(tmp_path)


def test_the_deepest_allowed_content_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text(nest(MAX_DEPTH))
    assert json.dumps(load_json(path)) == nest(MAX_DEPTH)


def test_the_first_part_that_is_not_valid_is_named_without_its_value(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"size": "SECRET", "names": []}')
    with pytest.raises(InvalidJsonFile, match=r"^size: Input should be a valid integer$") as caught:
        load_checked(path, Settings)
    assert "SECRET" not in str(caught.value)


def test_lone_surrogates_and_unknown_parts_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"size": 1, "names": ["\\ud800"], "more": 2}')
    found = load_checked(path, Settings)
    assert found.names == ["\ud800"]
    assert found.model_extra == {"more": 2}

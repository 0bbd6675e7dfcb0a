from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from medtask.engines.files.probe_results import ProbeKey, keep_probe_gap, read_probe_gap

KEY = ProbeKey({"weights": "abc", "dtype": "float32"}, ("numpy",))


@pytest.fixture(autouse=True)
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "probes"
    monkeypatch.setattr("medtask.engines.files.probe_results.find_probe_folder", lambda: folder)
    return folder


@pytest.mark.parametrize("gap", [0.0, 3e-6, math.inf])
def test_a_result_is_kept_for_its_owner_only(gap: float) -> None:
    assert read_probe_gap(KEY) is None
    keep_probe_gap(KEY, gap)
    assert read_probe_gap(KEY) == gap
    if os.name == "posix":
        assert KEY.find_file().stat().st_mode & 0o777 == 0o600
        assert KEY.find_file().parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"gap": NaN}', b'{"gap": -1.0}', b'{"gap": "0"}', b"\xff\x00"]
)
def test_a_damaged_result_counts_as_none_and_is_replaced(content: bytes) -> None:
    keep_probe_gap(KEY, 0.5)
    KEY.find_file().write_bytes(content)
    assert read_probe_gap(KEY) is None
    keep_probe_gap(KEY, 0.25)
    assert read_probe_gap(KEY) == 0.25


def test_a_result_depends_on_files_versions_code_and_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_probe_gap(KEY, 0.5)
    assert read_probe_gap(ProbeKey({**KEY.facts, "dtype": "bfloat16"}, KEY.libraries)) is None
    probes = "medtask.engines.files.probe_results"
    for name in ("_hash_code_stamps", "inspect_processor"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{probes}.{name}", lambda: "another")
            assert read_probe_gap(KEY) is None
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda name: "0.0")
        assert read_probe_gap(KEY) is None
    assert read_probe_gap(KEY) == 0.5


def test_a_cache_that_cannot_be_written_is_no_error(probes: Path) -> None:
    probes.parent.write_text("a file in place of the folder")
    keep_probe_gap(KEY, 0.5)
    assert read_probe_gap(KEY) is None

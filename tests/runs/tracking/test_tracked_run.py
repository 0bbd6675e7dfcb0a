"""What is logged of a run: facts and metrics, and no text of a record."""

from __future__ import annotations

import json
import math

import pytest

from medtask.runs.tracking.tracked_run import MAX_METRICS, TrackingRecord, build_tracked_run

CANARY = "Mrs Canary has a rare illness"
MANIFEST = {
    "state": "finished",
    "medtask": "1.0",
    "command": f"medtask run --gold '{CANARY}'",
    "identity": {
        "task.kind": "label",
        "data.sha256": "abc",
        "task.instruction": CANARY,
        "task.fingerprint": "f",
    },
    "task": {
        "name": "purpose",
        "source": CANARY,
        "fingerprint": "f",
        "question": {"instruction": CANARY},
    },
    "model": {"title": "a model", "name": "fake", "identity": {"reference": "fake:"}},
    "data": {"source": CANARY, "sha256": "abc", "columns": [CANARY], "notes": [CANARY]},
    "settings": {"rows": 3, "gold_column": "gold", "formats": ["csv"]},
    "notes": [CANARY],
}
DOCUMENT = {
    "folder": CANARY,
    "rows": 3,
    "notes": [CANARY],
    "statuses": {"ok": 2, "failed": 1},
    "metrics": {
        "accuracy": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 2},
        "macro_f1": {"value": math.nan, "low": None, "high": None, "n": 2},
        "details": {"labels": [{"label": CANARY}], "CTA Brain/Neck": {"f1": 0.4}},
    },
    "model": CANARY,
    "ok": True,
}


def test_no_text_of_a_record_is_reported() -> None:
    output = build_tracked_run(TrackingRecord("run", "purpose", "r1", DOCUMENT, MANIFEST))
    assert CANARY not in repr(output)
    assert json.loads(output.documents["run.json"])["metrics"]["accuracy"]["value"] == 0.5
    assert json.loads(output.documents["manifest.json"])["task"] == {
        "name": "purpose",
        "fingerprint": "f",
    }


def test_figures_are_the_numbers_by_their_paths() -> None:
    output = build_tracked_run(TrackingRecord("run", "purpose", "r1", DOCUMENT, MANIFEST))
    assert dict(output.metrics) == {
        "accuracy": 0.5,
        "accuracy.low": 0.1,
        "accuracy.high": 0.9,
        "accuracy.n": 2,
        "macro_f1.n": 2,
        "rows": 3,
        "statuses.ok": 2,
        "statuses.failed": 1,
        "details.CTA Brain_Neck.f1": 0.4,
    }


def test_parameters_are_facts_of_the_manifest_and_settings_of_the_verb() -> None:
    output = build_tracked_run(
        TrackingRecord(
            "evaluate",
            "purpose",
            "r1",
            DOCUMENT,
            MANIFEST,
            settings={"max_error": 0.05, "none": None},
        )
    )
    assert output.parameters == {
        "verb": "evaluate",
        "medtask": "1.0",
        "task.fingerprint": "f",
        "task.kind": "label",
        "model": "a model",
        "engine": "fake",
        "model.reference": "fake:",
        "data.sha256": "abc",
        "settings.rows": "3",
        "settings.gold_column": "gold",
        "settings.formats": '["csv"]',
        "max_error": "0.05",
    }


@pytest.mark.parametrize("manifest", [{}, MANIFEST])
def test_where_labels_are_not_declared_or_a_place_is_not_trusted_figures_are_reported_alone(
    manifest: dict[str, object],
) -> None:
    output = build_tracked_run(
        TrackingRecord("evaluate", "purpose", "r1", DOCUMENT, manifest),
        folder="/home/me",
        metrics_only=bool(manifest),
    )
    assert set(output.metrics) == {
        "accuracy",
        "accuracy.low",
        "accuracy.high",
        "accuracy.n",
        "macro_f1.n",
    }
    assert (output.documents, output.folder) == ({}, "")
    assert not {"data.sha256", "settings.gold_column", "model.reference"} & set(output.parameters)


def test_the_same_run_has_the_same_key_and_another_setting_another() -> None:
    first = build_tracked_run(
        TrackingRecord("evaluate", "t", "r1", DOCUMENT, MANIFEST, settings={"max_error": 0.05})
    )
    again = build_tracked_run(
        TrackingRecord(
            "evaluate", "t", "r1", {**DOCUMENT, "rows": 4}, MANIFEST, settings={"max_error": 0.05}
        )
    )
    other = build_tracked_run(
        TrackingRecord("evaluate", "t", "r1", DOCUMENT, MANIFEST, settings={"max_error": 0.01})
    )
    assert first.key == again.key != other.key


def test_too_many_figures_leave_out_those_of_single_labels() -> None:
    labels = {f"label {number}": {"f1": 0.5} for number in range(2 * MAX_METRICS)}
    output = build_tracked_run(
        TrackingRecord(
            "run",
            "t",
            "r1",
            {"metrics": {"details": labels, "accuracy": {"value": 1, "n": 5}}},
            MANIFEST,
        )
    )
    assert len(output.metrics) == MAX_METRICS
    assert {"accuracy", "accuracy.n"} <= set(output.metrics)
    assert output.omitted_metrics == MAX_METRICS + 2


def test_names_that_become_alike_stay_apart() -> None:
    output = build_tracked_run(
        TrackingRecord("run", "t", "r1", {"metrics": {"a/b": 0.25, "a|b": 0.75}}, MANIFEST)
    )
    assert dict(output.metrics) == {"a_b": 0.25, "a_b_": 0.75}

"""The same figure everywhere: run, evaluate, compare, both report files, terminal and Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import medtask
from medtask.cli.main import app
from medtask.engines.fake import FakeEngine
from medtask.evaluation.presentation.formatting import format_metric
from medtask.evaluation.statistics.intervals import Metric
from medtask.records import LeftOut
from support.injuries import KINDS, make_task, write_notes


@pytest.mark.parametrize("kind", KINDS)
def test_a_metric_has_one_value_wherever_it_is_shown(tmp_path: Path, kind: str) -> None:
    table = tmp_path / "notes.csv"
    write_notes(table, rows=24, kind=kind)
    task = make_task(
        tmp_path / kind, KINDS[kind][0], examples={"file": str(table), "select": "first", "k": 3}
    )
    run = medtask.run(task, FakeEngine(), table, out=tmp_path / "one")
    medtask.run(task, FakeEngine(seed=7), table, out=tmp_path / "two")
    assert run.summary is not None
    gold = run.summary.gold
    assert gold is not None
    assert gold.evaluation is not None
    assert gold.left_out == {LeftOut.EXAMPLE: 3}
    assert gold.rows == 21
    document = json.loads(json.dumps(run.to_json()))
    assert document["gold"]["left_out"] == {"example": 3}
    figures = document["metrics"]
    expected = {name: figures[name] for name in run.metrics}
    names = gold.evaluation.headline_metrics
    assert all(expected[name]["n"] <= 21 for name in expected if expected[name])

    def check_reports() -> None:
        report = json.loads((tmp_path / "one" / "report.json").read_text())
        assert report["metrics"] == expected
        assert report["gold"]["left_out"] == {"example": 3}
        page = (tmp_path / "one" / "report.html").read_text()
        assert all(f"{expected[name]['value']:.3f}" in page for name in names if expected[name])
        assert "Left out of the metrics: 3 rows are examples in the prompt." in page

    check_reports()
    evaluation = medtask.evaluate(tmp_path / "one")
    assert evaluation.metrics == run.metrics
    assert [one.to_json() for one in evaluation.baselines] == [
        one.to_json() for one in run.baselines
    ]
    check_reports()
    shown = CliRunner().invoke(app, ["evaluate", str(tmp_path / "one"), "--json"])
    document = json.loads(shown.stdout)
    assert document["metrics"] == expected
    assert document["gold"]["left_out"] == {"example": 3}
    terminal = CliRunner().invoke(app, ["evaluate", str(tmp_path / "one")]).stdout
    headline = next(metric for name in names if (metric := run.metrics[name]))
    assert format_metric(headline).removesuffix(")") in terminal.replace("\n", " ")
    compared = medtask.compare([tmp_path / "one", tmp_path / "two"], baselines=False)
    assert compared.n == 21
    entry = next(one for one in compared.leaderboard.entries if one.name == "one")
    # A paired bootstrap draws other samples, so the ends of its intervals may differ a little.
    shared = [name for name in names if name in entry.figures]
    assert shared
    assert [describe(entry.figures[name]) for name in shared] == [
        describe(run.metrics[name]) for name in shared
    ]


def describe(metric: Metric | None) -> tuple[float, int] | None:
    return (round(metric.value, 12), metric.n) if metric else None

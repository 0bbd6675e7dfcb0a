"""`medtask evaluate` as scripts and people meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.test_audit import fill_labels
from medtask.tables.read import read_table
from runs.test_run_evaluation import write_table
from support.command_line import RunCommand


@pytest.fixture
def run_folder(medtask: RunCommand, project_folder: Path) -> Path:
    assert medtask("run", "surgery", "--model", "fake:", "--out", "out", "-q").code == 0
    return project_folder / "out"


def test_a_run_is_reported_with_its_gold(medtask: RunCommand, run_folder: Path) -> None:
    shown = medtask("evaluate", "out")
    assert shown.code == 0
    assert "ok " in shown.out and "accuracy " in shown.out and "n = 5 with gold" in shown.out
    assert "report.html" in shown.out and (run_folder / "report.html").exists()


def test_json_keeps_its_contract(medtask: RunCommand, run_folder: Path) -> None:
    shown = medtask("evaluate", "out", "--json", "--max-error", "0.05")
    output = json.loads(shown.out)
    assert (
        output["n"] == 5 and output["statuses"]["empty_input"] == 1 and output["acceptance"] is None
    )
    assert set(output["metrics"]["accuracy"]) >= {"value", "low", "high"}
    assert {"accepted.csv", "review.csv"} <= set(output["files"])
    assert not list(read_table(run_folder / "accepted.csv"))
    assert [row["corrected"] for row in read_table(run_folder / "review.csv")] == [""] * 5
    assert "acceptance_refused" in output and output["gold"] == {
        "rows": 5,
        "missing": 0,
        "unknown": 0,
        "left_out": {},
    }


@pytest.mark.slow
def test_a_foreign_table_gets_a_folder_of_its_own(
    medtask: RunCommand, project_folder: Path
) -> None:
    write_table(project_folder / "other.csv", 2000, sharpness=1.0)
    shown = medtask("evaluate", "other.csv", "--max-error", "0.1", "--no-baselines", "--json")
    output = json.loads(shown.out)
    assert {"threshold", "coverage", "max_error", "confidence"} <= set(output["acceptance"])
    assert output["acceptance"]["max_error"] == 0.1 and output["acceptance"]["confidence"] == 0.95
    assert sorted(path.name for path in Path("other-evaluation").iterdir()) == [
        ".lock",
        "accepted.csv",
        "report.html",
        "report.json",
        "review.csv",
    ]
    assert output["files"] == ["report.html", "report.json", "accepted.csv", "review.csv"]
    assert Path("other-evaluation/accepted.csv").stat().st_mode & 0o777 == 0o600
    given = ("--max-error", "0.1", "--no-baselines", "--json", "--to", "csv,xlsx")
    files = json.loads(medtask("evaluate", "other.csv", *given).out)["files"]
    assert {"accepted.csv", "review.csv", "accepted.xlsx", "review.xlsx"} <= set(files)
    for name in ("accepted", "review"):
        csv_ids, xlsx_ids = (
            [str(row["id"]) for row in read_table(f"other-evaluation/{name}.{suffix}")]
            for suffix in ("csv", "xlsx")
        )
        assert csv_ids == xlsx_ids
    assert medtask("evaluate", "other.csv", "--to", "docx").code == 2


def run_with_gold(medtask: RunCommand) -> None:
    """Write a table of 300 rows with gold, and run the task on it; the run's folder is out."""
    rows = [
        f"B{row},operation {row} of {row % 17},{('curative', 'palliative', 'staging')[row % 3]}"
        for row in range(300)
    ]
    Path("procedures.csv").write_text("\n".join(["case_id,procedure,purpose", *rows]))
    medtask("run", "surgery", "--model", "fake:", "--out", "out", "-q")


def test_a_calibration_is_stored_beside_the_task_and_used_by_the_next_run(
    medtask: RunCommand, project_folder: Path
) -> None:
    run_with_gold(medtask)
    shown = medtask("evaluate", "out", "--calibrate", "temperature", "--no-baselines")
    assert "surgery/calibration.json" in shown.out and "temperature" in shown.out
    again = medtask("run", "surgery", "--model", "fake:", "--out", "out")
    assert "probabilities are calibrated, as fitted on 300 rows of out" in again.err
    assert (
        "calibrated"
        not in medtask("run", "surgery", "--model", "fake:", "--out", "out", "--uncalibrated").err
    )


def test_the_report_shows_the_audit_and_both_sets_of_rows(
    medtask: RunCommand, project_folder: Path
) -> None:
    run_with_gold(medtask)
    medtask("audit", "out", "--budget", 40)
    assert medtask("evaluate", "out", "--no-baselines").code == 0
    assert "What does the audit say" not in Path("out/report.html").read_text()
    fill_labels(Path("out/audit/sample.csv"), "curative")
    medtask("evaluate", "out", "--max-error", "0.9", "--no-baselines")
    page = Path("out/report.html").read_text()
    assert "What does the audit say about all rows?" in page and "from 40 rows labelled" in page
    assert "accepted.csv beside this page" in page and page.count("Error among accepted rows") == 1


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (("nothing.csv",), 4, "file not found"),
        (("surgery",), 4, "no table"),
        (("out", "--gold", "purpos"), 2, 'did you mean "purpose"'),
        (("out", "--max-error", "1.5"), 2, "not a share"),
        (("out", "--readers", "one"), 2, "not two"),
        (("out", "--readers", "purpose,purpose"), 2, "not two"),
        (("out", "--readers", "a,b"), 2, "no column"),
        (("out", "--group", "patient"), 4, "no column"),
        (("procedures.csv",), 4, 'no column "answer"'),
    ],
)
def test_mistakes_are_reported_with_what_to_do(
    medtask: RunCommand, run_folder: Path, words: tuple[str, ...], code: int, output: str
) -> None:
    shown = medtask("evaluate", *words)
    assert shown.code == code and output in shown.err and "fix:" in shown.err


def test_calibration_of_what_has_too_little_gold_is_refused_with_a_reason(
    medtask: RunCommand, run_folder: Path
) -> None:
    shown = medtask("evaluate", "out", "--calibrate", "auto")
    assert (
        shown.code == 0
        and "calibration: refused" in shown.out
        and not Path("surgery/calibration.json").exists()
    )


def test_a_calibration_of_another_tools_answers_stays_beside_them(
    medtask: RunCommand, project_folder: Path
) -> None:
    lines = []
    for row in range(300):
        gold = ("curative", "palliative", "staging")[row % 3]
        share = 0.5 + row % 4 / 10
        output = gold if row % 4 else "staging"
        rest = (1 - share) / 2
        shares = ",".join(
            str(share if name == output else rest) for name in ("curative", "palliative", "staging")
        )
        lines.append(f"B{row},{output},{share},{shares},{gold}")
    Path("other.csv").write_text(
        "\n".join(["id,answer,confidence,p:curative,p:palliative,p:staging,gold", *lines])
    )
    shown = medtask(
        "evaluate", "other.csv", "--task", "surgery", "--calibrate", "temperature", "--no-baselines"
    )
    assert (
        shown.code == 0
        and not Path("surgery/calibration.json").exists()
        and Path("other-evaluation/calibration.json").exists()
    )

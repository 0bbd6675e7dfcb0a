"""`medtask compare`: runs of the fake engine and tables of other tools, on the rows that they have
in common.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import SURGERY_TASK
from medtask.engines.fake import FakeEngine
from medtask.runs.local_run import run
from medtask.tasks.load import load_task
from support.command_line import RunCommand, time_signal

LABELS = {"curative": "resection", "palliative": "stent", "staging": "biopsy"}


@pytest.fixture(scope="module")
def compared_systems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same 60 rows, and a table of another tool that lacks five of them and is
    right in the others.
    """
    folder = tmp_path_factory.mktemp("folder")
    chance = random.Random(0)
    truth = [chance.choice(list(LABELS)) for _ in range(60)]
    with (
        (folder / "procedures.csv").open("w") as own,
        (folder / "theirs.csv").open("w") as reference,
    ):
        one, other = csv.writer(own), csv.writer(reference)
        one.writerow(["case_id", "procedure", "purpose", "patient"])
        other.writerow(["case_id", "answer", *(f"p:{label}" for label in LABELS)])
        for row, label in enumerate(truth):
            one.writerow([f"A{row}", f"{LABELS[label]} number {row}", label, f"P{row // 3}"])
            if row >= 5:
                other.writerow(
                    [f"A{row}", label, *(0.8 if label == name else 0.1 for name in LABELS)]
                )
    (folder / "surgery").mkdir()
    (folder / "surgery/task.yaml").write_text(SURGERY_TASK)
    for index, seed in enumerate((1, 2), 1):
        run(
            load_task(folder / "surgery"),
            FakeEngine(seed=seed),
            folder / "procedures.csv",
            out=folder / f"r{index}",
        )
    return folder


@pytest.fixture
def comparison_folder(
    compared_systems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The same, in the current folder."""
    folder = tmp_path / "folder"
    shutil.copytree(compared_systems, folder)
    monkeypatch.chdir(folder)
    return folder


def test_runs_and_a_foreign_table_share_one_leaderboard(
    comparison_folder: Path, medtask: RunCommand
) -> None:
    shown = medtask("compare", "r1", "r2", "theirs.csv", "--no-baselines", "--out", "compared.html")
    assert shown.code == 0, shown.err
    assert shown.out.startswith("theirs has the highest accuracy, 1.000")
    assert "theirs is better than r1" in shown.out
    assert "theirs lacks 5 rows with gold that another system has" in shown.out
    assert "number 1" not in shown.out
    assert "number 1" in Path("compared.html").read_text()
    shown = medtask("compare", "r1", "r2", "theirs.csv", "--no-baselines", "--out", "compared")
    assert "compared/comparison.html" in shown.out
    assert Path("compared/comparison.json").exists()
    assert json.loads(Path("compared.json").read_text())["n"] == 55


def test_json_gives_the_same_task(comparison_folder: Path, medtask: RunCommand) -> None:
    found = json.loads(medtask("compare", "r1", "theirs.csv", "--json", "--no-baselines").out)
    assert (found["kind"], found["n"], found["groups"]) == ("label", 55, None)
    assert [(one["name"], one["family"]) for one in found["systems"]] == [
        ("theirs", "another tool"),
        ("r1", "no model"),
    ]
    assert found["rows"]["absent"] == {"r1": 0, "theirs": 5}
    (pair,) = found["pairs"]
    assert pair["verdict"] == "better"
    assert pair["p_holm"] == pair["p"] == pair["p_rows"]
    assert found["systems"][0]["figures"]["accuracy"]["value"] == 1


def test_baselines_are_computed_from_the_texts_of_the_run(
    comparison_folder: Path, medtask: RunCommand
) -> None:
    found = json.loads(medtask("compare", "theirs.csv", "r1", "--json").out)
    assert {"TF-IDF", "majority"} <= {one["name"] for one in found["systems"] if one["baseline"]}
    assert {pair["n"] for pair in found["baseline_pairs"]} == {55}


def test_groups_and_gold_of_a_file(comparison_folder: Path, medtask: RunCommand) -> None:
    found = json.loads(
        medtask("compare", "r1", "r2", "--group", "patient", "--no-baselines", "--json").out
    )
    assert found["groups"] == 20
    assert found["pairs"][0]["test"] == "randomisation of whole groups"
    Path("gold.csv").write_text("case_id,gold\nA7,staging\nA8,curative\nA9,curative\n")
    shown = medtask("compare", "r1", "theirs.csv", "--gold", "gold.csv", "--no-baselines", "--json")
    assert json.loads(shown.out)["n"] == 3, shown.err


def test_tables_of_other_tools_are_enough(comparison_folder: Path, medtask: RunCommand) -> None:
    Path("one.csv").write_text(
        "id,answer,gold\n"
        + "".join(f"{row},{'yes' if row % 2 else 'no'},yes\n" for row in range(30))
    )
    Path("two.csv").write_text("id,answer\n" + "".join(f"{row},yes\n" for row in range(40)))
    shown = medtask("compare", "one.csv", "two.csv")
    assert shown.code == 0, shown.err
    assert "two is better than one: accuracy differs by 0.500" in shown.out
    assert "simple methods (baseline)" in shown.out
    assert "the rows have no texts" in shown.out


def test_a_price_makes_a_cost(comparison_folder: Path, medtask: RunCommand) -> None:
    found = json.loads(
        medtask(
            "compare", "r1", "theirs.csv", "--price-per-hour", "3.6", "--no-baselines", "--json"
        ).out
    )
    reference, own = found["systems"]
    assert reference["cost_per_1000"] is None
    assert own["cost_per_1000"] == pytest.approx(1 / own["rows_per_s"])


def test_systems_of_one_name_are_distinguished(
    comparison_folder: Path, medtask: RunCommand
) -> None:
    Path("other").mkdir()
    Path("other/theirs.csv").write_text(Path("theirs.csv").read_text())
    found = json.loads(
        medtask("compare", "theirs.csv", "other/theirs.csv", "r1", "--no-baselines", "--json").out
    )
    assert {one["name"] for one in found["systems"]} == {
        f"{comparison_folder.name}/theirs",
        "other/theirs",
        "r1",
    }
    assert found["pairs"][0]["more_rows"] is None


def write_systems(count: int, *, texts: bool, change: Callable[[str], str]) -> None:
    """Two tables of answers, of which the second has changed ids."""
    with Path("one.csv").open("w") as first, Path("two.csv").open("w") as second:
        one, other = csv.writer(first), csv.writer(second)
        one.writerow(["id", "text", "answer", "gold"])
        other.writerow(["id", "text" if texts else "note", "answer"])
        for number in range(count):
            label, name = ("yes", "no")[number % 2], f"{number:04}"
            one.writerow([name, f"text of case {number}", label, label])
            other.writerow([change(name), f"text of case {number}" if texts else "", label])


def test_ids_that_a_spreadsheet_has_changed_are_the_same_rows(
    comparison_folder: Path, medtask: RunCommand
) -> None:
    # Ids from 1000 are equal; before, only these were compared.
    write_systems(1010, texts=False, change=lambda name: str(int(name)))
    shown = json.loads(medtask("compare", "one.csv", "two.csv", "--no-baselines", "--json").out)
    assert shown["n"] == 1010
    assert any("1,000 ids written differently" in note for note in shown["notes"])
    write_systems(
        40, texts=True, change=lambda name: f"{int(name) % 28 + 1}. jan" if "1" in name else name
    )
    shown = json.loads(medtask("compare", "one.csv", "two.csv", "--no-baselines", "--json").out)
    assert shown["n"] == 40


def test_ids_that_may_be_changed_in_two_ways_are_refused(
    comparison_folder: Path, medtask: RunCommand
) -> None:
    Path("one.csv").write_text("id,answer,gold\n01,a,a\n001,b,b\n7,a,a\n8,b,b\n")
    Path("two.csv").write_text("id,answer\n1,a\n7,a\n8,b\n")
    shown = medtask("compare", "one.csv", "two.csv")
    assert shown.code == 4
    assert 'the id "1" of two may be "001" of one' in shown.err
    assert "restore the ids" in shown.err


def test_ids_that_only_one_system_has_are_shown(
    comparison_folder: Path, medtask: RunCommand
) -> None:
    Path("one.csv").write_text("id,answer,gold\nx1,a,a\nx2,b,b\nx3,a,a\n")
    Path("two.csv").write_text("id,answer\nx1,a\nx2,b\ny3,b\n")
    shown = medtask("compare", "one.csv", "two.csv")
    assert shown.code == 0
    assert 'two (first: "y3") is not in one, which has 1 row that two lacks (first: "x3")' in (
        " ".join(shown.out.split())
    )


def test_gold_of_a_file_whose_ids_have_another_name(
    comparison_folder: Path, medtask: RunCommand
) -> None:
    Path("theirs.csv").write_text(Path("theirs.csv").read_text().replace("case_id", "id", 1))
    Path("gold.csv").write_text("case_id,gold\nA7,staging\nA8,curative\nA9,curative\n")
    shown = medtask("compare", "r1", "theirs.csv", "--gold", "gold.csv", "--no-baselines", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["n"] == 3


@pytest.mark.parametrize(
    ("words", "code", "result"),
    [
        (["r1"], 2, "a comparison needs at least two systems"),
        (["r1", "r1/answers.csv"], 2, "is named twice"),
        (["r1", "theirs.csv", "--gold", "nothere"], 2, "nothere"),
        (["r1", "theirs.csv", "--out", "page.pdf"], 2, "page.html"),
        (["r1", "procedures.csv"], 4, 'no column "answer"'),
        (["r1", "missing.csv"], 4, "missing.csv"),
        (["words.csv", "objects.jsonl"], 2, "of the kind fields"),
        (["r1", "doubled.csv"], 4, "row"),
    ],
)
def test_mistakes_are_reported_with_their_remedy(
    comparison_folder: Path, medtask: RunCommand, words: list[str], code: int, result: str
) -> None:
    Path("objects.jsonl").write_text('{"id": "A1", "answer": {"side": "left"}}\n')
    Path("words.csv").write_text("id,answer,gold\nA1,staging,staging\n")
    Path("doubled.csv").write_text("case_id,answer\nA1,staging\nA1,curative\n")
    shown = medtask("compare", *words)
    assert shown.code == code, shown.err
    assert result in shown.err
    assert "fix: " in shown.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.scale)]
)
def test_a_signal_ends_a_comparison_within_seconds(
    comparison_folder: Path, number: signal.Signals
) -> None:
    chance = random.Random(3)
    with Path("one.csv").open("w") as first, Path("two.csv").open("w") as second:
        one, other = csv.writer(first), csv.writer(second)
        one.writerow(["id", "text", "answer", "gold"])
        other.writerow(["id", "answer"])
        for row in range(2_000):
            text = " ".join(str(chance.randrange(5_000)) for _ in range(150))
            one.writerow([row, text, f"label {chance.randrange(24)}", f"label {row % 24}"])
            other.writerow([row, f"label {row % 24}"])
    # The fits of the baseline are functions in C, which no signal interrupts.
    code, seconds = time_signal(
        ["compare", "one.csv", "two.csv"], "Comparing with TF-IDF", number, delay_s=3
    )
    assert code == (130 if number == signal.SIGINT else 143)
    assert seconds < 8  # the limit is 4 s; the machine may be busy

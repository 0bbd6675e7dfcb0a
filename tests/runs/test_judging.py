"""A judge at work on a run's answers: what is written, what is resumed, what is refused, and
servers that fail it.
"""

from __future__ import annotations

import csv
import json
import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medtask.engines.base import EngineInfo
from medtask.engines.fake import FakeEngine
from medtask.engines.http import concurrency as pace
from medtask.engines.http.load import load_http
from medtask.engines.http.probe import PROBE_WORDS
from medtask.engines.load_options import LoadOptions
from medtask.engines.registry import is_installed
from medtask.errors import EngineError, InputError, RunMismatch, UsageError
from medtask.evaluation.report.judge_report import format_judge_metrics
from medtask.evaluation.statistics.judge_metrics import JudgeMetrics
from medtask.evaluation.statistics.pairwise_judge_metrics import PairwiseJudgeMetrics
from medtask.records import BranchScores, Prompt, Scores, Status
from medtask.runs.judging import JudgeResult, judge
from medtask.runs.local_run import run
from medtask.runs.progress import NullRunObserver
from medtask.tasks.load import load_task
from medtask.tasks.rubric import MEDICAL_RUBRIC, Rubric, RubricGrade
from medtask.tasks.serialization import make_minimal_task
from support.fault_server import FaultRule, FaultScript, FaultServer, serve
from support.server_dialects import ServerFeatures
from support.toy_model import ToyModel

ROWS = 24
TASK = """\
name: patients
instruction: Answer the question.
input: "{{ question }}"
id: id
answer: {kind: answer, max_tokens: 50}
"""
SECRET = "Mrs Smith of Elm Street"


class GradingEngine(FakeEngine):
    """Grades by the letter that an answer's number ends in: 5 for even rows, 2 for odd ones."""

    def __init__(self, name: str = "judge", **faults: Any) -> None:
        super().__init__(**faults)
        self.info = EngineInfo(name, name, {"model": name})

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        return [
            one
            if "nan" in str(one.branches[0].logprobs)
            else Scores(one.record_id, (self._grade(prompt),))
            for prompt, one in zip(batch, super().score_batch(batch), strict=True)
        ]

    def _grade(self, prompt: Prompt) -> BranchScores:
        even = "even answer" in prompt.text
        shares = (
            {"1": 0.05, "2": 0.75, "3": 0.1, "4": 0.05, "5": 0.05}
            if not even
            else {"1": 0.0, "2": 0.0, "3": 0.1, "4": 0.2, "5": 0.7}
        )
        return BranchScores(
            tuple(math.log(shares.get(tail, 0.5) or 1e-9) for tail in prompt.branches[0].candidates)
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with free text: row 3 has no reference, and what was written about row 5 is nothing."""
    home = tmp_path / "patients"
    home.mkdir()
    (home / "task.yaml").write_text(TASK)
    table = tmp_path / "questions.csv"
    lines = [
        (
            f"Q{row},Question {row} of "
            f"{SECRET}?,{'' if row == 3 else f'Reference {row}.'},{1 + row % 5}"
        )
        for row in range(1, ROWS + 1)
    ]
    table.write_text("\n".join(["id,question,reference,people", *lines]) + "\n")
    writes = {
        f"Q{row}": f"An {'even' if row % 2 == 0 else 'odd'} answer, the {row}th."
        for row in range(1, ROWS + 1)
    }
    writer = FakeEngine(generated_texts=writes | {"Q5": " "})
    return run(load_task(home), writer, table, out=tmp_path / "run").folder


def judge_run(
    folder: Path, engine: Any, *, rubric: Rubric = MEDICAL_RUBRIC, **options: Any
) -> JudgeResult:
    # The task names no gold: baselines would take their time.
    return judge(folder, engine, rubric=rubric, gold="reference", **options)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def get_judged(result: JudgeResult) -> JudgeMetrics:
    assert isinstance(result.metrics, JudgeMetrics)
    return result.metrics


def test_judging_again_keeps_the_time_of_the_first_start(folder: Path) -> None:
    judge_run(folder, GradingEngine(), limit=5)
    path = folder / "judgements" / "manifest.json"
    first = "2026-01-01T00:00:00+00:00"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created": first}))
    judge_run(folder, GradingEngine())
    assert json.loads((folder / "judgements.json").read_text())["created"] == first


def test_every_answer_gets_a_line(folder: Path) -> None:
    result = judge_run(folder, GradingEngine())
    lines = read_csv(result.table)
    assert [line["id"] for line in lines] == [f"Q{row}" for row in range(1, ROWS + 1)]
    assert {line["grade"] for line in lines} == {"2", "5", ""}
    assert [(line["id"], line["status"]) for line in lines if not line["grade"]] == [
        ("Q3", "empty_input"),
        ("Q5", "empty_input"),
    ]
    assert lines[1]["expected_grade"] == "4.6"
    judged = get_judged(result)
    assert (
        judged.n,
        judged.missing.unanswered,
        judged.missing.unreferenced,
        judged.missing.failed,
    ) == (ROWS - 2, 1, 1, 0)
    assert judged.grades == {"1": 0, "2": 10, "3": 0, "4": 0, "5": 12}
    assert judged.mean and judged.mean.value == pytest.approx((10 * 2 + 12 * 5) / 22)
    output = json.loads((folder / "judgements.json").read_text())
    assert output["metrics"]["mean"]["value"] == judged.mean.value
    assert output["against_people"] is None


def test_no_text_of_a_record_is_kept_by_a_judge(folder: Path) -> None:
    result = judge_run(folder, GradingEngine(nan={"7"}))
    written = [result.table, folder / "judgements.json", *(folder / "judgements").iterdir()]
    assert len(written) >= 4
    assert not [
        path
        for path in written
        if b"Elm Street" in path.read_bytes() or b"even answer" in path.read_bytes()
    ]
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_a_failed_judgement_is_counted_and_no_number(folder: Path) -> None:
    result = judge_run(folder, GradingEngine(nan={"2", "4"}), max_error_rate=0.5)
    judged = get_judged(result)
    assert (judged.missing.failed, judged.n, judged.missing_rate) == (2, ROWS - 4, 2 / (ROWS - 2))
    assert judged.mean and judged.mean.n == ROWS - 4
    assert [line["grade"] for line in read_csv(result.table) if line["status"] == "failed"] == [
        "",
        "",
    ]
    assert result.exit_code == 0
    assert judge_run(folder, GradingEngine(nan={"2", "4"}), max_error_rate=0.01).exit_code == 3


def test_a_judge_that_fails_always_gives_no_figure(folder: Path) -> None:
    result = judge_run(
        folder, GradingEngine(nan={str(row) for row in range(ROWS + 1)}), human="people"
    )
    judged = get_judged(result)
    assert (judged.n, judged.mean, judged.acceptable, judged.missing_rate) == (0, None, None, 1.0)
    assert judged.human_agreement and (
        judged.human_agreement.n,
        judged.human_agreement.lost,
        judged.human_agreement.kappa,
    ) == (0, ROWS, None)
    assert result.exit_code == 3


def test_rows_that_the_prompt_shows_are_not_in_the_figures(folder: Path, tmp_path: Path) -> None:
    examples = "".join(
        f'  - {{question: "question {row} of {SECRET}?", answer: "Reference {row}."}}\n'
        for row in (2, 4)
    )
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "task.yaml").write_text(f"{TASK}examples:\n{examples}")
    task = load_task(tmp_path / "shown")
    writes = {f"Q{row}": f"An even answer, the {row}th." for row in range(1, ROWS + 1)}
    shown = run(
        task, FakeEngine(generated_texts=writes), tmp_path / "questions.csv", out=tmp_path / "b"
    ).folder
    result = judge_run(shown, GradingEngine(), human="people")
    metrics = get_judged(result)
    assert metrics.n == ROWS - 3  # row 3 has no reference
    assert metrics.to_json()["left_out"] == {"example": 2}
    assert metrics.human_agreement is not None
    assert metrics.human_agreement.n == ROWS - 3
    assert metrics.human_agreement.lost == 1
    lines = format_judge_metrics(metrics)
    assert any("left out of the metrics: 2 rows are examples" in line for line in lines)
    assert {line["id"]: line for line in read_csv(result.table)}["Q2"]["grade"] == "5"
    # A pair is left out if it is not new to one of the systems.
    pairs = judge_run(
        folder, GradingEngine(), against=shown, out=folder / "pairs.csv", max_error_rate=1.0
    ).metrics
    assert isinstance(pairs, PairwiseJudgeMetrics)
    assert pairs.to_json()["left_out"] == {"example": 2}


def test_nothing_is_asked_twice(folder: Path) -> None:
    broken = GradingEngine(fails_after=9, batch=1)
    with pytest.raises(EngineError, match="failed"):
        judge_run(folder, broken)
    engine = GradingEngine(batch=1)
    result = judge_run(folder, engine)
    assert 0 < engine.prompt_count < ROWS - 2
    again = GradingEngine()
    full = judge_run(folder, again, human="people")  # people's grades come later, and cost nothing
    assert (again.prompt_count, full.new_judgements) == (0, 0)
    assert get_judged(full).mean == get_judged(result).mean
    assert get_judged(full).human_agreement


def test_a_signal_stops_it_and_the_same_command_goes_on(folder: Path) -> None:
    class StoppingProgress(NullRunObserver):
        def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
            signal.raise_signal(signal.SIGINT)

    stopped = judge_run(folder, GradingEngine(), progress=StoppingProgress())
    assert (stopped.state, stopped.metrics, stopped.exit_code) == ("interrupted", None, 130)
    assert not stopped.table.exists()
    engine = GradingEngine()
    assert get_judged(judge_run(folder, engine)).n == ROWS - 2
    assert engine.prompt_count == 0  # all was safe on the disk when the signal came


def test_a_larger_limit_goes_on(folder: Path) -> None:
    first, second = GradingEngine(batch=1), GradingEngine(batch=1)
    assert get_judged(judge_run(folder, first, limit=8)).n == 6
    assert get_judged(judge_run(folder, second)).n == ROWS - 2
    assert first.prompt_count + second.prompt_count == ROWS - 2


def test_another_judge_or_rubric_needs_another_place(folder: Path) -> None:
    judge_run(folder, GradingEngine())
    with pytest.raises(RunMismatch) as caught:
        judge_run(folder, GradingEngine("another"))
    assert "--out" in caught.value.fix
    rubric = Rubric(
        "short",
        "Grade it.",
        (RubricGrade("bad", "wrong", 1), RubricGrade("good", "right", 2)),
        "good",
    )
    with pytest.raises(RunMismatch):
        judge_run(folder, GradingEngine(), rubric=rubric)
    assert judge_run(folder, GradingEngine("another"), out=folder / "second.csv").table.exists()


def test_a_model_does_not_judge_itself(folder: Path) -> None:
    with pytest.raises(UsageError, match="itself") as caught:
        judge_run(folder, FakeEngine(seed=3))
    assert "--allow-self" in caught.value.fix
    assert not (folder / "judgements.csv").exists()
    assert judge_run(folder, FakeEngine(seed=3), allow_self=True).table.exists()


def test_people_and_judge_are_combined(folder: Path) -> None:
    against = get_judged(judge_run(folder, GradingEngine(), human="people")).human_agreement
    assert against and against.sensitivity and against.specificity
    assert (against.n, against.lost) == (ROWS - 2, 2)
    graded = [row for row in range(1, ROWS + 1) if row not in (3, 5)]
    good = [row for row in graded if 1 + row % 5 >= 4]
    assert against.sensitivity.value == pytest.approx(sum(row % 2 == 0 for row in good) / len(good))


def test_people_s_grades_can_come_from_a_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "grades.csv"
    path.write_text("id,grade\nQ2,5.0\nQ4,1\nQ6,\n")
    against = get_judged(judge_run(folder, GradingEngine(), human=str(path))).human_agreement
    assert against and against.n == 2


@pytest.mark.parametrize(
    ("cell", "message"),
    [("excellent", "are not grades of the rubric"), ("6", "are not grades of the rubric")],
)
def test_people_s_grades_are_those_of_the_rubric(
    folder: Path, tmp_path: Path, cell: str, message: str
) -> None:
    path = tmp_path / "grades.csv"
    path.write_text(f"id,grade\nQ2,{cell}\n")
    with pytest.raises(InputError, match=message) as caught:
        judge_run(folder, GradingEngine(), human=str(path))
    assert "excellent" not in str(caught.value)


def test_two_runs_are_compared_in_both_orders(folder: Path, tmp_path: Path) -> None:
    writes = {
        f"Q{row}": f"An {'odd' if row % 4 == 0 else 'even'} answer, the {row}th."
        for row in range(1, ROWS + 1)
    }
    task = load_task(tmp_path / "patients")
    rival = run(
        task, FakeEngine(generated_texts=writes), tmp_path / "questions.csv", out=tmp_path / "rival"
    ).folder

    class ComparingEngine(GradingEngine):
        def _grade(self, prompt: Prompt) -> BranchScores:
            first = (
                prompt.text.index("even answer") < prompt.text.index("[begin of the answer B")
                if "even answer" in prompt.text
                else True
            )
            return BranchScores(
                (math.log(0.9), math.log(0.1)) if first else (math.log(0.1), math.log(0.9))
            )

    engine = ComparingEngine(nan={"7 swapped"})
    result = judge_run(
        folder, engine, against=rival, out=folder / "preferences.csv", max_error_rate=0.5
    )
    assert isinstance(result.metrics, PairwiseJudgeMetrics)
    rows = [row for row in range(1, ROWS + 1) if row not in (3, 5, 7)]
    wins = [row for row in rows if row % 4 == 0]  # ours is even, the rival odd
    same = [row for row in rows if row % 4 == 2]
    assert (result.metrics.wins, result.metrics.losses, result.metrics.same) == (
        len(wins),
        len(rows) - len(wins) - len(same),
        len(same),
    )
    assert (
        result.metrics.first_position_ties,
        result.metrics.second_position_ties,
        result.metrics.missing.failed,
    ) == (0, 0, 1)
    lines = {line["id"]: line for line in read_csv(result.table)}
    assert lines["Q4"]["winner"] == "run"
    assert lines["Q1"]["winner"] == "rival"
    assert lines["Q7"]["winner"] == ""
    assert engine.prompt_count == 2 * (len(rows) - len(same)) + 2


def test_a_judge_of_the_place_decides_nothing(folder: Path, tmp_path: Path) -> None:
    task = load_task(tmp_path / "patients")
    rival = run(task, FakeEngine(seed=9), tmp_path / "questions.csv", out=tmp_path / "rival").folder
    result = judge_run(
        folder,
        FakeEngine({"A": 0.9}),
        against=rival,
        out=folder / "preferences.csv",
        allow_self=True,
    )
    assert isinstance(result.metrics, PairwiseJudgeMetrics)
    assert (result.metrics.wins, result.metrics.losses, result.metrics.first_position_ties) == (
        0,
        0,
        ROWS - 2,
    )
    assert result.metrics.by_place and result.metrics.by_place.value == 1.0
    assert result.metrics.win_rate and result.metrics.win_rate.value == 0.5


def write_table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "answers.csv"
    path.write_text(text)
    return path


def test_answers_of_another_tool_are_judged_too(tmp_path: Path) -> None:
    table = write_table(tmp_path, "id,answer,gold\n1,an even answer,yes\n2,an odd answer,no\n")
    found = judge(table, GradingEngine(), out=tmp_path / "judged.csv").metrics
    assert isinstance(found, JudgeMetrics) and found.n == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,answer,gold\n1,,yes\n2,,no\n", "has no answer to judge"),
        ("id,answer\n1,one\n2,two\n", "no row has one"),
    ],
)
def test_what_cannot_be_judged_at_all_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge(write_table(tmp_path, text), GradingEngine(), out=tmp_path / "judged.csv")


def test_labels_are_not_for_a_judge(tmp_path: Path) -> None:
    table = write_table(tmp_path, "id,answer,gold\n1,a,a\n2,b,b\n")
    task = make_minimal_task("letters", "label", ["a", "b"])
    with pytest.raises(UsageError, match="of the kind label"):
        judge(table, GradingEngine(), task=task, out=tmp_path / "judged.csv")


def test_records_of_patients_go_to_no_other_machine(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["task"]["question"]["phi"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    engine = GradingEngine()
    engine.info = EngineInfo(
        "http", "far away", {"model": "far"}, destinations={"https://far": ("192.0.2.1",)}
    )
    with pytest.raises(UsageError, match="phi: true"):
        judge_run(folder, engine)


@contextmanager
def open_fault_engine(rules: Sequence[FaultRule] = (), **features: Any) -> Iterator[Any]:
    server = FaultServer(
        "openai", ToyModel([*PROBE_WORDS, *"12345", *"47AB"]), ServerFeatures(**features)
    )
    with serve(server) as url:
        engine = load_http(f"{url}/v1", LoadOptions(deadline_s=5.0))
        server.script = FaultScript(rules, seed=1)
        try:
            yield engine
        finally:
            engine.close()


@pytest.mark.skipif(not is_installed("http"), reason="the http engine is not installed")
@pytest.mark.parametrize(
    ("rules", "features"),
    [
        ([FaultRule("null_content", rate=0.5)], {}),  # every second judgement is nothing
        (
            [FaultRule("status", rate=0.5, status=500)],
            {},
        ),  # every second call fails: it is tried again
        (
            [],
            {"response_format": "ignored", "logprobs": False},
        ),  # a judge that writes what it likes: prose, other scales
        ([FaultRule("cut_json", rate=0.5)], {}),
    ],
)
def test_a_server_that_fails_or_talks_costs_judgements_and_invents_none(
    folder: Path,
    rules: Sequence[FaultRule],
    features: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "MAX_DELAY_S", 0.002)
    with open_fault_engine(rules, **features) as engine:
        result = judge_run(folder, engine, human="people")
    judged, lines = get_judged(result), read_csv(result.table)
    assert judged.n + judged.missing.failed == ROWS - 2
    graded = [line for line in lines if line["grade"]]
    assert len(graded) == judged.n
    assert {line["grade"] for line in graded} <= set(MEDICAL_RUBRIC.grade_names)
    others = [line for line in lines if not line["grade"]]
    assert {line["status"] for line in others} <= {
        Status.FAILED,
        Status.UNPARSABLE,
        Status.EMPTY_INPUT,
    }
    assert all(line["reason"] for line in others)
    assert judged.mean is None or judged.mean.value == pytest.approx(
        sum(float(line["grade"]) for line in graded) / len(graded)
    )
    assert judged.human_agreement and judged.human_agreement.n == judged.n
    assert result.exit_code == (3 if judged.missing_rate and judged.missing_rate > 0.05 else 0)

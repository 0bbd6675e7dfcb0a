from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

import medtask
from medtask.errors import EngineError, TaskFaults, UsageError
from medtask.records import LeftOut
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from medtask.tasks.row_fingerprints import write_fingerprints
from medtask.training.search.prompt_tuning import (
    PromptTuningOptions,
    PromptTuningResult,
    SearchTarget,
    tune_prompt,
    write_tuned_task,
)
from medtask.training.search.search_budget import SearchBudget
from medtask.training.search.search_data import SearchData, build_search_data
from support.prompt_search import (
    PromptSensitiveEngine,
    RecordingSearchObserver,
    make_table,
    prefers_care,
    prefers_examples,
    prefers_nothing,
    write_task,
)

INSTRUCTION_PROPOSALS = (
    "```\nDecide.\n```",
    "no fences here",
    "```\nDecide it carefully, by its aim.\n```",
)


def tune_planted_words(
    parts: SearchData,
    engine: PromptSensitiveEngine,
    *whats: SearchTarget,
    budget_s: float = 3600.0,
    log: RecordingSearchObserver | None = None,
    **options: bool,
) -> PromptTuningResult:
    return tune_prompt(
        parts,
        engine,
        whats,
        SearchBudget(budget_s, now=engine.clock),
        log or RecordingSearchObserver(),
        PromptTuningOptions(**options),
    )  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_planted_gain_is_found_and_written_with_what_was_measured(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    engine = PromptSensitiveEngine(
        lambda prompt: prefers_care(prompt) or prefers_examples(prompt),
        accuracy=1.0,
        proposals=INSTRUCTION_PROPOSALS,
    )
    tuned = tune_planted_words(
        build_search_data(task, make_table(160)), engine, "examples", "prompt"
    )
    assert tuned.gain is not None
    assert tuned.gain.is_significant
    assert tuned.gain.value.value > 0.3
    path = tmp_path / "task.tuned.yaml"
    write_tuned_task(path, tuned)
    head, _, rest = path.read_text().partition("\n")
    assert head.startswith("# tuned by medtask tune on 20")
    assert tuned.gain.describe() in head
    assert rest.startswith("# What is the operation for?")
    assert load_task(path).fingerprint != task.fingerprint
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "task.tuned.rows.json",
        "task.tuned.yaml",
        "task.yaml",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_is_no_gain(tmp_path: Path, seed: int) -> None:
    """The engine answers at random, whatever it is asked: something always does better on
    validation, and never on the test.
    """
    engine = PromptSensitiveEngine(
        prefers_nothing,
        proposals=tuple(f"```\nDecide in the way number {number}.\n```" for number in range(60)),
    )
    engine.varies_by_prompt = True
    tuned = tune_planted_words(
        build_search_data(write_task(tmp_path), make_table(240, seed=seed), seed=seed),
        engine,
        "examples",
        "prompt",
    )
    assert tuned.changed
    assert tuned.before is not None
    assert tuned.after is not None
    assert tuned.after > tuned.before
    assert tuned.gain is not None
    assert not tuned.gain.is_significant
    assert tuned.task_text is None
    assert tuned.summarize().startswith("No significant gain on these rows: accuracy 0.")


def test_where_nothing_is_better_the_test_rows_stay_unused(tmp_path: Path) -> None:
    parts = build_search_data(write_task(tmp_path), make_table(160))
    engine = PromptSensitiveEngine(prefers_nothing, proposals=("```\nOther words.\n```",))
    tuned = tune_planted_words(parts, engine, "prompt")
    assert (tuned.changed, tuned.gain, tuned.task_text) == ((), None, None)
    assert "Nothing was better" in tuned.summarize()
    assert not {example.prompt.text for example in parts.test} & set(engine.scored_texts)


def test_no_search_sees_a_row_of_the_test(tmp_path: Path) -> None:
    """Whatever is asked before the last stage, and whatever a proposer reads, holds no test row;
    then each is asked twice.
    """
    parts = build_search_data(write_task(tmp_path), make_table(160))
    engine = PromptSensitiveEngine(prefers_care, accuracy=1.0, proposals=INSTRUCTION_PROPOSALS)
    before: list[str] = []

    class _StageObserver(RecordingSearchObserver):
        def on_stage(self, text: str) -> None:
            if "test rows" in text:
                before.extend([*engine.scored_texts, *engine.generation_texts])

    tuned = tune_planted_words(parts, engine, "examples", "prompt", log=_StageObserver())
    assert tuned.gain is not None
    texts = [example.prompt.text for example in parts.test]
    searched = "\n".join(before)
    assert searched
    assert not any(text in searched for text in texts)
    assert all(engine.scored_texts.count(text) == 2 for text in texts)
    assert tuned.task_text is not None
    assert not any(text in tuned.task_text for text in texts)


def test_the_budget_is_kept_within_one_candidate(tmp_path: Path) -> None:
    parts = build_search_data(write_task(tmp_path), make_table(160))
    engine = PromptSensitiveEngine(prefers_nothing)
    engine.seconds_per_row, engine.varies_by_prompt = 2.0, True
    tuned = tune_planted_words(parts, engine, "examples", budget_s=1500)
    assert tuned.ended == "the budget is used up"
    assert tuned.gain is not None
    assert 1000 < engine.clock.seconds <= 1500


def test_a_writer_is_needed_for_instructions_and_not_for_examples(tmp_path: Path) -> None:
    parts = build_search_data(write_task(tmp_path), make_table(120))
    engine = PromptSensitiveEngine(prefers_examples, accuracy=1.0)
    engine.caps = type(engine.caps)(score="exact")
    log = RecordingSearchObserver()
    tuned = tune_planted_words(parts, engine, "examples", "prompt", log=log)
    assert tuned.changed == ("examples",)
    assert any("cannot write" in note for note in log.notes)
    with pytest.raises(EngineError, match="cannot write"):
        tune_planted_words(parts, engine, "prompt")


def test_texts_of_patients_stay_out_of_a_task_file_unless_allowed(tmp_path: Path) -> None:
    parts = build_search_data(write_task(tmp_path, "phi: true\n"), make_table(120))
    engine = PromptSensitiveEngine(prefers_examples, accuracy=1.0)
    with pytest.raises(UsageError) as caught:
        tune_planted_words(parts, engine, "examples")
    assert "--acknowledge-phi" in caught.value.fix
    assert engine.prompt_count == 0
    assert tune_planted_words(parts, engine, "examples", allow_phi=True).task_text is not None


def test_what_shows_no_gain_is_written_only_where_that_is_wanted(tmp_path: Path) -> None:
    engine = PromptSensitiveEngine(prefers_nothing)
    engine.varies_by_prompt = True
    parts = build_search_data(write_task(tmp_path), make_table(120))
    tuned = tune_planted_words(parts, engine, "examples", keep_anyway=True)
    assert tuned.gain is not None
    assert not tuned.gain.is_significant
    assert (tuned.task_text or "").startswith(
        "# tuned by medtask tune, without a significant gain, on 20"
    )


def test_a_signal_ends_the_search_and_the_gain_of_the_best_so_far_is_not_known(
    tmp_path: Path,
) -> None:
    engine = PromptSensitiveEngine(prefers_examples, accuracy=1.0)
    parts = build_search_data(write_task(tmp_path), make_table(120))

    class _InterruptingObserver(RecordingSearchObserver):
        def on_trial(self, trial: object) -> None:
            if getattr(trial, "best", 0) > 0.8:
                os.kill(os.getpid(), signal.SIGINT)

    tuned = tune_planted_words(parts, engine, "examples", "prompt", log=_InterruptingObserver())
    assert tuned.interrupted
    assert tuned.ended == "it was stopped"
    assert tuned.changed
    assert tuned.gain is None
    assert tuned.task_text is None
    assert "its gain is not known" in tuned.summarize()


def test_a_search_that_is_stopped_at_once_claims_nothing(tmp_path: Path) -> None:
    parts = build_search_data(write_task(tmp_path), make_table(120))

    class _InterruptingObserver(RecordingSearchObserver):
        def on_stage(self, text: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    tuned = tune_planted_words(
        parts, PromptSensitiveEngine(prefers_nothing), "examples", log=_InterruptingObserver()
    )
    assert (tuned.trials, tuned.before, tuned.gain) == (0, None, None)
    assert "Nothing but the original task was tried" in tuned.summarize()


@pytest.mark.slow
def test_rows_that_chose_the_words_are_left_out_of_all_figures(tmp_path: Path) -> None:
    table = make_table(160)
    parts = build_search_data(write_task(tmp_path), table)
    engine = PromptSensitiveEngine(prefers_examples, accuracy=1.0)
    tuned = tune_planted_words(parts, engine, "examples")
    path = tmp_path / "task.tuned.yaml"
    write_tuned_task(path, tuned)
    rows_file = tmp_path / "task.tuned.rows.json"
    assert stat.S_IMODE(rows_file.stat().st_mode) == 0o600
    assert not any(example.prompt.text in rows_file.read_text() for example in parts.train)
    task = load_task(path)
    shown = len(task.examples)
    expected = {LeftOut.EXAMPLE: shown, LeftOut.TUNING: 120 - shown}
    run = medtask.run(task, engine, table, out=tmp_path / "run")
    assert run.summary is not None
    assert run.summary.gold is not None
    assert run.summary.gold.left_out == expected
    assert run.summary.gold.rows == len(parts.test) == 40
    evaluation = medtask.evaluate(tmp_path / "run", calibrate="temperature")
    assert evaluation.metrics == run.metrics
    assert "were used to choose the words of the task" in (
        tmp_path / "run" / "report.html"
    ).read_text(encoding="utf-8")
    medtask.run(write_task(tmp_path), engine, table, out=tmp_path / "before")
    comparison = medtask.compare([tmp_path / "run", tmp_path / "before"])
    assert comparison.n == 40
    medtask.audit(tmp_path / "run", budget=40)
    sampled = read_table(tmp_path / "run" / "audit" / "sample.csv").rows()
    tested = {example.record.id for example in parts.test}
    assert {row["id"] for row in sampled} == tested


def test_the_list_of_rows_does_not_change_what_a_task_asks(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    write_fingerprints(tmp_path / "rows.json", ())
    assert write_task(tmp_path, "tuning_rows: rows.json\n").fingerprint == task.fingerprint


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is not found"), ('{"format": 1}', "is not valid")]
)
def test_a_tuned_task_without_the_list_of_its_rows_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "rows.json").write_text(content)
    with pytest.raises(TaskFaults, match=message) as caught:
        write_task(tmp_path, "tuning_rows: rows.json\n")
    assert caught.value.faults[0].line == 16


def test_a_task_that_is_tuned_again_keeps_the_rows_that_chose_its_earlier_words(
    tmp_path: Path,
) -> None:
    engine = PromptSensitiveEngine(prefers_examples, accuracy=1.0)
    first = build_search_data(write_task(tmp_path), make_table(120))
    write_tuned_task(tmp_path / "a.yaml", tune_planted_words(first, engine, "examples"))
    second = build_search_data(load_task(tmp_path / "a.yaml"), make_table(120, seed=2))
    engine.wants = prefers_care
    engine.proposals = INSTRUCTION_PROPOSALS
    tuned = tune_planted_words(second, engine, "prompt")
    assert [len(rows.questions) for rows in tuned.searched_rows] == [180, 180]

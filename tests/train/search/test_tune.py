from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from medtask.errors import EngineError, UsageError
from medtask.tasks.load import load_task
from medtask.train.search.clock import Clock
from medtask.train.search.parts import Parts, divide_rows
from medtask.train.search.tune import Tuned, What, tune_words, write_tuned
from train.search.planted import (
    Log,
    PlantedEngine,
    make_table,
    never,
    wants_care,
    wants_examples,
    write_task,
)

CARE = ("```\nDecide.\n```", "no fences here", "```\nDecide it carefully, by its aim.\n```")


def tune(
    parts: Parts,
    engine: PlantedEngine,
    *whats: What,
    budget_s: float = 3600.0,
    log: Log | None = None,
    **options: bool,
) -> Tuned:
    return tune_words(
        parts, engine, whats, Clock(budget_s, now=engine.hands), log or Log(), **options
    )  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_planted_gain_is_found_and_written_with_what_was_measured(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    engine = PlantedEngine(
        lambda prompt: wants_care(prompt) or wants_examples(prompt), good=1.0, proposals=CARE
    )
    tuned = tune(divide_rows(task, make_table(160)), engine, "examples", "prompt")
    assert tuned.gain is not None
    assert tuned.gain.shown
    assert tuned.gain.value.value > 0.3
    path = tmp_path / "task.tuned.yaml"
    write_tuned(path, tuned)
    head, _, rest = path.read_text().partition("\n")
    assert head.startswith("# tuned by medtask tune on 20")
    assert tuned.gain.tell() in head
    assert rest.startswith("# What is the operation for?")
    assert load_task(path).fingerprint != task.fingerprint
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["task.tuned.yaml", "task.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_is_no_gain(tmp_path: Path, seed: int) -> None:
    """The engine answers at random, whatever it is asked: something always does better on
    validation, and never on the test.
    """
    engine = PlantedEngine(
        never,
        proposals=tuple(f"```\nDecide in the way number {number}.\n```" for number in range(60)),
    )
    engine.shaken = True
    tuned = tune(
        divide_rows(write_task(tmp_path), make_table(240, seed=seed), seed=seed),
        engine,
        "examples",
        "prompt",
    )
    assert tuned.changed
    assert tuned.before is not None
    assert tuned.after is not None
    assert tuned.after > tuned.before
    assert tuned.gain is not None
    assert not tuned.gain.shown
    assert tuned.text is None
    assert tuned.verdict().startswith("No gain that these rows can show: accuracy 0.")


def test_where_nothing_is_better_the_test_rows_stay_unused(tmp_path: Path) -> None:
    parts = divide_rows(write_task(tmp_path), make_table(160))
    engine = PlantedEngine(never, proposals=("```\nOther words.\n```",))
    tuned = tune(parts, engine, "prompt")
    assert (tuned.changed, tuned.gain, tuned.text) == ((), None, None)
    assert "Nothing did better" in tuned.verdict()
    assert not {lesson.prompt.text for lesson in parts.test} & set(engine.seen)


def test_no_search_sees_a_row_of_the_test(tmp_path: Path) -> None:
    """Whatever is asked before the last stage, and whatever a proposer reads, holds no test row;
    then each is asked twice.
    """
    parts = divide_rows(write_task(tmp_path), make_table(160))
    engine = PlantedEngine(wants_care, good=1.0, proposals=CARE)
    before: list[str] = []

    class _Watching(Log):
        def on_stage(self, text: str) -> None:
            if "test rows" in text:
                before.extend([*engine.seen, *engine.read])

    tuned = tune(parts, engine, "examples", "prompt", log=_Watching())
    assert tuned.gain is not None
    texts = [lesson.prompt.text for lesson in parts.test]
    searched = "\n".join(before)
    assert searched
    assert not any(text in searched for text in texts)
    assert all(engine.seen.count(text) == 2 for text in texts)
    assert tuned.text is not None
    assert not any(text in tuned.text for text in texts)


def test_the_budget_is_kept_within_one_candidate(tmp_path: Path) -> None:
    parts = divide_rows(write_task(tmp_path), make_table(160))
    engine = PlantedEngine(never)
    engine.seconds_per_row, engine.shaken = 2.0, True
    tuned = tune(parts, engine, "examples", budget_s=1500)
    assert tuned.ended == "the budget is used up"
    assert tuned.gain is not None
    assert 1000 < engine.hands.seconds <= 1500


def test_a_writer_is_needed_for_instructions_and_not_for_examples(tmp_path: Path) -> None:
    parts = divide_rows(write_task(tmp_path), make_table(120))
    engine = PlantedEngine(wants_examples, good=1.0)
    engine.caps = type(engine.caps)(score="exact")
    log = Log()
    tuned = tune(parts, engine, "examples", "prompt", log=log)
    assert tuned.changed == ("examples",)
    assert any("cannot write" in note for note in log.notes)
    with pytest.raises(EngineError, match="cannot write"):
        tune(parts, engine, "prompt")


def test_texts_of_patients_stay_out_of_a_task_file_unless_somebody_says_so(tmp_path: Path) -> None:
    parts = divide_rows(write_task(tmp_path, "phi: true\n"), make_table(120))
    engine = PlantedEngine(wants_examples, good=1.0)
    with pytest.raises(UsageError) as caught:
        tune(parts, engine, "examples")
    assert "--acknowledge-phi" in caught.value.fix
    assert engine.asked == 0
    assert tune(parts, engine, "examples", allow_phi=True).text is not None


def test_what_shows_no_gain_is_written_only_where_that_is_wanted(tmp_path: Path) -> None:
    engine = PlantedEngine(never)
    engine.shaken = True
    parts = divide_rows(write_task(tmp_path), make_table(120))
    tuned = tune(parts, engine, "examples", keep_anyway=True)
    assert tuned.gain is not None
    assert not tuned.gain.shown
    assert (tuned.text or "").startswith(
        "# tuned by medtask tune, without a gain that the rows could show, on 20"
    )


def test_a_signal_ends_the_search_and_the_best_so_far_is_measured(tmp_path: Path) -> None:
    engine = PlantedEngine(wants_examples, good=1.0)
    parts = divide_rows(write_task(tmp_path), make_table(120))

    class _Stopping(Log):
        def on_trial(self, trial: object) -> None:
            if getattr(trial, "best", 0) > 0.8:
                os.kill(os.getpid(), signal.SIGINT)

    tuned = tune(parts, engine, "examples", "prompt", log=_Stopping())
    assert tuned.interrupted
    assert tuned.ended == "it was stopped"
    assert tuned.gain is not None
    assert tuned.gain.shown


def test_a_search_that_is_stopped_at_once_claims_nothing(tmp_path: Path) -> None:
    parts = divide_rows(write_task(tmp_path), make_table(120))

    class _Stopping(Log):
        def on_stage(self, text: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    tuned = tune(parts, PlantedEngine(never), "examples", log=_Stopping())
    assert (tuned.trials, tuned.before, tuned.gain) == (0, None, None)
    assert "Nothing was tried" in tuned.verdict()

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.errors import UsageError
from medtask.runs.signals import Interrupted, SignalState
from medtask.training.search.candidate_evaluator import MIN_EVALUATION_ROWS, CandidateEvaluator
from medtask.training.search.prompt_candidate import extract_candidate
from medtask.training.search.search_budget import SearchBudget, SearchStopped
from medtask.training.search.search_data import build_search_data
from support.prompt_search import (
    PromptSensitiveEngine,
    RecordingSearchObserver,
    make_evaluator,
    make_table,
    prefers_care,
    prefers_nothing,
    write_task,
)


def test_a_better_candidate_is_kept_and_one_that_is_as_good_is_not(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    bench = make_evaluator(task, PromptSensitiveEngine(prefers_care))
    own = extract_candidate(task)
    better, equal = (
        replace(own, instruction=words) for words in ("Decide carefully.", "Decide very carefully.")
    )
    assert bench.validate(better, "first") > bench.baseline_value + 0.2
    assert bench.validate(equal, "second") == bench.value
    assert bench.best == better
    assert [trial.description for trial in bench.observer.trials] == [
        "original task",
        "first",
        "second",
    ]  # type: ignore[attr-defined]


def test_a_part_of_the_rows_decides_nothing_and_the_same_words_are_asked_once(
    tmp_path: Path,
) -> None:
    task = write_task(tmp_path)
    engine = PromptSensitiveEngine(prefers_care)
    bench = make_evaluator(task, engine)
    candidate = replace(extract_candidate(task), instruction="Decide carefully.")
    assert bench.evaluate(candidate, bench.validation[:30]).value > 0.7
    assert bench.best == extract_candidate(task)
    bench.validate(candidate, "")
    asked = engine.prompt_count
    bench.validate(candidate, "")
    assert engine.prompt_count == asked


def test_the_model_is_not_shown_what_is_right(tmp_path: Path) -> None:
    engine = PromptSensitiveEngine(prefers_nothing)
    make_evaluator(write_task(tmp_path), engine)
    assert not any("purpose: " in text or "gold" in text for text in engine.scored_texts)


def test_a_slow_model_is_asked_fewer_rows_and_leaves_time_for_the_test(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    parts = build_search_data(task, make_table(400))
    engine = PromptSensitiveEngine(prefers_nothing)
    engine.seconds_per_row = 4.0
    bench = CandidateEvaluator(
        task,
        engine,
        parts,
        SearchBudget(3000, now=engine.clock),
        RecordingSearchObserver(),
        SignalState(),
    )
    bench.evaluate_baseline()
    assert MIN_EVALUATION_ROWS <= len(bench.validation) < 100
    assert MIN_EVALUATION_ROWS <= bench.test_rows <= 100
    assert bench.budget.reserved_s > 0
    candidate = extract_candidate(task)
    with pytest.raises(SearchStopped):
        for number in range(10_000):
            bench.validate(replace(candidate, instruction=f"Words {number}."), "")
    assert engine.clock.seconds <= 3000 - bench.budget.reserved_s
    assert engine.clock.seconds + 4.0 * 2 * bench.test_rows <= 3000


def test_a_budget_without_room_for_a_search_is_refused_with_one_that_has(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    engine = PromptSensitiveEngine(prefers_nothing)
    engine.seconds_per_row = 3.0
    bench = CandidateEvaluator(
        task,
        engine,
        build_search_data(task, make_table(160)),
        SearchBudget(200, now=engine.clock),
        RecordingSearchObserver(),
        SignalState(),
    )
    with pytest.raises(UsageError) as caught:
        bench.evaluate_baseline()
    assert "--budget" in caught.value.fix


def test_a_signal_ends_it(tmp_path: Path) -> None:
    bench = make_evaluator(write_task(tmp_path), PromptSensitiveEngine(prefers_nothing))
    bench.signals.number = 2
    with pytest.raises(Interrupted):
        bench.validate(replace(bench.best, instruction="x"), "")

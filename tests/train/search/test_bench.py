from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.errors import UsageError
from medtask.runs.interrupt import Interrupted, Signals
from medtask.train.search.bench import LEAST_ROWS, Bench
from medtask.train.search.candidate import read_candidate
from medtask.train.search.clock import Clock, Halt
from medtask.train.search.parts import divide_rows
from train.search.planted import (
    Log,
    PlantedEngine,
    make_bench,
    make_table,
    never,
    wants_care,
    write_task,
)


def test_a_better_candidate_is_kept_and_one_that_is_as_good_is_not(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    bench = make_bench(task, PlantedEngine(wants_care))
    own = read_candidate(task)
    better, equal = (
        replace(own, instruction=words) for words in ("Decide carefully.", "Decide very carefully.")
    )
    assert bench.validate(better, "first") > bench.base_value + 0.2
    assert bench.validate(equal, "second") == bench.value
    assert bench.best == better
    assert [trial.what for trial in bench.viewer.trials] == ["as it was", "first", "second"]  # type: ignore[attr-defined]


def test_a_part_of_the_rows_decides_nothing_and_the_same_words_are_asked_once(
    tmp_path: Path,
) -> None:
    task = write_task(tmp_path)
    engine = PlantedEngine(wants_care)
    bench = make_bench(task, engine)
    candidate = replace(read_candidate(task), instruction="Decide carefully.")
    assert bench.measure(candidate, bench.validation[:30]).value > 0.7
    assert bench.best == read_candidate(task)
    bench.validate(candidate, "")
    asked = engine.asked
    bench.validate(candidate, "")
    assert engine.asked == asked


def test_the_model_is_not_told_what_is_right(tmp_path: Path) -> None:
    engine = PlantedEngine(never)
    make_bench(write_task(tmp_path), engine)
    assert not any("purpose: " in text or "gold" in text for text in engine.seen)


def test_a_slow_model_is_asked_fewer_rows_and_leaves_time_for_the_test(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    parts = divide_rows(task, make_table(400))
    engine = PlantedEngine(never)
    engine.seconds_per_row = 4.0
    bench = Bench(task, engine, parts, Clock(3000, now=engine.hands), Log(), Signals())
    bench.begin()
    assert LEAST_ROWS <= len(bench.validation) < 100
    assert LEAST_ROWS <= bench.test_rows <= 100
    assert bench.clock.kept_s > 0
    candidate = read_candidate(task)
    with pytest.raises(Halt):
        for number in range(10_000):
            bench.validate(replace(candidate, instruction=f"Words {number}."), "")
    assert engine.hands.seconds <= 3000 - bench.clock.kept_s
    assert engine.hands.seconds + 4.0 * 2 * bench.test_rows <= 3000


def test_a_budget_without_room_for_a_search_is_refused_with_one_that_has(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    engine = PlantedEngine(never)
    engine.seconds_per_row = 3.0
    bench = Bench(
        task,
        engine,
        divide_rows(task, make_table(160)),
        Clock(200, now=engine.hands),
        Log(),
        Signals(),
    )
    with pytest.raises(UsageError) as caught:
        bench.begin()
    assert "--budget" in caught.value.fix


def test_a_signal_ends_it(tmp_path: Path) -> None:
    bench = make_bench(write_task(tmp_path), PlantedEngine(never))
    bench.signals.number = 2
    with pytest.raises(Interrupted):
        bench.validate(replace(bench.best, instruction="x"), "")

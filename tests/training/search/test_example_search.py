from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from medtask.errors import UsageError
from medtask.training.search.example_search import _DemonstrationPool, _mutate_set, search_examples
from medtask.training.search.search_budget import SearchBudget, SearchStopped
from medtask.training.search.search_data import build_search_data
from support.prompt_search import (
    LABELS,
    TASK,
    PromptSensitiveEngine,
    make_evaluator,
    make_table,
    prefers_examples,
    prefers_nothing,
    write_task,
)


def test_examples_that_help_are_found_and_come_from_the_training_rows(tmp_path: Path) -> None:
    engine = PromptSensitiveEngine(prefers_examples, accuracy=1.0)
    bench = make_evaluator(write_task(tmp_path), engine)
    search_examples(bench)
    assert bench.value > bench.baseline_value + 0.3
    shown = {str(example.fields["procedure"]) for example in bench.best.examples or ()}
    assert shown <= {
        str(training_example.record.fields["procedure"]) for training_example in bench.train
    }
    assert {str(example.answer) for example in bench.best.examples or ()} == set(LABELS)


def test_a_search_without_anything_better_tires(tmp_path: Path) -> None:
    bench = make_evaluator(
        write_task(tmp_path), PromptSensitiveEngine(lambda prompt: len(prompt.messages) == 1)
    )
    search_examples(bench)
    assert bench.best.examples is None
    assert bench.evaluated_count < 100


def test_it_ends_with_the_clock(tmp_path: Path) -> None:
    bench = make_evaluator(write_task(tmp_path), PromptSensitiveEngine(prefers_nothing))
    bench.budget = SearchBudget(0.0)
    with pytest.raises(SearchStopped):
        search_examples(bench)


def test_draws_are_balanced_and_changes_are_small(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    pool = _DemonstrationPool(task, build_search_data(task, make_table(160)).train)
    chance = random.Random(5)
    for count in (1, 3, 6, 12):
        answers = [
            str(example.answer) for example in pool.get_examples(pool.sample_indices(count, chance))
        ]
        assert len(answers) == count
        assert (
            max(answers.count(label) for label in LABELS)
            - min(answers.count(label) for label in LABELS)
            <= 1
        )
    drawn = pool.sample_indices(4, chance)
    for _ in range(200):
        changed = _mutate_set(pool, drawn, chance)
        assert 1 <= len(changed) <= 12
        assert len(set(changed)) == len(changed)
        assert len(set(changed) ^ set(drawn)) <= 2
        drawn = changed


def test_a_column_named_answer_is_reported_before_anything_is_asked(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    bench = make_evaluator(task, PromptSensitiveEngine(prefers_nothing))
    bench.task = replace(write_task(tmp_path, text=TASK.replace("{{ procedure }}", "{{ answer }}")))
    with pytest.raises(UsageError, match="answer"):
        search_examples(bench)

from __future__ import annotations

from collections.abc import Callable

import pytest

from medtask.records import Record, Status
from medtask.tasks import dataset_statistics
from medtask.tasks.dataset_statistics import (
    LONGEST_PROMPTS,
    SAMPLE_PROMPTS,
    DatasetStatistics,
    collect_statistics,
)
from medtask.tasks.task import Task


@pytest.fixture
def surgery_task(load_text: Callable[..., Task]) -> Task:
    return load_text(
        'instruction: Decide.\ninput: "{{ procedure }}"\nanswer: {kind: label, labels: [a, b]}\n'
    )


def test_statistics_count_rows_and_keep_a_bounded_sample(surgery_task: Task) -> None:
    statistics = DatasetStatistics()
    lengths = [row % 700 if row % 10 else 0 for row in range(2000)]
    records = [
        Record(str(row), {"procedure": "x" * size}, "staging" if row % 2 else None)
        for row, size in enumerate(lengths)
    ]
    assert list(collect_statistics(surgery_task, records, statistics)) == records
    assert (statistics.rows, statistics.prompt_count, statistics.gold_rows) == (2000, 1800, 1000)
    assert statistics.faults_by_status == {Status.EMPTY_INPUT: 200}
    assert statistics.count_distinct_prompts() == len(set(lengths) - {0})
    assert len(statistics.sample) == SAMPLE_PROMPTS
    assert len({prompt.record_id for prompt in statistics.sample}) == SAMPLE_PROMPTS
    assert [len(prompt.text) for prompt in statistics.longest] == sorted(lengths, reverse=True)[
        :LONGEST_PROMPTS
    ]


@pytest.mark.parametrize(
    ("limit", "selects_examples"),
    [("MAX_BUILT_PROMPTS", False), ("MAX_PROMPTS_WITH_EXAMPLES", True)],
)
def test_prompts_of_a_large_table_are_built_for_a_sample(
    surgery_task: Task, monkeypatch: pytest.MonkeyPatch, limit: str, selects_examples: bool
) -> None:
    monkeypatch.setattr(dataset_statistics, limit, 500)
    texts = [f"stent {row % 1500}" if row % 5 else "" for row in range(5000)]
    records = [Record(str(row), {"procedure": text}) for row, text in enumerate(texts)]
    statistics = DatasetStatistics(len(records), selects_examples=selects_examples)
    assert list(collect_statistics(surgery_task, records, statistics)) == records
    assert statistics.rows == 5000
    assert 400 < statistics.built_rows < 600
    assert statistics.prompt_count == pytest.approx(4000, rel=0.05)
    assert statistics.scale(statistics.faults_by_status[Status.EMPTY_INPUT]) == (
        5000 - statistics.prompt_count
    )
    # 1,200 texts are distinct, and the share of rows with a text is estimated.
    assert statistics.count_distinct_prompts() == pytest.approx(1200 * 0.8, rel=0.06)

"""Baselines keep to their time, compute nothing twice, and say how many rows they used."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medtask.evaluation.baselines.context import (
    BaselineSettings,
    Predictions,
    TimeLimit,
    fingerprint_sample,
)
from medtask.evaluation.baselines.tfidf import (
    MIN_ROWS,
    count_affordable_rows,
    cross_validate_label_sets,
    cross_validate_labels,
)
from medtask.evaluation.baselines.untrained import match_label_sets
from medtask.evaluation.comparison.baselines import run_baselines_with_answers
from medtask.evaluation.kinds.protocols import GoldSample, compute_sample_key
from medtask.evaluation.report.terminal_summary import format_summary_lines
from medtask.evaluation.statistics.significance import describe_sampling
from medtask.similarity import ROWS_AT_ONCE
from support.imaging_run import make_imaging_run

LABELS = [("stone", "stones of the kidney"), ("clot", "thrombosis of a vein")]
ROWS = 3 * ROWS_AT_ONCE
TEXTS = tuple(f"loin pain {n}" if n % 2 else f"swollen calf {n}" for n in range(ROWS))
GOLD = tuple("stone" if n % 2 else "clot" for n in range(ROWS))
SAMPLE = GoldSample(TEXTS, GOLD, GOLD, ((),) * ROWS, (None,) * ROWS)


class MemoryStore:
    """Keeps predictions in memory."""

    def __init__(self) -> None:
        self.samples: dict[str, Predictions] = {}

    def read(self, key: str) -> Predictions:
        return self.samples.get(key, {})

    def write(self, key: str, predictions: Predictions) -> None:
        self.samples[key] = dict(predictions)


@pytest.fixture
def encode_slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[int]]:
    """Encoding takes the given time per call; returns the numbers of texts that were encoded."""
    counts: list[int] = []

    def prepare(seconds: float) -> list[int]:
        def encode(texts: list[str]) -> Any:
            counts.append(len(texts))
            time.sleep(seconds)
            is_stone = np.array([float("loin" in text or "stone" in text) for text in texts])
            return np.stack([is_stone, 1 - is_stone], axis=1)

        monkeypatch.setattr("medtask.similarity.encode_texts", encode)
        return counts

    return prepare


def run_label_baselines(settings: BaselineSettings) -> dict[str, tuple[Any, Any]]:
    found = run_baselines_with_answers("label", SAMPLE, LABELS, settings=settings)
    return {baseline.name: (baseline, answers) for baseline, answers in found}


def test_a_method_that_is_too_slow_answers_the_first_rows_of_the_sample(
    encode_slowly: Callable[[float], list[int]],
) -> None:
    encode_slowly(0.3)
    baseline, answers = run_label_baselines(BaselineSettings(seconds=0.2))["MiniLM"]
    assert answers == list(GOLD[:ROWS_AT_ONCE])
    assert baseline.sampled_from == ROWS
    assert baseline.metrics["accuracy"].n == ROWS_AT_ONCE
    assert baseline.metrics["accuracy"].low is not None
    assert baseline.comparison.model == 1.0  # of the model on the same rows
    assert baseline.to_json()["sampled_from"] == ROWS


def test_with_enough_time_all_rows_are_used(
    encode_slowly: Callable[[float], list[int]],
) -> None:
    encode_slowly(0)
    found = run_label_baselines(BaselineSettings())
    assert [found[name][0].sampled_from for name in ("TF-IDF", "MiniLM", "majority")] == [None] * 3
    assert found["TF-IDF"][1] == found["MiniLM"][1] == list(GOLD)


def test_kept_predictions_are_used_and_nothing_is_computed_again(
    encode_slowly: Callable[[float], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, store = encode_slowly(0), MemoryStore()
    first = run_label_baselines(BaselineSettings(store=store))
    n_encoded, progress = sum(counts), list[tuple[str, int, int]]()
    monkeypatch.setattr(
        "medtask.evaluation.kinds.label.cross_validate_labels", lambda *_: pytest.fail()
    )
    again = run_label_baselines(
        BaselineSettings(store=store, on_progress=lambda *event: progress.append(event))
    )
    assert again == first
    assert sum(counts) == n_encoded > ROWS
    assert not progress


@pytest.mark.parametrize("changed", ["texts", "gold", "labels", "seed"])
def test_a_change_of_the_table_the_gold_or_the_task_computes_again(
    changed: str, encode_slowly: Callable[[float], list[int]]
) -> None:
    counts, store = encode_slowly(0), MemoryStore()
    run_label_baselines(BaselineSettings(store=store))
    n_encoded = sum(counts)
    sample = {
        "texts": GoldSample(("other", *TEXTS[1:]), GOLD, GOLD, SAMPLE.options, SAMPLE.groups),
        "gold": GoldSample(TEXTS, ("clot", "clot", *GOLD[2:]), GOLD, SAMPLE.options, SAMPLE.groups),
    }.get(changed, SAMPLE)
    labels = [("stone", "a stone"), LABELS[1]] if changed == "labels" else LABELS
    settings = BaselineSettings(seed=int(changed == "seed"), store=store)
    run_baselines_with_answers("label", sample, labels, settings=settings)
    assert sum(counts) > n_encoded
    assert len(store.samples) == 2


def test_answers_of_the_model_do_not_matter_for_what_is_kept(
    encode_slowly: Callable[[float], list[int]],
) -> None:
    counts, store = encode_slowly(0), MemoryStore()
    run_label_baselines(BaselineSettings(store=store))
    n_encoded = sum(counts)
    other = GoldSample(TEXTS, GOLD, ("clot",) * ROWS, SAMPLE.options, SAMPLE.groups)
    found = run_baselines_with_answers(
        "label", other, LABELS, settings=BaselineSettings(0, store=store)
    )
    assert sum(counts) == n_encoded
    comparison = found[0][0].comparison
    assert comparison is not None
    assert (comparison.verdict, comparison.model) == ("better", 0.5)


def test_what_was_finished_before_an_interruption_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(texts: list[str]) -> None:
        raise KeyboardInterrupt

    store = MemoryStore()
    monkeypatch.setattr("medtask.similarity.encode_texts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_label_baselines(BaselineSettings(store=store))
    found = run_label_baselines(BaselineSettings(store=store, stopped="stopped by a signal"))
    assert found["TF-IDF"][1] == list(GOLD)
    assert found["MiniLM"][0].note == "stopped by a signal"
    assert found["majority"][1] == ["stone"] * ROWS


def test_progress_begins_with_the_method_and_ends_with_all_rows(
    encode_slowly: Callable[[float], list[int]],
) -> None:
    encode_slowly(0)
    events: list[tuple[str, int, int]] = []
    run_label_baselines(BaselineSettings(on_progress=lambda *event: events.append(event)))
    assert events == [
        ("TF-IDF", 0, ROWS),
        *(("MiniLM", done, ROWS) for done in range(0, ROWS + 1, ROWS_AT_ONCE)),
    ]


@pytest.mark.parametrize("length", [1, 400])
def test_tfidf_takes_as_many_rows_as_the_time_allows(length: int) -> None:
    texts = [f"{text} {n * 7919 % 1000} " * length for n, text in enumerate(TEXTS)] * 3
    assert count_affordable_rows(texts, 2, float("inf")) == len(texts)
    assert count_affordable_rows(texts, 2, 300.0) == len(texts)
    assert MIN_ROWS <= count_affordable_rows(texts, 2, 0.0) < len(texts)
    few = cross_validate_labels(texts, GOLD * 3, (), 0, TimeLimit(0.0))
    assert MIN_ROWS <= len(few) < len(texts)
    sets = [(name,) for name in GOLD] * 3
    names = [name for name, _ in LABELS]
    assert len(cross_validate_label_sets(texts, sets, names, (), 0, TimeLimit(0.0))) < len(texts)


def test_texts_without_words_are_no_reason_to_stop() -> None:
    assert count_affordable_rows(["!"] * 200, 2, 1.0) == 200


def test_label_sets_are_as_many_as_in_the_gold_of_the_rows_that_were_read(
    encode_slowly: Callable[[float], list[int]],
) -> None:
    encode_slowly(0.3)
    gold = [("stone",)] * ROWS_AT_ONCE + [("stone", "clot")] * (ROWS - ROWS_AT_ONCE)
    found = match_label_sets(TEXTS, gold, LABELS, TimeLimit(0.5))
    assert len(found) == ROWS_AT_ONCE
    assert not isinstance(found, str)


def test_a_sample_depends_on_ids_and_not_on_the_order_of_rows() -> None:
    assert compute_sample_key("c-1") == compute_sample_key("c-1", 0)
    keys = {compute_sample_key(f"c-{n}", seed) for n in range(50) for seed in (0, 1)}
    assert len(keys) == 100
    assert fingerprint_sample((["\udcff"],), 0) != fingerprint_sample((["x"],), 0)


def test_the_terminal_and_the_sentence_give_the_rows_and_the_reason(
    encode_slowly: Callable[[float], list[int]],
) -> None:
    encode_slowly(0.3)
    summary = make_imaging_run().finish()
    baseline, _ = run_label_baselines(BaselineSettings(seconds=0.2))["MiniLM"]
    lines = " ".join(format_summary_lines(summary, [baseline]))
    assert f"(baselines on {ROWS_AT_ONCE} random rows of them, to limit their time)" in lines
    assert describe_sampling(64, 2000).startswith("on 64 of 2,000 rows, drawn at random: ")

"""Simple methods on the same rows, compared with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from medtask.evaluation.baselines.untrained import NO_GOLD, LabelDefinitions
from medtask.evaluation.kinds.protocols import (
    BaselineAnswers,
    BaselineMethods,
    GoldSample,
    get_evaluation_kind,
)
from medtask.evaluation.statistics.significance import Baseline
from medtask.keywords import match_keywords
from medtask.kinds import KindName


def run_baselines(
    kind: KindName,
    sample: GoldSample,
    labels: LabelDefinitions = (),
    *,
    keywords: Mapping[str, Sequence[str]] = MappingProxyType({}),
    seed: int = 0,
) -> tuple[Baseline, ...]:
    """Runs simple methods on rows with gold and compares each with the model's answers.

    Args:
        kind: The kind of question.
        sample: Rows with gold and the model's answers; see `GoldSummary.sample`.
        labels: Every allowed answer with its definition ("" for none); not needed for kinds without
            labels.
        keywords: Keywords of labels; without any there is no baseline of keywords.
        seed: Seed of cross-validation, bootstraps and randomisation tests.
    """
    return tuple(
        baseline
        for baseline, _ in run_baselines_with_answers(
            kind, sample, labels, keywords=keywords, seed=seed
        )
    )


def run_baselines_with_answers(
    kind: KindName,
    sample: GoldSample,
    labels: LabelDefinitions = (),
    *,
    keywords: Mapping[str, Sequence[str]] = MappingProxyType({}),
    seed: int = 0,
) -> list[tuple[Baseline, Sequence[Any] | None]]:
    """Like `run_baselines`, but with each baseline's answers to the first rows of the sample.

    The answers are None for baselines without answers, such as guessing.
    """
    methods = get_evaluation_kind(kind).resolve(sample.gold, sample.answers).baselines
    results: list[tuple[Baseline, Sequence[Any] | None]] = []
    by_keyword = _answer_by_keyword(methods, sample, keywords)
    for baseline, answers in (*methods.answer(sample, labels, seed), *by_keyword):
        note = answers if isinstance(answers, str) else "" if sample.gold else NO_GOLD
        if note:
            no_metrics = dict.fromkeys(methods.metrics)
            results.append((replace(baseline, metrics=no_metrics, note=note), None))
            continue
        metrics, comparison = methods.score(sample, answers, labels, seed)
        results.append(
            (
                replace(baseline, metrics=metrics, comparison=comparison),
                None if isinstance(answers, float) else answers,
            )
        )
    return results


def _answer_by_keyword(
    methods: BaselineMethods, sample: GoldSample, keywords: Mapping[str, Sequence[str]]
) -> list[BaselineAnswers]:
    if not keywords or methods.choose_matched is None:
        return []
    baseline = Baseline("keyword search", "labels by the keywords of the task file")
    try:
        matched = match_keywords(sample.texts, keywords)
    except (TimeoutError, ValueError) as error:
        return [(baseline, f"the keyword {error}")]
    return [(baseline, methods.choose_matched(sample, matched))]

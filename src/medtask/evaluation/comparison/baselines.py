"""Simple methods on the same rows, compared with the model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from medtask.evaluation.baselines.context import (
    BaselineAnswers,
    BaselineContext,
    BaselineSettings,
    fingerprint_sample,
)
from medtask.evaluation.baselines.untrained import NO_GOLD, LabelDefinitions
from medtask.evaluation.kinds.metrics import METRICS
from medtask.evaluation.kinds.protocols import (
    BaselineMethods,
    EvaluationKind,
    GoldSample,
    GradedRow,
    get_evaluation_kind,
)
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.evaluation.statistics.significance import (
    Baseline,
    BaselineComparison,
    RatioTerms,
    compare_by_mcnemar,
    compare_by_randomisation,
    compare_to_guessing,
)
from medtask.keywords import MATCH_SECONDS, match_keywords
from medtask.kinds import KindName
from medtask.records import Answer, Status

DEFAULT_SETTINGS = BaselineSettings()
MIN_KEYWORD_SECONDS = 5.0  # for keywords, if the other methods have used all of the time


def run_baselines(
    kind: KindName,
    sample: GoldSample,
    labels: LabelDefinitions = (),
    *,
    keywords: Mapping[str, Sequence[str]] = MappingProxyType({}),
    settings: BaselineSettings = DEFAULT_SETTINGS,
) -> tuple[Baseline, ...]:
    """Runs simple methods on rows with gold and compares each with the model's answers.

    Args:
        kind: The kind of question.
        sample: Rows with gold and the model's answers; see `GoldSummary.sample`.
        labels: Every allowed answer with its definition ("" for none); not needed for kinds without
            labels.
        keywords: Keywords of labels; without any there is no baseline of keywords.
        settings: Seed, time and kept predictions.
    """
    systems = {"the model": sample.answers}
    found = run_baselines_with_answers(
        kind, sample, labels, keywords=keywords, settings=settings, systems=systems
    )
    return tuple(baseline for baseline, _ in found)


def run_baselines_with_answers(
    kind: KindName,
    sample: GoldSample,
    labels: LabelDefinitions = (),
    *,
    keywords: Mapping[str, Sequence[str]] = MappingProxyType({}),
    settings: BaselineSettings = DEFAULT_SETTINGS,
    systems: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> list[tuple[Baseline, Sequence[Any] | None]]:
    """Like `run_baselines`, but with each baseline's answers to the first rows of the sample.

    The answers are None for baselines without answers, such as guessing, and for those that are not
    measured: an untrained one with the answers of one of the ``systems``, such as MiniLM where it
    is the model. The same figures would have two intervals, because their resamples differ.
    """
    used_kind = get_evaluation_kind(kind).resolve(sample.gold, sample.answers)
    names = [name for name, _ in labels]
    results: list[tuple[Baseline, Sequence[Any] | None]] = []
    for baseline, answers in _answer(kind, sample, labels, keywords, settings):
        answered = answers if isinstance(answers, Sequence) else None
        note = answers if isinstance(answers, str) else "" if sample.gold else NO_GOLD
        if not note and baseline.role == "untrained":
            note = _find_same_answers(answers, systems)
        if note:
            no_metrics = dict.fromkeys(used_kind.baselines.metrics)
            results.append((replace(baseline, metrics=no_metrics, note=note), None))
            continue
        graded = sample if answered is None else sample.take_first(len(answered))
        metrics, comparison = _score_answers(used_kind, graded, answers, names, settings.seed)
        results.append(
            (
                replace(
                    baseline,
                    metrics=metrics,
                    comparison=comparison,
                    sampled_from=len(sample.gold) if len(graded.gold) < len(sample.gold) else None,
                ),
                answered,
            )
        )
    return results


def _score_answers(
    kind: EvaluationKind,
    sample: GoldSample,
    answers: Sequence[Any] | float,
    labels: Sequence[str],
    seed: int,
) -> tuple[Mapping[str, Metric | None], BaselineComparison | None]:
    """The metrics of answers to all rows of a sample, and their comparison with the model.

    Of rows with groups, the answers of whole groups are exchanged.
    """
    names, rows = kind.baselines.metrics, len(sample.gold)
    gold, model = (
        [kind.normalize(value) for value in one] for one in (sample.gold, sample.answers)
    )
    headline, units = METRICS[names[0]], build_resampling_units(sample.groups, rows)
    is_by_row = headline.is_proportion and units.n_groups is None

    def sum_terms(values: Sequence[Any]) -> RatioTerms:
        """Numerators and denominators of the headline metric, [rows or groups] each."""
        assert headline.build_sums is not None
        sums = headline.build_sums(labels, gold, values).row_sums
        numerators, denominators = units.sum_per_unit(sums).toarray().T
        return numerators, denominators

    if isinstance(answers, float):  # a guess
        figure = {names[0]: Metric(answers, rows)}
        if is_by_row:
            return figure, compare_to_guessing(answers, gold, model)
        numerators, denominators = sum_terms(model)
        return figure, compare_by_randomisation(
            (answers * denominators, denominators), (numerators, denominators), seed=seed
        )
    metrics = _grade(kind, sample, answers, labels, seed)
    if not metrics:
        return {}, None
    given = [kind.normalize(value) for value in answers]
    if is_by_row:
        return metrics, compare_by_mcnemar(gold, given, model)
    return metrics, compare_by_randomisation(sum_terms(given), sum_terms(model), seed=seed)


def _grade(
    kind: EvaluationKind,
    sample: GoldSample,
    answers: Sequence[Any],
    labels: Sequence[str],
    seed: int,
) -> Mapping[str, Metric | None]:
    grader, rows = kind.create_grader(labels, None, seed), len(sample.gold)
    unscored = Answer("", Status.OK)
    for answer, truth, group, options in zip(
        answers,
        sample.gold,
        sample.groups or (None,) * rows,
        sample.options or ((),) * rows,
        strict=True,
    ):
        grader.add(GradedRow(answer, truth, unscored, group, options))
    quality = grader.finish(replace(sample, answers=tuple(answers)))
    return {name: quality.metrics[name] for name in kind.baselines.metrics} if quality else {}


def _find_same_answers(answers: Sequence[Any] | float, systems: Mapping[str, Sequence[Any]]) -> str:
    """The note that a baseline answers as one of the systems does; "" if it does not."""
    if isinstance(answers, float):
        return ""
    names = (name for name, given in systems.items() if [*answers] == [*given[: len(answers)]])
    return next((f"its answers are those of {name}" for name in names), "")


def _answer(
    kind: KindName,
    sample: GoldSample,
    labels: LabelDefinitions,
    keywords: Mapping[str, Sequence[str]],
    settings: BaselineSettings,
) -> list[BaselineAnswers]:
    """The baselines with their answers to the first rows, some of them kept from earlier."""
    evaluation_kind = get_evaluation_kind(kind).resolve(sample.gold, sample.answers)
    methods, store = evaluation_kind.baselines, settings.store
    context = BaselineContext(settings, deadline=time.monotonic() + settings.seconds)
    key = ""
    if store is not None and sample.gold:
        gold = [evaluation_kind.normalize(truth) for truth in sample.gold]
        key = fingerprint_sample(
            (sample.texts, gold, sample.options, sample.groups), kind, settings.seed, labels
        )
        context.kept.update(store.read(key))
    n_kept = len(context.kept)
    try:
        answered = methods.answer(sample, labels, context)
    finally:  # what was finished before a signal is kept too
        if store is not None and len(context.kept) > n_kept:
            store.write(key, context.kept)
    seconds = max(MIN_KEYWORD_SECONDS, context.deadline - time.monotonic())
    return [*answered, *_answer_by_keyword(methods, sample, keywords, seconds)]


def _answer_by_keyword(
    methods: BaselineMethods,
    sample: GoldSample,
    keywords: Mapping[str, Sequence[str]],
    seconds: float,
) -> list[BaselineAnswers]:
    if not keywords or methods.choose_matched is None:
        return []
    baseline = Baseline("keyword search", "labels by the keywords of the task file")
    try:
        matched = match_keywords(sample.texts, keywords, min(seconds, MATCH_SECONDS))
    except (TimeoutError, ValueError) as error:
        return [(baseline, f"the keyword {error}")]
    return [(baseline, methods.choose_matched(sample, matched))]

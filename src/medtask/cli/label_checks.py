"""Checks of a task's labels by their texts, the answers of a run and a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medtask.engines.base import Engine
from medtask.errors import InputError, MissingExtra, UsageError
from medtask.evaluation.labels.content_free_bias import ContentFreeBias
from medtask.evaluation.labels.label_set_report import (
    LabelSetInputs,
    LabelSetReport,
    check_label_set,
    check_option_letters,
)
from medtask.evaluation.labels.pair_counts import GoldAnswerCounts
from medtask.evaluation.labels.usage import OffSetCounts
from medtask.evaluation.report.report_numbers import read_report_numbers
from medtask.evaluation.statistics.intervals import Metric, estimate_proportion
from medtask.prediction.label_prior import CONTENT_FREE_INPUTS, OPTION_COUNT, measure_prior
from medtask.records import Description, Fault, Record, Value, comparable_value
from medtask.similarity import encode_rows, format_description
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medtask.records import AnsweredRow
    from medtask.runs.answer_table import AnswerTable

ENCODING_SECONDS = 60.0  # for the names and definitions of all labels
_GAP_NO_RUN = "answers: name a run with --run to find unused and confused labels"
_GAP_NO_GOLD = "gold: name its column with --gold to find confused labels and possible merges"
_GAP_GROUPS = (
    "groups: rows of a group are treated as independent, so intervals may be too narrow "
    "where they are not"
)
_GAP_NO_MODEL = (
    "model: name one with --model to check label tokens and label bias, "
    "or use --prior for the model of the run"
)


def check_task_labels(
    task: Task, answers: AnswerTable | None = None, engine: Engine | None = None
) -> LabelSetReport:
    """Check the labels of a task; for kind ``choice``, the model's preference for letters.

    Raises:
        UsageError: The kind has no labels or options.
        MedtaskError: The model cannot be used.
    """
    if task.kind_spec.has_options:
        return _check_choice_letters(task, answers, engine)
    if not task.kind_spec.has_labels:
        fix = "name a task of kind label, labels or choice"
        raise UsageError(
            f"{task.name} is of kind {task.kind}: it has no set of labels to check", fix=fix
        )
    gaps = [] if engine else [_GAP_NO_MODEL]
    vectors = _encode_labels(task, gaps)
    pair_counts = None
    if answers is None:
        gaps.append(_GAP_NO_RUN)
    else:
        pair_counts = count_label_pairs(task, answers.rows())
        gaps += _find_changed_labels(task, answers)
        if not pair_counts.gold_rows:
            gaps.append(_GAP_NO_GOLD)
        if task.group_column or answers.task.group_column:
            gaps.append(_GAP_GROUPS)
    tokens, lowercase_tokens = tokenize_labels(task, engine) if engine else ({}, {})
    if engine and not tokens:
        gaps.append(f"tokens: {engine.info.title} has no tokens")
    return check_label_set(
        LabelSetInputs(
            [Description(label.name, label.definition) for label in task.labels],
            abstain=task.abstain_name,
            exclusive=get_task_kind(task).always_answers,
            vectors=vectors,
            pair_counts=pair_counts,
            off_set=_read_off_set_counts(answers, task.review.off_set_above) if answers else None,
            tokens=tokens,
            lowercase_counts=lowercase_tokens,
            bias=_measure_label_bias(task, engine, pair_counts) if engine else None,
            skipped_checks=gaps,
        )
    )


def count_label_pairs(task: Task, rows: Iterable[AnsweredRow]) -> GoldAnswerCounts:
    """Count the rows of a task of kind ``label`` or ``labels`` by gold and answer.

    Gold of rows that are not new to the model is not used. An abstention counts as the label with
    the name of the abstention.
    """
    names = tuple(label.name for label in task.candidates)
    pair_counts = GoldAnswerCounts(
        names, task.abstain_name, confidence_threshold=task.review.confidence_below
    )
    for row in rows:
        pair_counts.add(
            _to_label_tuple(
                comparable_value(row.answer.status, row.answer.value, task.abstain_name)
            ),
            _to_label_tuple(row.gold if row.answer_counts else None),
            row.answer.confidence,
        )
    return pair_counts


def tokenize_labels(
    task: Task, engine: Engine
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Tokens of each label as a continuation of the prompt, and token counts in lower case.

    Counts are returned for labels that are not in lower case. Both are empty for engines without
    tokens. For kind ``labels``, the names at the start of the yes-or-no questions are tokenized.
    """
    named = {label.name: label.verbalizer for label in task.candidates}
    tokens = _render_labels(task, engine, list(named.values()))
    if tokens is None:
        return {}, {}
    used_texts = set(named.values())
    # Keyed by text, because the candidates of a branch must be distinct.
    lower = {text.lower(): name for name, text in named.items() if text.lower() not in used_texts}
    variants = _render_labels(task, engine, list(lower)) if lower else ()
    lowercase_counts = {
        name: len(label_tokens)
        for name, label_tokens in zip(lower.values(), variants or (), strict=False)
    }
    return dict(zip(named, tokens, strict=True)), lowercase_counts


def _render_labels(
    task: Task, engine: Engine, texts: list[str]
) -> tuple[tuple[int, ...], ...] | None:
    prompt = build_prompt(
        replace(task, reasoning=None), Record("content-free", {}), CONTENT_FREE_INPUTS[0]
    )
    if isinstance(prompt, Fault):
        raise InputError(
            f"the prompt of the task cannot be built: {prompt.reason}", fix="see medtask check"
        )
    branch = replace(
        prompt.branches[0],
        prefix="",
        candidates=tuple(texts),
        descriptions=tuple(map(Description, texts)),
    )
    rendering = engine.render(replace(prompt, branches=(branch,)))
    return rendering.candidate_tokens if rendering else None


def _check_choice_letters(
    task: Task, answers: AnswerTable | None, engine: Engine | None
) -> LabelSetReport:
    gap = "options: they come with the rows, so there is no set of labels to check"
    if engine is None:
        raise UsageError(
            f"{task.name} is of kind choice: its options come with the rows, and only the "
            "model's bias towards letters can be checked",
            fix="name a model with --model, or use --prior for the model of the run",
        )
    letters: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    answered = 0
    for row in answers.rows() if answers else ():
        answered += row.answer.value is not None
        sizes[len(row.options)] += 1
        letters.update(_to_label_tuple(row.gold) or ())
    options = next((size for size, _ in sizes.most_common() if size > 1), OPTION_COUNT)
    prior = measure_prior(task, engine, option_count=options)
    n = letters.total() if not task.several else 0
    gold = (
        {letter: estimate_proportion(letters[letter], n) for letter in prior.probabilities}
        if n
        else {}
    )
    bias = ContentFreeBias(
        prior.probabilities,
        not task.several,
        prior.by_input,
        {letter: share for letter, share in gold.items() if share},
        noun="letter",
    )
    return check_option_letters(bias, answered, [gap])


def _measure_label_bias(
    task: Task, engine: Engine, pair_counts: GoldAnswerCounts | None
) -> ContentFreeBias:
    prior = measure_prior(task, engine)
    return ContentFreeBias(
        prior.probabilities,
        task.kind_spec.exclusive,
        prior.by_input,
        dict(_estimate_prevalence(pair_counts, prior.probabilities)),
    )


def _estimate_prevalence(
    pair_counts: GoldAnswerCounts | None, prior: Mapping[str, float]
) -> Iterator[tuple[str, Metric]]:
    rows: Counter[str] = Counter()
    for (gold, _), count in pair_counts.pairs.items() if pair_counts else ():
        rows.update(dict.fromkeys(gold, count))
    for name in prior:
        share = estimate_proportion(rows[name], pair_counts.gold_rows) if pair_counts else None
        if share:
            yield name, share


def _encode_labels(task: Task, gaps: list[str]) -> NDArray[np.float32] | None:
    described = [[format_description(label.name, label.definition)] for label in task.labels]
    try:
        vectors = encode_rows(described, ENCODING_SECONDS)
    except MissingExtra as error:
        gaps.append(f"meanings: {error} ({error.fix})")
        return None
    if len(vectors) < len(described):
        gaps.append(
            f"meanings: MiniLM read {len(vectors):,} of the {len(described):,} labels in "
            f"{ENCODING_SECONDS:g} seconds"
        )
        return None
    return np.concatenate(vectors) if vectors else None


def _find_changed_labels(task: Task, answers: AnswerTable) -> list[str]:
    """A message if the labels of the run differ from those of the task."""
    asked = answers.manifest.get("task", {}).get("question", {}).get("labels")
    if asked is None or {label["name"] for label in asked} == {label.name for label in task.labels}:
        return []
    return ["answers with labels that the task no longer has: the run used another set of labels"]


def _to_label_tuple(value: Value | None) -> tuple[str, ...] | None:
    if value is None or isinstance(value, Mapping):
        return None
    return (value,) if isinstance(value, str) else value


def _read_off_set_counts(answers: AnswerTable, threshold: float) -> OffSetCounts | None:
    """Read the counts from the run's report; None if it has none.

    The threshold is rounded up to the edge of a bin.
    """
    if answers.folder is None:
        return None
    found = read_report_numbers(answers.folder).off_set
    if found is None or not sum(found.bins) or found.mean is None:
        return None
    bins = found.bins
    first = min(len(bins) - 1, math.ceil(threshold * len(bins) - 1e-9))
    return OffSetCounts(sum(bins), sum(bins[first:]), first / len(bins), found.mean)

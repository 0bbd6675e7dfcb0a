"""What simple methods reach on the same rows, and whether the model is better than they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.errors import MissingExtra
from medtask.evaluation.baselines.tfidf import (
    FOLDS,
    cross_validate_label_sets,
    cross_validate_labels,
    find_nearest_texts,
)
from medtask.evaluation.kinds.answer import compute_token_f1_terms, grade_texts
from medtask.evaluation.kinds.choice import parse_letters
from medtask.evaluation.kinds.protocols import GoldSample
from medtask.evaluation.report.formatting import format_value
from medtask.evaluation.statistics.classification import compute_classification_metrics
from medtask.evaluation.statistics.extraction import (
    FieldPath,
    compute_extraction_metrics,
    compute_field_terms,
    flatten,
    normalize_text,
    unflatten,
)
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.multilabel import (
    compute_micro_f1_terms,
    compute_multilabel_metrics,
)
from medtask.evaluation.statistics.significance import (
    Baseline,
    BaselineComparison,
    compare_by_mcnemar,
    compare_by_randomisation,
    compare_to_guessing,
)
from medtask.kinds import KindName
from medtask.records import LETTERS, Value
from medtask.similarity import encode_texts, format_description

MAX_ENCODED_ROWS = 500  # rows whose options MiniLM reads, five texts or so each

LabelDefinitions = Sequence[tuple[str, str]]
BaselineRun = tuple[
    Baseline, Any
]  # a baseline without figures, and its answers; or in their place the reason why there are none
BaselineResult = tuple[Mapping[str, Metric | None], BaselineComparison | None]


def run_baselines(
    kind: KindName, sample: GoldSample, labels: LabelDefinitions = (), *, seed: int = 0
) -> tuple[Baseline, ...]:
    """Simple methods on a sample of rows with gold (see GoldSummary.sample), each compared with the
    model's answers there.

    ``labels``: every allowed answer and its definition ("" where it has none); kinds without labels
    need none.
    """
    return tuple(
        baseline for baseline, _ in run_baselines_with_answers(kind, sample, labels, seed=seed)
    )


def run_baselines_with_answers(
    kind: KindName, sample: GoldSample, labels: LabelDefinitions = (), *, seed: int = 0
) -> list[tuple[Baseline, Sequence[Any] | None]]:
    """The same, each with its answers to the sample's first rows; None where it answers none, as
    guessing does.
    """
    several = kind == "choice" and any(
        isinstance(value, tuple) for value in (*sample.gold, *sample.answers)
    )
    find, measures, grade = _BASELINES_BY_KIND["several" if several else kind]
    nothing = dict.fromkeys(measures)
    graded: list[tuple[Baseline, Sequence[Any] | None]] = []
    for baseline, outcome in find(sample, labels, seed):
        note = outcome if isinstance(outcome, str) else "" if sample.gold else "no row has gold"
        figures, versus = (nothing, None) if note else grade(sample, outcome, labels, seed)
        answers = None if note or isinstance(outcome, float) else outcome
        graded.append((replace(baseline, metrics=figures, comparison=versus, note=note), answers))
    return graded


def _run_label_baselines(
    sample: GoldSample, labels: LabelDefinitions, seed: int
) -> list[BaselineRun]:
    most = _find_most_frequent(sample.gold) or ""
    learned = (
        f"logistic regression, trained on these rows' own gold in {FOLDS}-fold cross-validation"
    )
    return [
        (
            Baseline("TF-IDF", learned, role="learned"),
            cross_validate_labels(sample.texts, sample.gold, seed),
        ),
        (
            Baseline("MiniLM", "the label whose name and definition are nearest in meaning"),
            _match_definitions(sample.texts, labels),
        ),
        (
            Baseline(
                "majority", f"the most frequent label in gold for every row, {most!r}", role="floor"
            ),
            [most] * len(sample.gold),
        ),
    ]


def _score_label_baseline(
    sample: GoldSample, outcome: Any, labels: LabelDefinitions, seed: int
) -> BaselineResult:
    names = [name for name, _ in labels]
    quality = compute_classification_metrics(
        sample.gold, outcome, names, groups=sample.groups, seed=seed
    )
    assert quality is not None
    return {"accuracy": quality.accuracy, "macro_f1": quality.macro_f1}, compare_by_mcnemar(
        sample.gold, outcome, sample.answers
    )


def _run_multilabel_baselines(
    sample: GoldSample, labels: LabelDefinitions, seed: int
) -> list[BaselineRun]:
    most = _find_most_frequent(sample.gold) or ()
    learned = (
        "a logistic regression for each label, trained on these rows' own gold in "
        f"{FOLDS}-fold cross-validation"
    )
    near = "labels whose name and definition are near enough in meaning, as many in all as gold has"
    return [
        (
            Baseline("TF-IDF", learned, role="learned"),
            cross_validate_label_sets(
                sample.texts, sample.gold, [name for name, _ in labels], seed
            ),
        ),
        (Baseline("MiniLM", near), _match_label_sets(sample, labels)),
        (
            Baseline(
                "most frequent set",
                f"the most frequent set in gold for every row, {format_value(most)!r}",
                role="floor",
            ),
            [most] * len(sample.gold),
        ),
    ]


def _score_multilabel_baseline(
    sample: GoldSample, outcome: Any, labels: LabelDefinitions, seed: int
) -> BaselineResult:
    quality = compute_multilabel_metrics(
        [name for name, _ in labels], sample.gold, outcome, sample.groups, seed=seed
    )
    assert quality is not None
    figures = {
        "micro_f1": quality.micro_f1,
        "macro_f1": quality.macro_f1,
        "exact_match": quality.exact_match,
        "jaccard": quality.jaccard,
    }
    return figures, compare_by_randomisation(
        compute_micro_f1_terms(sample.gold, outcome),
        compute_micro_f1_terms(sample.gold, sample.answers),
        seed=seed,
    )


def _run_choice_baselines(
    sample: GoldSample, labels: LabelDefinitions, seed: int
) -> list[BaselineRun]:
    chances = [1 / max(1, len(options)) for options in sample.options]
    most = _find_most_frequent(sample.gold) or ""
    return [
        (
            Baseline("MiniLM", "the option nearest in meaning to the question"),
            _match_options(sample, multiple=False),
        ),
        (
            Baseline("most frequent letter", f"in gold, for every row: {most}", role="floor"),
            [most] * len(sample.gold),
        ),
        (
            Baseline("guessing", "any of the row's options with the same chance", role="floor"),
            float(np.mean(chances or [0])),
        ),
    ]


def _score_choice_baseline(
    sample: GoldSample, outcome: Any, labels: LabelDefinitions, seed: int
) -> BaselineResult:
    if isinstance(outcome, float):
        return {"accuracy": Metric(outcome, len(sample.gold))}, compare_to_guessing(
            outcome, sample.gold, sample.answers
        )
    gold, answers = sample.gold[: len(outcome)], sample.answers[: len(outcome)]
    quality = compute_classification_metrics(
        gold, outcome, LETTERS, groups=sample.groups[: len(outcome)], seed=seed
    )
    assert quality is not None
    return {"accuracy": quality.accuracy}, compare_by_mcnemar(gold, outcome, answers)


def _run_multichoice_baselines(
    sample: GoldSample, labels: LabelDefinitions, seed: int
) -> list[BaselineRun]:
    most = _find_most_frequent(sample.gold) or ()
    near = "options near enough in meaning to the question, as many in all as gold has"
    return [
        (Baseline("MiniLM", near), _match_options(sample, multiple=True)),
        (
            Baseline(
                "most frequent letters",
                f"in gold, for every row: {format_value(most)}",
                role="floor",
            ),
            [most] * len(sample.gold),
        ),
    ]


def _score_multichoice_baseline(
    sample: GoldSample, outcome: Any, labels: LabelDefinitions, seed: int
) -> BaselineResult:
    gold, answers = (
        [parse_letters(value) for value in column[: len(outcome)]]
        for column in (sample.gold, sample.answers)
    )
    groups = sample.groups[: len(outcome)]
    quality = compute_multilabel_metrics(
        LETTERS,
        [truth or () for truth in gold],
        [parse_letters(value) for value in outcome],
        groups,
        seed=seed,
    )
    assert quality is not None
    figures = {
        "exact_match": quality.exact_match,
        "jaccard": quality.jaccard,
        "micro_f1": quality.micro_f1,
    }
    return figures, compare_by_mcnemar(gold, [parse_letters(value) for value in outcome], answers)


def _run_text_baselines(
    sample: GoldSample, labels: LabelDefinitions, seed: int
) -> list[BaselineRun]:
    nearest = find_nearest_texts(sample.texts)
    answers = nearest if isinstance(nearest, str) else [sample.gold[place] for place in nearest]
    return [
        (
            Baseline(
                "nearest question",
                "the gold answer of the most similar other question, by TF-IDF",
                role="learned",
            ),
            answers,
        )
    ]


def _score_text_baseline(
    sample: GoldSample, outcome: Any, labels: LabelDefinitions, seed: int
) -> BaselineResult:
    quality = grade_texts(sample.gold, outcome, sample.groups, seed=seed)
    assert quality is not None
    figures = {measure: quality.metrics[measure] for measure in quality.headline_metrics}
    return figures, compare_by_randomisation(
        compute_token_f1_terms(sample.gold, outcome),
        compute_token_f1_terms(sample.gold, sample.answers),
        seed=seed,
    )


def _run_field_baselines(
    sample: GoldSample, labels: LabelDefinitions, seed: int
) -> list[BaselineRun]:
    most = _find_most_frequent_values(sample.gold)
    return [
        (
            Baseline(
                "most frequent values",
                "each field's most frequent value in gold, for every row",
                role="floor",
            ),
            [most] * len(sample.gold),
        )
    ]


def _score_field_baseline(
    sample: GoldSample, outcome: Any, labels: LabelDefinitions, seed: int
) -> BaselineResult:
    quality = compute_extraction_metrics(sample.gold, outcome, sample.groups, seed=seed)
    if quality is None:
        return {}, None
    figures = {"fields_right": quality.fields_right, "rows_right": quality.rows_right}
    return figures, compare_by_randomisation(
        compute_field_terms(sample.gold, outcome),
        compute_field_terms(sample.gold, sample.answers),
        seed=seed,
    )


_BASELINES_BY_KIND: Mapping[
    str,
    tuple[
        Callable[[GoldSample, LabelDefinitions, int], list[BaselineRun]],
        tuple[str, ...],
        Callable[[GoldSample, Any, LabelDefinitions, int], BaselineResult],
    ],
] = {
    "label": (_run_label_baselines, ("accuracy", "macro_f1"), _score_label_baseline),
    "labels": (
        _run_multilabel_baselines,
        ("micro_f1", "macro_f1", "exact_match", "jaccard"),
        _score_multilabel_baseline,
    ),
    "choice": (_run_choice_baselines, ("accuracy",), _score_choice_baseline),
    "several": (
        _run_multichoice_baselines,
        ("exact_match", "jaccard", "micro_f1"),
        _score_multichoice_baseline,
    ),
    "answer": (
        _run_text_baselines,
        ("token_f1", "rouge_l", "exact_match", "similarity"),
        _score_text_baseline,
    ),
    "fields": (_run_field_baselines, ("fields_right", "rows_right"), _score_field_baseline),
}


def _find_most_frequent(gold: Sequence[Any]) -> Any:
    return max(Counter(gold).items(), key=lambda item: (item[1], item[0]))[0] if gold else None


def _find_most_frequent_values(gold: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """By field, among the rows whose gold speaks of it; nothing where that is what gold has most
    often.
    """
    seen: dict[FieldPath, Counter[str]] = {}
    values: dict[tuple[FieldPath, str], object] = {}
    for truth in gold:
        for path, leaf in flatten(truth).items():
            seen.setdefault(path, Counter())[normalize_text(leaf)] += 1
            values.setdefault((path, normalize_text(leaf)), leaf)
    wholes = {
        path[:length] for path in seen for length in range(1, len(path))
    }  # null in some rows, an object in others
    most = {
        path: max(counts.items(), key=lambda item: (item[1], item[0]))[0]
        for path, counts in seen.items()
        if path not in wholes
    }
    return unflatten({path: values[path, key] for path, key in most.items()})


def _match_definitions(texts: Sequence[str], labels: LabelDefinitions) -> list[str] | str:
    """Each row's label whose "name: definition" is nearest, or why there is none."""
    near = _compute_definition_similarities(texts, labels)
    return near if isinstance(near, str) else [labels[place][0] for place in near.argmax(axis=1)]


def _match_label_sets(sample: GoldSample, labels: LabelDefinitions) -> list[tuple[str, ...]] | str:
    """Each row's labels whose "name: definition" is near enough for as many pairs in all as gold
    has, or why there are none.
    """
    near = _compute_definition_similarities(sample.texts, labels)
    if isinstance(near, str):
        return near
    bound = _find_similarity_threshold(near.ravel(), sum(map(len, sample.gold)))
    return [
        tuple(name for (name, _), share in zip(labels, row, strict=True) if share >= bound)
        for row in near
    ]


def _match_options(sample: GoldSample, *, multiple: bool) -> list[Value] | str:
    """The options of each of the first 500 rows that are nearest to its text, or why there are
    none.
    """
    if any(not options for options in sample.options[:MAX_ENCODED_ROWS]) or not sample.texts:
        return (
            "rows with gold have no options that could be read"
            if sample.texts
            else "no row has gold"
        )
    rows = list(
        zip(sample.texts[:MAX_ENCODED_ROWS], sample.options[:MAX_ENCODED_ROWS], strict=True)
    )
    texts = list(
        dict.fromkeys(
            text
            for question, options in rows
            for text in (question, *(option.text for option in options))
        )
    )
    try:
        vectors = dict(zip(texts, encode_texts(texts), strict=True))
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    near = [
        {option.letter: float(vectors[question] @ vectors[option.text]) for option in options}
        for question, options in rows
    ]
    if not multiple:
        return [max(shares, key=shares.__getitem__) for shares in near]
    bound = _find_similarity_threshold(
        np.array([share for shares in near for share in shares.values()]),
        sum(map(len, sample.gold[:MAX_ENCODED_ROWS])),
    )
    return [tuple(letter for letter, share in shares.items() if share >= bound) for shares in near]


def _compute_definition_similarities(
    texts: Sequence[str], labels: LabelDefinitions
) -> NDArray[np.float32] | str:
    """[texts, labels] of similarities, or why there are none."""
    if not texts or not labels:
        return "no row has gold"
    try:
        wanted = encode_texts([format_description(name, definition) for name, definition in labels])
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    return np.asarray(encode_texts(texts) @ wanted.T)


def _find_similarity_threshold(similarities: NDArray[np.float32], count: int) -> float:
    """The share that so many are not below."""
    return (
        float(np.partition(similarities, -count)[-count])
        if 0 < count <= len(similarities)
        else np.inf
    )

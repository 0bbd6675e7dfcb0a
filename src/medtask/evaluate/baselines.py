"""What simple methods reach on the same rows, and whether the model is better than they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.errors import MissingExtra
from medtask.evaluate.agreement import Path, flatten, fold, grade_objects, unflatten, weigh_objects
from medtask.evaluate.comparison import (
    Baseline,
    Comparison,
    compare_answers,
    compare_ratios,
    compare_to_chance,
)
from medtask.evaluate.intervals import Estimate
from medtask.evaluate.kinds.answer import grade_texts, weigh_texts
from medtask.evaluate.kinds.choice import read_letters
from medtask.evaluate.kinds.kind import Kind, Sample
from medtask.evaluate.metrics import grade_pairs
from medtask.evaluate.sets import grade_sets, weigh_sets
from medtask.evaluate.tfidf import FOLDS, cross_validate, cross_validate_sets, find_neighbours
from medtask.evaluate.words import read_value
from medtask.records import LETTERS, Value
from medtask.similarity import describe_meaning, encode

READ = 500  # rows whose options MiniLM reads, five texts or so each

Labels = Sequence[tuple[str, str]]
Found = tuple[
    Baseline, Any
]  # a baseline without figures, and its answers; or in their place the reason why there are none
Graded = tuple[Mapping[str, Estimate | None], Comparison | None]


def run_baselines(
    kind: Kind, sample: Sample, labels: Labels = (), *, seed: int = 0
) -> tuple[Baseline, ...]:
    """Simple methods on a sample of rows with gold (see GoldSummary.sample), each compared with the
    model's answers there.

    ``labels``: every allowed answer and its definition ("" where it has none); kinds without labels
    need none.
    """
    return tuple(baseline for baseline, _ in answer_simply(kind, sample, labels, seed=seed))


def answer_simply(
    kind: Kind, sample: Sample, labels: Labels = (), *, seed: int = 0
) -> list[tuple[Baseline, Sequence[Any] | None]]:
    """The same, each with its answers to the sample's first rows; None where it answers none, as
    guessing does.
    """
    several = kind == "choice" and any(
        isinstance(value, tuple) for value in (*sample.gold, *sample.answers)
    )
    find, measures, grade = _METHODS["several" if several else kind]
    nothing = dict.fromkeys(measures)
    graded: list[tuple[Baseline, Sequence[Any] | None]] = []
    for baseline, outcome in find(sample, labels, seed):
        note = outcome if isinstance(outcome, str) else "" if sample.gold else "no row has gold"
        figures, versus = (nothing, None) if note else grade(sample, outcome, labels, seed)
        answers = None if note or isinstance(outcome, float) else outcome
        graded.append((replace(baseline, figures=figures, versus=versus, note=note), answers))
    return graded


def _find_for_label(sample: Sample, labels: Labels, seed: int) -> list[Found]:
    most = _most_frequent(sample.gold) or ""
    learned = (
        f"logistic regression, trained on these rows' own gold in {FOLDS}-fold cross-validation"
    )
    return [
        (
            Baseline("TF-IDF", learned, role="learned"),
            cross_validate(sample.texts, sample.gold, seed),
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


def _grade_label(sample: Sample, outcome: Any, labels: Labels, seed: int) -> Graded:
    names = [name for name, _ in labels]
    quality = grade_pairs(sample.gold, outcome, names, groups=sample.groups, seed=seed)
    assert quality is not None
    return {"accuracy": quality.accuracy, "macro_f1": quality.macro_f1}, compare_answers(
        sample.gold, outcome, sample.answers
    )


def _find_for_labels(sample: Sample, labels: Labels, seed: int) -> list[Found]:
    most = _most_frequent(sample.gold) or ()
    learned = (
        "a logistic regression for each label, trained on these rows' own gold in "
        f"{FOLDS}-fold cross-validation"
    )
    near = "labels whose name and definition are near enough in meaning, as many in all as gold has"
    return [
        (
            Baseline("TF-IDF", learned, role="learned"),
            cross_validate_sets(sample.texts, sample.gold, [name for name, _ in labels], seed),
        ),
        (Baseline("MiniLM", near), _match_sets(sample, labels)),
        (
            Baseline(
                "most frequent set",
                f"the most frequent set in gold for every row, {read_value(most)!r}",
                role="floor",
            ),
            [most] * len(sample.gold),
        ),
    ]


def _grade_labels(sample: Sample, outcome: Any, labels: Labels, seed: int) -> Graded:
    quality = grade_sets(
        [name for name, _ in labels], sample.gold, outcome, sample.groups, seed=seed
    )
    assert quality is not None
    figures = {
        "micro_f1": quality.micro_f1,
        "macro_f1": quality.macro_f1,
        "exact_match": quality.exact_match,
        "jaccard": quality.jaccard,
    }
    return figures, compare_ratios(
        weigh_sets(sample.gold, outcome), weigh_sets(sample.gold, sample.answers), seed=seed
    )


def _find_for_choice(sample: Sample, labels: Labels, seed: int) -> list[Found]:
    chances = [1 / max(1, len(options)) for options in sample.options]
    most = _most_frequent(sample.gold) or ""
    return [
        (
            Baseline("MiniLM", "the option nearest in meaning to the question"),
            _match_options(sample, several=False),
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


def _grade_choice(sample: Sample, outcome: Any, labels: Labels, seed: int) -> Graded:
    if isinstance(outcome, float):
        return {"accuracy": Estimate(outcome, len(sample.gold))}, compare_to_chance(
            outcome, sample.gold, sample.answers
        )
    gold, answers = sample.gold[: len(outcome)], sample.answers[: len(outcome)]
    quality = grade_pairs(gold, outcome, LETTERS, groups=sample.groups[: len(outcome)], seed=seed)
    assert quality is not None
    return {"accuracy": quality.accuracy}, compare_answers(gold, outcome, answers)


def _find_for_several(sample: Sample, labels: Labels, seed: int) -> list[Found]:
    most = _most_frequent(sample.gold) or ()
    near = "options near enough in meaning to the question, as many in all as gold has"
    return [
        (Baseline("MiniLM", near), _match_options(sample, several=True)),
        (
            Baseline(
                "most frequent letters", f"in gold, for every row: {read_value(most)}", role="floor"
            ),
            [most] * len(sample.gold),
        ),
    ]


def _grade_several(sample: Sample, outcome: Any, labels: Labels, seed: int) -> Graded:
    gold, answers = (
        [read_letters(value) for value in column[: len(outcome)]]
        for column in (sample.gold, sample.answers)
    )
    groups = sample.groups[: len(outcome)]
    quality = grade_sets(
        LETTERS,
        [truth or () for truth in gold],
        [read_letters(value) for value in outcome],
        groups,
        seed=seed,
    )
    assert quality is not None
    figures = {
        "exact_match": quality.exact_match,
        "jaccard": quality.jaccard,
        "micro_f1": quality.micro_f1,
    }
    return figures, compare_answers(gold, [read_letters(value) for value in outcome], answers)


def _find_for_answer(sample: Sample, labels: Labels, seed: int) -> list[Found]:
    nearest = find_neighbours(sample.texts)
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


def _grade_answer(sample: Sample, outcome: Any, labels: Labels, seed: int) -> Graded:
    quality = grade_texts(sample.gold, outcome, sample.groups, seed=seed)
    assert quality is not None
    figures = {measure: quality.figures[measure] for measure in quality.headlines}
    return figures, compare_ratios(
        weigh_texts(sample.gold, outcome), weigh_texts(sample.gold, sample.answers), seed=seed
    )


def _find_for_fields(sample: Sample, labels: Labels, seed: int) -> list[Found]:
    most = _most_frequent_values(sample.gold)
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


def _grade_fields(sample: Sample, outcome: Any, labels: Labels, seed: int) -> Graded:
    quality = grade_objects(sample.gold, outcome, sample.groups, seed=seed)
    if quality is None:
        return {}, None
    figures = {"fields_right": quality.fields_right, "rows_right": quality.rows_right}
    return figures, compare_ratios(
        weigh_objects(sample.gold, outcome), weigh_objects(sample.gold, sample.answers), seed=seed
    )


_METHODS: Mapping[
    str,
    tuple[
        Callable[[Sample, Labels, int], list[Found]],
        tuple[str, ...],
        Callable[[Sample, Any, Labels, int], Graded],
    ],
] = {
    "label": (_find_for_label, ("accuracy", "macro_f1"), _grade_label),
    "labels": (_find_for_labels, ("micro_f1", "macro_f1", "exact_match", "jaccard"), _grade_labels),
    "choice": (_find_for_choice, ("accuracy",), _grade_choice),
    "several": (_find_for_several, ("exact_match", "jaccard", "micro_f1"), _grade_several),
    "answer": (
        _find_for_answer,
        ("token_f1", "rouge_l", "exact_match", "similarity"),
        _grade_answer,
    ),
    "fields": (_find_for_fields, ("fields_right", "rows_right"), _grade_fields),
}


def _most_frequent(gold: Sequence[Any]) -> Any:
    return max(Counter(gold).items(), key=lambda item: (item[1], item[0]))[0] if gold else None


def _most_frequent_values(gold: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """By field, among the rows whose gold speaks of it; nothing where that is what gold has most
    often.
    """
    seen: dict[Path, Counter[str]] = {}
    values: dict[tuple[Path, str], object] = {}
    for truth in gold:
        for path, leaf in flatten(truth).items():
            seen.setdefault(path, Counter())[fold(leaf)] += 1
            values.setdefault((path, fold(leaf)), leaf)
    wholes = {
        path[:length] for path in seen for length in range(1, len(path))
    }  # null in some rows, an object in others
    most = {
        path: max(counts.items(), key=lambda item: (item[1], item[0]))[0]
        for path, counts in seen.items()
        if path not in wholes
    }
    return unflatten({path: values[path, key] for path, key in most.items()})


def _match_definitions(texts: Sequence[str], labels: Labels) -> list[str] | str:
    """Each row's label whose "name: definition" is nearest, or why there is none."""
    near = _compare_definitions(texts, labels)
    return near if isinstance(near, str) else [labels[place][0] for place in near.argmax(axis=1)]


def _match_sets(sample: Sample, labels: Labels) -> list[tuple[str, ...]] | str:
    """Each row's labels whose "name: definition" is near enough for as many pairs in all as gold
    has, or why there are none.
    """
    near = _compare_definitions(sample.texts, labels)
    if isinstance(near, str):
        return near
    bound = _find_bound(near.ravel(), sum(map(len, sample.gold)))
    return [
        tuple(name for (name, _), share in zip(labels, row, strict=True) if share >= bound)
        for row in near
    ]


def _match_options(sample: Sample, *, several: bool) -> list[Value] | str:
    """The options of each of the first 500 rows that are nearest to its text, or why there are
    none.
    """
    if any(not options for options in sample.options[:READ]) or not sample.texts:
        return (
            "rows with gold have no options that could be read"
            if sample.texts
            else "no row has gold"
        )
    rows = list(zip(sample.texts[:READ], sample.options[:READ], strict=True))
    texts = list(
        dict.fromkeys(
            text
            for question, options in rows
            for text in (question, *(option.text for option in options))
        )
    )
    try:
        vectors = dict(zip(texts, encode(texts), strict=True))
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    near = [
        {option.letter: float(vectors[question] @ vectors[option.text]) for option in options}
        for question, options in rows
    ]
    if not several:
        return [max(shares, key=shares.__getitem__) for shares in near]
    bound = _find_bound(
        np.array([share for shares in near for share in shares.values()]),
        sum(map(len, sample.gold[:READ])),
    )
    return [tuple(letter for letter, share in shares.items() if share >= bound) for shares in near]


def _compare_definitions(texts: Sequence[str], labels: Labels) -> NDArray[np.float32] | str:
    """[texts, labels] of similarities, or why there are none."""
    if not texts or not labels:
        return "no row has gold"
    try:
        wanted = encode([describe_meaning(name, definition) for name, definition in labels])
    except MissingExtra as missing:
        return f"{missing} ({missing.fix})"
    return np.asarray(encode(texts) @ wanted.T)


def _find_bound(shares: NDArray[np.float32], count: int) -> float:
    """The share that so many are not below."""
    return float(np.partition(shares, -count)[-count]) if 0 < count <= len(shares) else np.inf

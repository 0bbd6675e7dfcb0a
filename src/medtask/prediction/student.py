"""The student of a cascade: a linear classifier that learns a model's answers to a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.prediction.kinds import get_kind_prediction
from medtask.prediction.probabilities import Probabilities
from medtask.prediction.student_vectors import EncodeTexts
from medtask.records import Answer, Value, comparable_value, list_names
from medtask.tasks.task import STUDENT_PASS, Task

# Of these, the ones with the highest chi-squared statistic are kept.
MAX_TERMS = 50_000
STRENGTH = 30.0


@dataclass(frozen=True, slots=True)
class TaughtRows:
    """Rows that the model has answered.

    Attributes:
        texts: The bare inputs.
        answers: The model's answers.
        groups: The rows' groups.
    """

    texts: Sequence[str]
    answers: Sequence[Answer]
    groups: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def model_s_per_row(self) -> float:
        """The model's time per row, in seconds."""
        return sum(answer.ms for answer in self.answers) / 1000 / len(self)


@dataclass(frozen=True, slots=True)
class Student:
    """A fitted student.

    Attributes:
        task: The task, with the thresholds of the student.
        names: The outcomes, in the order of the probabilities.
        counts: The vectorizers, see `TermCounts`.
        classifier: The fitted `TextClassifier`.
        encode: Encodes texts as vectors, which it uses beside their terms; None without them.
    """

    task: Task
    names: Sequence[str]
    counts: Any
    classifier: Any
    encode: EncodeTexts | None = None

    def answer(self, record_ids: Sequence[str], texts: Sequence[str]) -> list[Answer]:
        """The student's answers to texts; their probabilities estimate those of the model."""
        vectors = self.encode(texts) if self.encode else None
        counts = self.counts.count_texts(texts, vectors)
        rows = _normalize(self.task, self.classifier.predict(counts))
        return [
            _make_answer(self.task, record_id, dict(zip(self.names, row, strict=True)))
            for record_id, row in zip(record_ids, rows.tolist(), strict=True)
        ]


def fit_student(task: Task, rows: TaughtRows, encode: EncodeTexts | None = None) -> Student | None:
    """Fit a student on answers; None if they are all the same, or if the texts have no words.

    With ``encode``, vectors of the texts are features as well as their terms.
    """
    from medtask.evaluation.baselines.text_classifier import fit_text_classifier

    names, known, gold = _encode_answers(task, rows)
    if not len(known) or not _can_be_learnt(task, gold):
        return None
    try:
        counts = _count_features([rows.texts[row] for row in known], encode)
        classifier = fit_text_classifier(counts, gold, names, _choose_settings(counts))
    except ValueError:
        return None
    fitted = replace(counts, counts={}, vectors=None)
    return Student(_drop_thresholds(task), names, fitted, classifier, encode)


def predict_held_out_answers(
    task: Task, rows: TaughtRows, is_measured: NDArray[np.bool_], encode: EncodeTexts | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence of students in rows that they have not learnt, and whether these answers differ.

    Only the measured rows are in the result. Folds keep equal texts and groups together. Both are
    empty if no student can be fitted.
    """
    from medtask.evaluation.baselines.classifier_search import (
        HeldOutRows,
        build_folds,
        predict_held_out,
    )

    nothing = np.zeros(0), np.zeros(0, dtype=bool)
    names, known, gold = _encode_answers(task, rows)
    if not len(known) or not _can_be_learnt(task, gold):
        return nothing
    texts, groups = [rows.texts[row] for row in known], [rows.groups[row] for row in known]
    folds = build_folds(texts, gold, groups)
    try:
        counts = _count_features(texts, encode)
        parts = [
            HeldOutRows(
                counts.select_rows(train), gold[train], counts.select_rows(other), gold[other]
            )
            for train, other in folds
        ]
        probabilities = _normalize(task, predict_held_out(parts, names, _choose_settings(counts)))
    except ValueError:
        return nothing
    held_out = np.array(known)[np.concatenate([other for _, other in folds])]
    measured = np.flatnonzero(is_measured[held_out])
    student_task = _drop_thresholds(task)
    answers = [
        _make_answer(student_task, "", dict(zip(names, row, strict=True)))
        for row in probabilities[measured].tolist()
    ]
    taught = [rows.answers[row] for row in held_out[measured].tolist()]
    return measure_agreement(task, answers, taught)


def measure_agreement(
    task: Task, answers: Sequence[Answer], taught: Sequence[Answer]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The student's confidence in each row, and whether its answer differs from the model's."""
    confidence = np.array([get_student_confidence(answer) for answer in answers], dtype=float)
    differs = [
        read_answer_value(task, one) != read_answer_value(task, other)
        for one, other in zip(answers, taught, strict=True)
    ]
    return confidence, np.array(differs, dtype=bool)


def get_student_confidence(answer: Answer) -> float:
    """The student's probability of its answer, which may be an abstention."""
    if answer.confidence is not None:
        return answer.confidence
    return max((answer.probabilities or {}).values(), default=0.0)


def read_answer_value(task: Task, answer: Answer) -> Value | None:
    """The value that is compared; None without an answer."""
    return comparable_value(answer.status, answer.value, task.abstain_name)


def _encode_answers(
    task: Task, rows: TaughtRows
) -> tuple[tuple[str, ...], list[int], NDArray[np.float64]]:
    """The outcomes, the rows that have an answer, and the probabilities of their outcomes.

    Probabilities say more than the answer: a student needs half as many rows. Where they do not
    lead to the answer, as with thresholds, they are 0 and 1.
    """
    names = tuple(label.name for label in (task.labels if task.several else task.candidates))
    student_task, known, table = _drop_thresholds(task), [], []
    for row, answer in enumerate(rows.answers):
        value = read_answer_value(task, answer)
        if value is None:
            continue
        shares = {name: float(name in list_names(value)) for name in names}
        if answer.probabilities and answer.probabilities.keys() == shares.keys():
            own = _make_answer(student_task, "", dict(answer.probabilities))
            if read_answer_value(task, own) == value:
                shares = dict(answer.probabilities)
        known.append(row)
        table.append([shares[name] for name in names])
    return names, known, np.array(table, dtype=np.float64).reshape(len(known), len(names))


def _count_features(texts: Sequence[str], encode: EncodeTexts | None) -> Any:
    """The features of texts. Raises ValueError if no text has a term."""
    from medtask.evaluation.baselines.text_classifier import count_terms

    counts = count_terms(texts)
    return counts if encode is None else replace(counts, vectors=encode(texts))


def _can_be_learnt(task: Task, gold: NDArray[np.float64]) -> bool:
    """Whether the answers differ."""
    decided = gold >= 0.5 if task.several else gold.argmax(axis=1)
    return len(np.unique(decided, axis=0)) > 1


def _normalize(task: Task, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities that sum to 1 for one label, from one regression per label."""
    if task.several:
        return probabilities
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True), dtype=np.float64)


def _choose_settings(counts: Any) -> Any:
    from medtask.evaluation.baselines.text_classifier import ClassifierSettings

    return ClassifierSettings(counts.list_features()[-1], MAX_TERMS, STRENGTH)


def _drop_thresholds(task: Task) -> Task:
    """The task with the usual thresholds: the student learns which labels the model has given."""
    return get_kind_prediction(task).replace_thresholds({}) or task


def _make_answer(task: Task, record_id: str, probabilities: dict[str, float]) -> Answer:
    decided = get_kind_prediction(task).decide_from_probabilities(
        record_id, Probabilities(probabilities, None, 0.0)
    )
    return replace(decided, pass_name=STUDENT_PASS)

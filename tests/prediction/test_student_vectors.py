from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medtask.errors import MissingExtra
from medtask.prediction.student import fit_student, measure_agreement
from medtask.prediction.student_vectors import SentenceVectors, choose_vectors
from medtask.similarity import encode_texts
from prediction.test_student import TASK, teach


def encode_lengths(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array([[len(text)] for text in texts], dtype=np.float32)


def encode_slowly(texts: Sequence[str]) -> NDArray[np.float32]:
    time.sleep(0.002 * len(texts))
    return encode_lengths(texts)


def encode_nothing(texts: Sequence[str]) -> NDArray[np.float32]:
    raise MissingExtra("no encoder is installed", fix="install one")


def test_vectors_are_chosen_if_they_are_ten_times_faster_than_the_model() -> None:
    fast, slow = SentenceVectors(encode_lengths), SentenceVectors(encode_slowly)
    assert choose_vectors(fast, ["a", "b"], model_s_per_row=0.01) is fast
    assert choose_vectors(slow, ["a", "b"], model_s_per_row=0.01) is None
    assert slow.seconds_per_text >= 0.002


def test_without_an_encoder_there_are_no_vectors() -> None:
    assert choose_vectors(SentenceVectors(encode_nothing), ["a"], model_s_per_row=1.0) is None


def test_each_text_is_encoded_once_and_in_the_order_of_the_texts() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return encode_lengths(texts)

    vectors = SentenceVectors(encode)
    assert vectors(["aa", "b", "aa"])[:, 0].tolist() == [2, 1, 2]
    assert vectors(["ccc", "b"])[:, 0].tolist() == [3, 1]
    assert vectors(["aa"])[:, 0].tolist() == [2]
    assert asked == ["aa", "b", "ccc"]


def test_a_student_learns_from_the_meaning_of_words_that_it_has_not_seen() -> None:
    taught = teach(TASK)
    new = ["hepatectomy", "removal of the hepatic tumour", "large bowel excision", "sigmoidectomy"]
    agreed = []
    for encode in (None, SentenceVectors(encode_texts)):
        student = fit_student(TASK, taught, encode)
        assert student is not None
        _, differs = measure_agreement(
            TASK, student.answer([""] * len(taught), taught.texts), taught.answers
        )
        assert differs.mean() < 0.05
        answers = student.answer([""] * len(new), new)
        agreed.append([answer.probabilities["liver"] for answer in answers if answer.probabilities])
    terms, meaning = agreed
    assert np.ptp(meaning) > np.ptp(terms)
    assert min(meaning[:2]) > max(meaning[2:])

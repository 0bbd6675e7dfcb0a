"""Text classifiers: what is fitted on some rows depends on these rows alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from medtask.evaluation.baselines.text_classifier import (
    ClassifierSettings,
    count_terms,
    fit_text_classifier,
)

PLACES = ("knee", "wrist", "brain")
TEXTS = [
    f"{verb} of the {side} {place} {number}"
    for number, place in enumerate(PLACES * 6)
    for verb, side in (("imaging", "left"), ("follow-up", "right"))
]
GOLD = np.array([index % 3 for index in range(18) for _ in range(2)])
WORDS = ClassifierSettings("words", 50_000, 10.0)


@given(st.sets(st.integers(0, len(TEXTS) - 1), min_size=12))
@settings(max_examples=15, deadline=None)
def test_a_fit_on_some_rows_equals_scikit_learns_fit_on_their_texts(chosen: set[int]) -> None:
    rows = np.array(sorted(chosen))
    if len(set(GOLD[rows])) < 3:
        return
    counts = count_terms(TEXTS)
    model = fit_text_classifier(counts.select_rows(rows), GOLD[rows], PLACES, WORDS)
    pipeline = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        OneVsRestClassifier(
            LogisticRegression(C=10.0, solver="liblinear", dual=True, tol=0.1, random_state=0)
        ),
    ).fit([TEXTS[row] for row in rows], np.asarray(PLACES)[GOLD[rows]])
    columns = [pipeline.classes_.tolist().index(place) for place in PLACES]
    expected = pipeline.predict_proba(TEXTS)[:, columns]
    assert model.predict(counts) == pytest.approx(expected, abs=1e-9)


def test_a_limit_keeps_the_terms_that_depend_on_the_label() -> None:
    counts = count_terms(TEXTS)
    model = fit_text_classifier(counts, GOLD, PLACES, replace(WORDS, terms=3))
    (vectorizer,) = model.build_vectorizers(counts)
    assert set(vectorizer.vocabulary_) == set(PLACES)
    assert model.predict(counts).argmax(axis=1).tolist() == GOLD.tolist()


@pytest.mark.parametrize("features", ["words", "letters", "words and letters"])
def test_the_vectorizers_give_the_features_that_were_fitted(features: str) -> None:
    counts = count_terms(TEXTS)
    chosen = ClassifierSettings(features, 40, 10.0)
    model = fit_text_classifier(counts, GOLD, PLACES, chosen)
    names = ["words"] * (features != "letters") + ["letters"] * (features != "words")
    for name, vectorizer in zip(names, model.build_vectorizers(counts), strict=True):
        fitted = model.transformers[name].transform(counts.counts[name][:, model.columns[name]])
        difference = abs(vectorizer.transform(TEXTS) - fitted).max()
        assert difference == pytest.approx(0, abs=1e-12)


def test_vowel_signs_do_not_split_words() -> None:
    hindi = ["सीने में दर्द", "घुटने में सूजन"] * 6
    counts = count_terms(hindi)
    terms = set(counts.vectorizers["words"].vocabulary_)
    assert {"सीने", "दर्द", "घुटने", "सूजन", "सीने में"} <= terms
    (vectorizer,) = fit_text_classifier(
        counts, np.array([0, 1] * 6), PLACES[:2], WORDS
    ).build_vectorizers(counts)
    assert vectorizer.transform(["दर्द"]).nnz == 1


def test_a_label_without_rows_gets_no_probability() -> None:
    rows = np.flatnonzero(GOLD != 1)
    counts = count_terms(TEXTS)
    model = fit_text_classifier(counts.select_rows(rows), GOLD[rows], PLACES, WORDS)
    probabilities = model.predict(counts)
    assert (probabilities[:, 1] == 0).all()
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_texts_without_letters_are_refused() -> None:
    with pytest.raises(ValueError, match="the texts have no terms"):
        count_terms(["", "  "])

"""Counts of character n-grams compared with scikit-learn's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from medtask.evaluation.baselines.letter_counts import LetterCounter

TEXTS = st.lists(
    st.text(st.sampled_from("abAÅ \n\u00a0,-İß胃ก่"), max_size=20), min_size=1, max_size=6
)


@given(TEXTS, TEXTS, st.sampled_from([(2, 5), (3, 4), (1, 1)]))
def test_counts_equal_those_of_scikit_learn(
    texts: list[str], others: list[str], ngram_range: tuple[int, int]
) -> None:
    reference = CountVectorizer(analyzer="char_wb", ngram_range=ngram_range)
    counter = LetterCounter(ngram_range)
    try:
        expected = reference.fit_transform(texts).toarray()
    except ValueError:
        with pytest.raises(ValueError, match="no terms"):
            counter.fit_transform(texts)
        return
    assert counter.fit_transform(texts).toarray().tolist() == expected.tolist()
    assert list(counter.get_feature_names_out()) == list(reference.get_feature_names_out())
    assert (
        counter.transform(others).toarray().tolist()
        == reference.transform(others).toarray().tolist()
    )

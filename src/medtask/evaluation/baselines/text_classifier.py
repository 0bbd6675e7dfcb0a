"""Logistic regression on TF-IDF features of words and character n-grams.

Texts are counted once. Term selection, inverse document frequencies and weights are then fitted on
any selection of the rows, so that a row that is held out has no part in them.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.baselines.letter_counts import LetterCounter
from medtask.unicode_text import split_terms

# Character n-grams inside words, with the spaces at their ends, match stems ("-ectomy"), compounds
# and typing errors. Word pairs help on abstracts, where uninformative ones are left out.
_WORDS, _LETTERS = (1, 2), (2, 5)
_ANALYZERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "words": {"tokenizer": split_terms, "token_pattern": None, "ngram_range": _WORDS},
        "letters": {"analyzer": "char_wb", "ngram_range": _LETTERS},
    }
)
FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"words": ("words",), "letters": ("letters",), "words and letters": ("words", "letters")}
)
NORMAL_FORM: Literal["NFC"] = "NFC"
_MAX_TERMS_PER_ANALYZER = 50_000
MIN_SHARE = 0.001  # probabilities nearer to 0 or 1 are not distinguished
# The weights are a dense table of terms by labels: many labels get fewer terms.
_MAX_WEIGHTS = 10_000_000


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """Settings of a classifier.

    Attributes:
        features: A key of `FEATURES`.
        terms: The maximum number of terms; those with the highest chi-squared statistic are kept.
        strength: The inverse strength of the penalty, scikit-learn's C.
    """

    features: str
    terms: int
    strength: float


@dataclass(frozen=True, slots=True)
class TermCounts:
    """The terms of texts and how often each text has them, by analyzer.

    Attributes:
        vectorizers: A fitted counter of each analyzer; one that finds no term is left out.
        counts: Sparse tables [rows, terms].
        vectors: Further features of the texts [rows, dimensions], such as sentence vectors; None
            without any.
    """

    vectorizers: Mapping[str, Any]
    counts: Mapping[str, Any]
    vectors: NDArray[np.float32] | None = None

    def select_rows(self, rows: NDArray[np.int64]) -> TermCounts:
        """The counts of some rows."""
        return replace(
            self,
            counts={name: table[rows] for name, table in self.counts.items()},
            vectors=None if self.vectors is None else self.vectors[rows],
        )

    def count_texts(
        self, texts: Sequence[str], vectors: NDArray[np.float32] | None = None
    ) -> TermCounts:
        """The counts of other texts, and their vectors; their new terms are ignored."""
        return replace(
            self,
            counts={
                name: one.transform(_normalize_texts(texts))
                for name, one in self.vectorizers.items()
            },
            vectors=vectors,
        )

    def list_features(self) -> list[str]:
        """The features that these texts have, by their keys in `FEATURES`."""
        return [name for name, parts in FEATURES.items() if set(parts) <= self.counts.keys()]


def count_terms(texts: Sequence[str]) -> TermCounts:
    """Count the terms of texts. Raises ValueError if no text has any."""
    from sklearn.feature_extraction.text import CountVectorizer

    counters = {"words": CountVectorizer(**_ANALYZERS["words"]), "letters": LetterCounter(_LETTERS)}
    vectorizers, counts = {}, {}
    for name, counter in counters.items():
        try:
            counts[name] = counter.fit_transform(_normalize_texts(texts))
        except ValueError:
            continue  # the vocabulary is empty: "a b" has letters, but no words
        vectorizers[name] = counter
    if not counts:
        raise ValueError("the texts have no terms")
    return TermCounts(vectorizers, counts)


def _normalize_texts(texts: Sequence[str]) -> list[str]:
    """The texts in `NORMAL_FORM`: decomposed letters have the terms of composed ones."""
    return [unicodedata.normalize(NORMAL_FORM, text) for text in texts]


@dataclass(frozen=True, slots=True)
class TextClassifier:
    """A fitted classifier.

    Attributes:
        labels: All labels, in the order of the probabilities.
        columns: The selected terms of each analyzer, as columns of its counts.
        transformers: The fitted TfidfTransformer of each analyzer.
        classifier: A fitted OneVsRestClassifier, or `ProbabilityRegressions`.
    """

    labels: tuple[str, ...]
    columns: Mapping[str, NDArray[np.int64]]
    transformers: Mapping[str, Any]
    classifier: Any

    def predict(self, counts: TermCounts) -> NDArray[np.float64]:
        """Probabilities [rows, labels]; 0 for labels without a training row."""
        terms = _join_features(
            [
                transformer.transform(counts.counts[name][:, self.columns[name]])
                for name, transformer in self.transformers.items()
            ],
            counts.vectors,
        )
        found: NDArray[np.float64] = self.classifier.predict_proba(terms)
        if self.classifier.multilabel_ or len(self.labels) == 1:
            # A single label is stored with its complement before it.
            return found[:, -len(self.labels) :]
        probabilities = np.zeros((found.shape[0], len(self.labels)))
        columns = [self.labels.index(str(name)) for name in self.classifier.classes_]
        probabilities[:, columns] = found
        return probabilities

    def build_vectorizers(self, counts: TermCounts) -> list[Any]:
        """One fitted TfidfVectorizer for each analyzer, restricted to the selected terms."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizers = []
        for name, columns in self.columns.items():
            terms = counts.vectorizers[name].get_feature_names_out()[columns]
            vectorizer = TfidfVectorizer(
                **_ANALYZERS[name],
                sublinear_tf=True,
                vocabulary={str(term): column for column, term in enumerate(terms)},
            )
            vectorizer.fit(["any text"])  # keeps the given vocabulary
            vectorizer.idf_ = self.transformers[name].idf_
            vectorizers.append(vectorizer)
        return vectorizers


@dataclass(frozen=True, slots=True)
class ProbabilityRegressions:
    """One logistic regression per label, fitted on probabilities.

    It predicts like a OneVsRestClassifier for several labels.
    """

    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    multilabel_: bool = True

    def predict_proba(self, terms: Any) -> NDArray[np.float64]:
        """Probabilities [rows, labels]."""
        from scipy.special import expit

        return np.asarray(expit(terms @ self.weights + self.intercepts), dtype=np.float64)


def fit_text_classifier(
    counts: TermCounts,
    gold: NDArray[np.int64] | NDArray[np.float64],
    labels: Sequence[str],
    settings: ClassifierSettings,
) -> TextClassifier:
    """Fit a classifier.

    Args:
        counts: The rows.
        gold: The index of each row's label [rows], or a table of 0 and 1 [rows, labels], or a table
            of the probability of each label.
        labels: The names of the labels.
        settings: See `ClassifierSettings`.

    Raises:
        ValueError: The rows have no terms, or only one label.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    parts = FEATURES[settings.features]
    is_soft = gold.dtype.kind == "f"
    targets: NDArray[Any]
    if gold.ndim == 2:
        targets = (gold >= 0.5).astype(np.int64) if is_soft else gold
    else:
        targets = np.asarray(labels, dtype=object)[gold].astype(str)
    columns = _select_terms(counts, parts, targets, min(settings.terms, _limit_terms(labels)))
    transformers, tables = {}, []
    for name in columns:
        transformer = TfidfTransformer(sublinear_tf=True)
        tables.append(transformer.fit_transform(counts.counts[name][:, columns[name]]))
        transformers[name] = transformer
    # One liblinear fit per label: as good as one joint fit, and ten times faster. The dual problem
    # with this tolerance has the same log loss to three digits in a third of the time.
    regression = LogisticRegression(
        C=settings.strength, solver="liblinear", dual=True, tol=0.1, random_state=0
    )
    terms = _join_features(tables, counts.vectors)
    with warnings.catch_warnings():
        # A fold may lack a label, and a weak penalty may need more iterations.
        warnings.simplefilter("ignore", UserWarning)
        classifier = (
            _fit_probabilities(regression, terms, np.asarray(gold, dtype=np.float64))
            if is_soft
            else OneVsRestClassifier(regression).fit(terms, targets)
        )
    return TextClassifier(tuple(labels), columns, transformers, classifier)


def _join_features(tables: Sequence[Any], vectors: NDArray[np.float32] | None) -> Any:
    from scipy.sparse import csr_array, hstack

    further = [] if vectors is None else [csr_array(vectors.astype(np.float64))]
    return hstack([*tables, *further], format="csr")


def _fit_probabilities(
    regression: Any, terms: Any, shares: NDArray[np.float64]
) -> ProbabilityRegressions:
    """Fit on each row twice, with and without the label, weighted by its probability."""
    from scipy.sparse import vstack

    count = len(shares)
    doubled = vstack([terms, terms], format="csr")
    has_label = np.repeat([0, 1], count)
    weights, intercepts = [], []
    # Rows without any weight would be dropped, and with them a label that no row has.
    for share in np.clip(shares, MIN_SHARE, 1 - MIN_SHARE).T:
        row_weights = np.concatenate([1 - share, share])
        fitted = regression.fit(doubled, has_label, sample_weight=row_weights)
        weights.append(fitted.coef_[0].copy())
        intercepts.append(float(fitted.intercept_[0]))
    return ProbabilityRegressions(np.array(weights).T, np.array(intercepts))


def _limit_terms(labels: Sequence[str]) -> int:
    return max(1, _MAX_WEIGHTS // max(1, len(labels)))


def _select_terms(
    counts: TermCounts, parts: Sequence[str], targets: NDArray[Any], limit: int
) -> dict[str, NDArray[np.int64]]:
    """The columns of the terms that depend most on the label, by the chi-squared statistic."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.feature_selection import chi2

    columns = {name: _list_frequent_terms(counts.counts[name]) for name in parts}
    columns = {name: found for name, found in columns.items() if len(found)}
    if sum(map(len, columns.values())) <= limit:
        if not columns:
            raise ValueError("the texts have no terms")
        return columns
    tables = [
        TfidfTransformer(sublinear_tf=True).fit_transform(counts.counts[name][:, columns[name]])
        for name in columns
    ]
    statistics = np.nan_to_num(chi2(hstack(tables, format="csr"), targets)[0])
    # A stable order keeps the result independent of the platform where statistics are equal.
    chosen = np.zeros(len(statistics), dtype=bool)
    chosen[np.argsort(-statistics, kind="stable")[:limit]] = True
    selected, first = {}, 0
    for name, found in columns.items():
        kept = found[chosen[first : first + len(found)]]
        first += len(found)
        if len(kept):
            selected[name] = kept
    return selected


def _list_frequent_terms(counts: Any) -> NDArray[np.int64]:
    """The columns of the terms that occur, at most `_MAX_TERMS_PER_ANALYZER` of them."""
    totals = np.asarray(counts.sum(axis=0)).ravel()
    order = np.argsort(-totals, kind="stable")[:_MAX_TERMS_PER_ANALYZER]
    return np.sort(order[totals[order] > 0])

"""The `linear` engine: logistic regression on TF-IDF features, stored without pickle.

A folder contains ``linear.json`` (settings of the vectorizers, and all terms), ``linear.npz``
(their weights) and ``medtask.json`` (see model_metadata.py). Probabilities equal those of
scikit-learn's ``predict_proba`` on the saved pipeline.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from medtask.atomic_files import make_storage_error, replace_file
from medtask.display import format_path, quote_names
from medtask.engines.base import Caps, Engine, EngineInfo, Rendering
from medtask.engines.label_head import LabelHead
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.model_metadata import (
    ModelMetadata,
    hash_model_metadata,
    read_model_metadata,
    write_model_metadata,
)
from medtask.engines.specs import BUILT_IN_ENGINES
from medtask.engines.tokens.trie import log_softmax
from medtask.errors import InputError
from medtask.kinds import KINDS
from medtask.records import Fault, Prompt, Scores
from medtask.unicode_text import split_terms

FEATURES_FILE, WEIGHTS_FILE = "linear.json", "linear.npz"
BATCH_ROWS = 1024

# The link from decision values to probabilities: "softmax" over the labels, a logistic function per
# label ("each"), or the same renormalised to sum to 1 ("shared"), as OneVsRestClassifier does for
# one correct label.
Link = Literal["softmax", "each", "shared"]
NormalForm = Literal["NFC"]

# All settings that affect the terms and weights of a text. Not "input": with it a vectorizer would
# read files named by the texts.
_VECTORIZER_SETTINGS = (
    "analyzer",
    "binary",
    "lowercase",
    "ngram_range",
    "norm",
    "stop_words",
    "strip_accents",
    "sublinear_tf",
    "token_pattern",
    "use_idf",
)
# Any other pattern from a file could take hours on a text.
_TOKEN_PATTERNS = (None, r"(?u)\b\w\w+\b", r"(?u)\b\w+\b", r"\w\w+", r"\w+")
_MAX_NGRAM = 16  # words or letters; training uses 5
# The only functions that a stored vectorizer can name.
_TOKENIZERS = {"split_terms": split_terms}
_RETRAIN_FIX = "train the model again"


@dataclass(frozen=True, slots=True)
class LinearModel:
    """A fitted pipeline of vectorizers and a linear classifier.

    Attributes:
        vectorizers: The vectorizers whose features are concatenated.
        weights: [terms, labels], with the terms of all vectorizers concatenated.
        intercepts: [labels].
        link: The link from decision values to probabilities.
        normal_form: The Unicode normal form that texts are converted to; None for no conversion.
    """

    vectorizers: tuple[Any, ...]
    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    link: Link
    normal_form: NormalForm | None = None

    def score_texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[texts, labels]: natural-log probabilities, or log-odds for link "each"."""
        from scipy.sparse import hstack

        if self.normal_form:
            texts = [unicodedata.normalize(self.normal_form, text) for text in texts]
        terms = hstack(
            [vectorizer.transform(texts) for vectorizer in self.vectorizers], format="csr"
        )
        logits: NDArray[np.float64] = np.asarray(terms @ self.weights) + self.intercepts
        match self.link:
            case "softmax":
                return log_softmax(logits)
            case "shared":
                return log_softmax(-np.logaddexp(0.0, -logits))
        return logits


class LinearEngine(Engine):
    """Scores labels from ``Prompt.text`` alone, of any length."""

    caps = Caps(score="exact", batch_invariant=True)

    def __init__(self, model: LinearModel, head: LabelHead, info: EngineInfo) -> None:
        self.model = model
        self.head = head
        self.info = info

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        # Rows are independent of each other: cached ones can be skipped.
        new_prompts = [prompt for prompt in prompts if prompt.record_id not in cached]
        for start in range(0, len(new_prompts), BATCH_ROWS):
            batch = new_prompts[start : start + BATCH_ROWS]
            start_time = time.perf_counter()
            rows = self.model.score_texts([prompt.text for prompt in batch])
            scored = [
                self.head.score_branches(prompt, row)
                for prompt, row in zip(batch, rows, strict=True)
            ]
            ms = (time.perf_counter() - start_time) * 1000 / len(batch)
            yield from (
                Scores(prompt.record_id, branches, ms=ms)
                for prompt, branches in zip(batch, scored, strict=True)
            )

    def render(self, prompt: Prompt) -> Rendering:
        candidates = (
            self.head.describe_candidates(prompt.branches[0])
            if self.head.find_label_indices(prompt)
            else ()
        )
        return Rendering(prompt.text, candidates, (), ((),) * len(candidates))


def load_linear(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> LinearEngine:
    """Load a folder saved by save_linear; InputError if it is incomplete.

    A product of sparse and dense matrices uses one thread, whatever ``options`` allow.
    """
    folder = Path(reference).expanduser()
    metadata = read_model_metadata(folder)
    if metadata.engine != "linear":
        raise InputError(
            f"{format_path(folder)} holds a model of the {metadata.engine} engine, not a linear "
            "model",
            fix=f"--model {reference}",
        )
    if absent := [name for name in (FEATURES_FILE, WEIGHTS_FILE) if name not in metadata.sha256]:
        raise InputError(f"{format_path(folder)} has no file {absent[0]}", fix=_RETRAIN_FIX)
    model = _read_model(folder, metadata)
    details = {
        "threads": 1,
        "terms": len(model.weights),
        **metadata.list_details(),
    }
    identity = {"model": reference, "contract": hash_model_metadata(folder)}
    return LinearEngine(
        model,
        LabelHead.from_metadata(reference, metadata),
        EngineInfo(
            "linear",
            f"{reference}, TF-IDF and logistic regression",
            identity,
            BUILT_IN_ENGINES["linear"].traits,
            details=details,
        ),
    )


def save_linear(
    folder: Path,
    vectorizer: Any,
    classifier: Any,
    metadata: ModelMetadata,
    normal_form: NormalForm | None = None,
) -> ModelMetadata:
    """Write a fitted pipeline as a model folder, without pickle; returns the metadata with hashes.

    Args:
        folder: The folder to write.
        vectorizer: A fitted TfidfVectorizer, or several whose features are concatenated.
        classifier: A LogisticRegression, or a OneVsRestClassifier of them, fitted on the features:
            for kind "label" on label names, for kind "labels" on [rows, labels] of 0 and 1 in the
            order of ``metadata.labels``.
        metadata: The metadata of the model, without hashes.
        normal_form: The Unicode normal form of the texts that the pipeline was fitted on, to which
            other texts are converted; None for no conversion.

    Returns:
        The metadata with hashes.

    Raises:
        InputError: A part cannot be stored as numbers (a function as analyzer, a label without
            examples).
        StorageError: The folder cannot be written.
    """
    vectorizers = tuple(vectorizer) if isinstance(vectorizer, list | tuple) else (vectorizer,)
    link, weights, intercepts = _read_classifier(classifier, metadata)
    features = {
        "link": link,
        "features": [_describe_vectorizer(one) for one in vectorizers],
        "normal_form": normal_form,
    }
    arrays = {f"idf_{place}": one.idf_ for place, one in enumerate(vectorizers) if one.use_idf}
    if len(weights) != (terms := sum(len(one.vocabulary_) for one in vectorizers)):
        raise InputError(
            f"the classifier has {len(weights):,} weights a label for {terms:,} terms",
            fix="save what was fitted together",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise make_storage_error(folder, error) from error
    with replace_file(folder / FEATURES_FILE) as draft:
        draft.write_text(json.dumps(features), encoding="utf-8")
    with replace_file(folder / WEIGHTS_FILE) as draft, draft.open("wb") as file:
        np.savez_compressed(file, weights=weights, offsets=intercepts, **arrays)
    return write_model_metadata(folder, metadata)


def _read_classifier(
    classifier: Any, metadata: ModelMetadata
) -> tuple[Link, NDArray[np.float64], NDArray[np.float64]]:
    """The link, the weights [terms, labels] and the intercepts [labels] of a classifier."""
    one_per_label = hasattr(classifier, "estimators_")
    parts = classifier.estimators_ if one_per_label else [classifier]
    if not all(hasattr(part, "coef_") for part in parts):
        raise InputError(
            "a label has no examples, or all rows have it",
            fix="leave such labels out before fitting",
        )
    weights = np.concatenate([part.coef_ for part in parts]).astype(np.float64)
    intercepts = np.concatenate([part.intercept_ for part in parts]).astype(np.float64)
    link: Link = "shared" if one_per_label else "softmax"
    if not KINDS[metadata.kind].exclusive:
        if (
            len(weights) != len(metadata.labels)
            or not one_per_label
            or (len(weights) > 1 and not classifier.multilabel_)
        ):
            raise InputError(
                "kind labels needs one classifier per label",
                fix="fit a OneVsRestClassifier on a table of 0 and 1",
            )
        return "each", weights.T, intercepts
    if len(weights) == 1:
        # Two labels have one row of weights; the softmax over (0, z) is its logistic function.
        link = "softmax"
        weights = np.vstack([0 * weights, weights])
        intercepts = np.concatenate([0 * intercepts, intercepts])
    elif not one_per_label and classifier.solver == "liblinear":
        raise InputError(
            "liblinear fits one label at a time",
            fix="put the LogisticRegression into a OneVsRestClassifier",
        )
    classes = [str(name) for name in classifier.classes_]
    if set(classes) != set(metadata.labels) or len(classes) != len(metadata.labels):
        differing_labels = sorted(set(classes) ^ set(metadata.labels))
        raise InputError(
            "the classifier was not fitted on the labels of the metadata: "
            f"{quote_names(differing_labels)}",
            fix="give the labels that it was fitted on",
        )
    order = [classes.index(label) for label in metadata.labels]
    return link, weights[order].T, intercepts[order]


def _describe_vectorizer(vectorizer: Any) -> dict[str, Any]:
    settings = {name: getattr(vectorizer, name) for name in _VECTORIZER_SETTINGS}
    names = {function: name for name, function in _TOKENIZERS.items()}
    unusable = ["preprocessor"] if vectorizer.preprocessor is not None else []
    if vectorizer.tokenizer in names:
        settings["tokenizer"] = names[vectorizer.tokenizer]
    elif vectorizer.tokenizer is not None:
        unusable.append("tokenizer")
    unusable += [name for name, value in settings.items() if callable(value)]
    unusable += ["token_pattern"] if settings["token_pattern"] not in _TOKEN_PATTERNS else []
    if unusable or vectorizer.dtype != np.float64:
        raise InputError(
            f"a function, a pattern or a number format that a model cannot keep: "
            f"{unusable or ['dtype']}",
            fix="leave it out",
        )
    stop_words = settings["stop_words"]
    settings["stop_words"] = (
        sorted(stop_words)
        if stop_words is not None and not isinstance(stop_words, str)
        else stop_words
    )
    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    return {"settings": settings, "terms": terms}


def _read_model(folder: Path, metadata: ModelMetadata) -> LinearModel:
    try:
        features = json.loads((folder / FEATURES_FILE).read_text(encoding="utf-8"))
        with np.load(folder / WEIGHTS_FILE, allow_pickle=False) as arrays:
            weights, intercepts = arrays["weights"], arrays["offsets"]
            idfs = [
                arrays[name] if (name := f"idf_{place}") in arrays else None
                for place in range(len(features["features"]))
            ]
        vectorizers = tuple(
            _build_vectorizer(part, idf)
            for part, idf in zip(features["features"], idfs, strict=True)
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        re.error,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(
            f"the linear model in {format_path(folder)} cannot be read ({type(error).__name__})",
            fix=_RETRAIN_FIX,
        ) from None
    links = ("softmax", "shared") if KINDS[metadata.kind].exclusive else ("each",)
    shape = (sum(len(vectorizer.vocabulary_) for vectorizer in vectorizers), len(metadata.labels))
    fits = (
        weights.shape == shape
        and intercepts.shape == shape[1:]
        and features.get("link") in links
        and features.get("normal_form") in (None, "NFC")
    )
    if not fits or not all(
        array.dtype == np.float64 and np.isfinite(array).all() for array in (weights, intercepts)
    ):
        raise InputError(
            f"the linear model in {format_path(folder)} does not fit its labels and terms",
            fix=_RETRAIN_FIX,
        )
    # Folders of earlier versions name no normal form.
    return LinearModel(
        vectorizers, weights, intercepts, features["link"], features.get("normal_form")
    )


def _build_vectorizer(features: Mapping[str, Any], idf: NDArray[np.float64] | None) -> Any:
    settings, terms = features["settings"], features["terms"]
    if set(settings) - {"tokenizer"} != set(_VECTORIZER_SETTINGS) or len(set(terms)) != len(terms):
        raise ValueError("unknown settings, or a repeated term")
    shortest, longest = settings["ngram_range"]
    if (
        settings["token_pattern"] not in _TOKEN_PATTERNS
        or not 1 <= shortest <= longest <= _MAX_NGRAM
    ):
        raise ValueError("a pattern that medtask does not write")
    kwargs = {**settings, "ngram_range": tuple(settings["ngram_range"])}
    if "tokenizer" in settings:
        kwargs["tokenizer"] = _TOKENIZERS[settings["tokenizer"]]
    vectorizer = TfidfVectorizer(
        **kwargs, vocabulary={term: place for place, term in enumerate(terms)}
    )
    vectorizer.fit(["any text"])  # keeps the given vocabulary and checks the settings
    if vectorizer.use_idf:
        vectorizer.idf_ = idf
    return vectorizer

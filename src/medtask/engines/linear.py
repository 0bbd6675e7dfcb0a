"""The `linear` engine: logistic regression on the words of a text, kept in JSON and plain arrays.

A folder holds ``linear.json`` (how texts become words, and all terms), ``linear.npz`` (their
weights) and the contract of trained.py. What is computed from them is what scikit-learn's
``predict_proba`` would say of the pipeline that was saved.
"""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from medtask.data.atomic import replace_file, storage_error
from medtask.data.source import list_names, show_path
from medtask.engines.base import Caps, Engine, EngineInfo, Rendering
from medtask.engines.heads import Head, normalise_logs
from medtask.engines.trained import Trained, hash_contract, read_trained, write_trained
from medtask.errors import InputError
from medtask.records import Fault, Prompt, Scores

WORDS, WEIGHTS = "linear.json", "linear.npz"
ROWS_AT_ONCE = 1024

# How the numbers of the labels become probabilities: together ("softmax"), each for itself
# ("each"), or each for itself and then made to sum to 1 ("shared"), which is what one classifier
# per label means for labels of which
# one is right.
Link = Literal["softmax", "each", "shared"]

# All that decides which terms a text has and what they weigh. Not "input": by it a vectorizer reads
# files that texts name.
_SETTINGS = (
    *(
        "analyzer",
        "binary",
        "lowercase",
        "ngram_range",
        "norm",
        "stop_words",
        "strip_accents",
        "sublinear_tf",
    ),
    *("token_pattern", "use_idf"),
)
_AGAIN = "train the model again"


@dataclass(frozen=True, slots=True)
class LinearModel:
    """``weights``: [terms, labels], the terms of all vectorizers one after the other; ``offsets``:
    [labels].
    """

    vectorizers: tuple[Any, ...]
    weights: NDArray[np.float64]
    offsets: NDArray[np.float64]
    link: Link

    def weigh(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[texts, labels]: natural-log probabilities, or of link "each" log-odds."""
        from scipy.sparse import hstack

        terms = hstack(
            [vectorizer.transform(texts) for vectorizer in self.vectorizers], format="csr"
        )
        numbers: NDArray[np.float64] = np.asarray(terms @ self.weights) + self.offsets
        match self.link:
            case "softmax":
                return normalise_logs(numbers)
            case "shared":
                return normalise_logs(-np.logaddexp(0.0, -numbers))
        return numbers


class LinearEngine(Engine):
    """Reads ``Prompt.text`` and nothing else of a prompt, however long it is."""

    caps = Caps(score="exact", batch_invariant=True)

    def __init__(self, model: LinearModel, head: Head, info: EngineInfo) -> None:
        self.model = model
        self.head = head
        self.info = info

    def score(
        self, prompts: Sequence[Prompt], known: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        # No row's numbers depend on another's, so those that are known can be left out.
        asked = [prompt for prompt in prompts if prompt.record_id not in known]
        for start in range(0, len(asked), ROWS_AT_ONCE):
            batch = asked[start : start + ROWS_AT_ONCE]
            begun = time.perf_counter()
            rows = self.model.weigh([prompt.text for prompt in batch])
            scored = [self.head.score(prompt, row) for prompt, row in zip(batch, rows, strict=True)]
            ms = (time.perf_counter() - begun) * 1000 / len(batch)
            yield from (
                Scores(prompt.record_id, branches, ms=ms)
                for prompt, branches in zip(batch, scored, strict=True)
            )

    def render(self, prompt: Prompt) -> Rendering:
        candidates = self.head.describe(prompt.branches[0]) if self.head.find_places(prompt) else ()
        return Rendering(prompt.text, candidates, (), ((),) * len(candidates))


def load_linear(reference: str) -> LinearEngine:
    """A LinearEngine for a folder that save_linear wrote; InputError for one that is not whole."""
    folder = Path(reference).expanduser()
    trained = read_trained(folder)
    if trained.engine != "linear":
        raise InputError(
            f"{show_path(folder)} holds no linear model but one of the engine {trained.engine}",
            fix=f"--model {reference}",
        )
    if absent := [name for name in (WORDS, WEIGHTS) if name not in trained.sha256]:
        raise InputError(f"{show_path(folder)} holds no {absent[0]}", fix=_AGAIN)
    model = _read_model(folder, trained)
    details = {
        "terms": len(model.weights),
        "labels": list(trained.labels),
        "trained_for": trained.task_fingerprint,
        "base": trained.base,
        "phi": trained.phi,
        "notes": [],
    }
    identity = {"model": reference, "contract": hash_contract(folder)}
    return LinearEngine(
        model,
        Head(reference, trained.kind, trained.labels, trained.abstain, trained.untaught),
        EngineInfo("linear", f"{reference}, TF-IDF and logistic regression", identity, details),
    )


def save_linear(folder: Path, vectorizer: Any, classifier: Any, trained: Trained) -> Trained:
    """Write a fitted pipeline as a model folder, without pickle; returns the contract with its
    hashes.

    ``vectorizer``: a TfidfVectorizer, or several whose terms stand side by side. ``classifier``: a
    LogisticRegression, or a OneVsRestClassifier of them, fitted on what they make of texts. Kind
    "label" wants it fitted on label names, of which ``trained.labels`` gives the order; kind
    "labels" on a table of 0 and 1 whose columns are ``trained.labels``.

    InputError for what cannot be kept in numbers (functions as analyzers, labels without examples);
    StorageError.
    """
    vectorizers = tuple(vectorizer) if isinstance(vectorizer, list | tuple) else (vectorizer,)
    link, weights, offsets = _read_classifier(classifier, trained)
    words = {"link": link, "features": [_describe_words(one) for one in vectorizers]}
    arrays = {f"idf_{place}": one.idf_ for place, one in enumerate(vectorizers) if one.use_idf}
    if len(weights) != (terms := sum(len(one.vocabulary_) for one in vectorizers)):
        raise InputError(
            f"the classifier has {len(weights):,} weights a label for {terms:,} terms",
            fix="save what was fitted together",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise storage_error(folder, error) from error
    with replace_file(folder / WORDS) as draft:
        draft.write_text(json.dumps(words), encoding="utf-8")
    with replace_file(folder / WEIGHTS) as draft, draft.open("wb") as file:
        np.savez_compressed(file, weights=weights, offsets=offsets, **arrays)
    return write_trained(folder, trained)


def _read_classifier(
    classifier: Any, trained: Trained
) -> tuple[Link, NDArray[np.float64], NDArray[np.float64]]:
    """How its numbers become probabilities, [terms, labels] weights and [labels] offsets."""
    several = hasattr(classifier, "estimators_")
    parts = classifier.estimators_ if several else [classifier]
    if not all(hasattr(part, "coef_") for part in parts):
        raise InputError(
            "a label has no example, or nothing but examples",
            fix="leave such labels out before fitting",
        )
    weights = np.concatenate([part.coef_ for part in parts]).astype(np.float64)
    offsets = np.concatenate([part.intercept_ for part in parts]).astype(np.float64)
    link: Link = "shared" if several else "softmax"
    if trained.kind == "labels":
        if (
            len(weights) != len(trained.labels)
            or not several
            or (len(weights) > 1 and not classifier.multilabel_)
        ):
            raise InputError(
                "kind labels takes one classifier per label",
                fix="fit a OneVsRestClassifier on a table of 0 and 1",
            )
        return "each", weights.T, offsets
    if len(weights) == 1:
        # Two labels have one row of weights; the softmax over (0, z) is its logistic function.
        weights, offsets, link = (
            np.vstack([0 * weights, weights]),
            np.concatenate([0 * offsets, offsets]),
            "softmax",
        )
    elif not several and classifier.solver == "liblinear":
        raise InputError(
            "liblinear fits one label at a time",
            fix="put the LogisticRegression into a OneVsRestClassifier",
        )
    classes = [str(name) for name in classifier.classes_]
    if set(classes) != set(trained.labels) or len(classes) != len(trained.labels):
        odd = sorted(set(classes) ^ set(trained.labels))
        raise InputError(
            f"the classifier was not fitted on the labels that are to be named: {list_names(odd)}",
            fix="name what it knows",
        )
    order = [classes.index(label) for label in trained.labels]
    return link, weights[order].T, offsets[order]


def _describe_words(vectorizer: Any) -> dict[str, Any]:
    settings = {name: getattr(vectorizer, name) for name in _SETTINGS}
    unusable = [
        name for name in ("tokenizer", "preprocessor") if getattr(vectorizer, name) is not None
    ]
    unusable += [name for name, value in settings.items() if callable(value)]
    if unusable or vectorizer.dtype != np.float64:
        raise InputError(
            f"a function, or another number format, cannot be kept in JSON: "
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


def _read_model(folder: Path, trained: Trained) -> LinearModel:
    try:
        words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
            weights, offsets = arrays["weights"], arrays["offsets"]
            idfs = [
                arrays[name] if (name := f"idf_{place}") in arrays else None
                for place in range(len(words["features"]))
            ]
        vectorizers = tuple(
            _make_vectorizer(part, idf) for part, idf in zip(words["features"], idfs, strict=True)
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
            f"the linear model in {show_path(folder)} cannot be read ({type(error).__name__})",
            fix=_AGAIN,
        ) from None
    links = {"label": ("softmax", "shared"), "labels": ("each",)}[trained.kind]
    shape = (sum(len(vectorizer.vocabulary_) for vectorizer in vectorizers), len(trained.labels))
    fits = weights.shape == shape and offsets.shape == shape[1:] and words.get("link") in links
    if not fits or not all(
        array.dtype == np.float64 and np.isfinite(array).all() for array in (weights, offsets)
    ):
        raise InputError(
            f"the linear model in {show_path(folder)} does not fit its labels and terms", fix=_AGAIN
        )
    return LinearModel(vectorizers, weights, offsets, words["link"])


def _make_vectorizer(part: Mapping[str, Any], idf: NDArray[np.float64] | None) -> Any:
    settings, terms = part["settings"], part["terms"]
    if set(settings) != set(_SETTINGS) or len(set(terms)) != len(terms):
        raise ValueError("settings that are not known, or a term that stands twice")
    kwargs = {**settings, "ngram_range": tuple(settings["ngram_range"])}
    vectorizer = TfidfVectorizer(
        **kwargs, vocabulary={term: place for place, term in enumerate(terms)}
    )
    vectorizer.fit(["any text"])  # the vocabulary is given and stays; the settings are checked here
    if vectorizer.use_idf:
        vectorizer.idf_ = idf
    return vectorizer

"""Training a linear model: logistic regression on a text's words and letters, chosen by what it
says of other rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.engines.linear import save_linear
from medtask.evaluate.tfidf import learn_each, mark_row, weigh_words
from medtask.runs.interrupt import Interrupted
from medtask.train.desk import Desk, Fitted
from medtask.train.journal import Point
from medtask.train.material import Material
from medtask.train.recipe import Recipe
from medtask.train.targets import Targets, Taught, judge, read_targets

FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"words": ("words",), "letters": ("letters",), "words and letters": ("words", "letters")}
)
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# validation rows to choose by; where they are fewer, the rows to learn from take turns at it
ENOUGH = 100
FOLDS = 5
BASE = "tf-idf"


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to train. ``strength``: scikit-learn's C. ``loss`` and ``score``: see judge, on rows
    that it did not learn from.
    """

    features: str
    strength: float
    loss: float = float("inf")
    score: float = 0.0


def fit_linear(materials: Sequence[Material], recipe: Recipe, desk: Desk) -> Fitted:
    """Train TF-IDF and one logistic regression per label, and save them in the draft (see
    save_linear).

    Features and strength are those with the lowest loss on the validation rows, or in a cross
    validation where these are few. Nothing is drawn by chance: the same rows give the same model. A
    signal ends the search with the best so far.

    UsageError and InputError: see read_targets.
    """
    import sklearn

    targets = read_targets(materials, "linear")
    trials = _plan_trials(targets)
    chosen, stopped = _search(targets, trials, desk)
    words = _fit_words(chosen.features, targets, targets.train)
    classifier = _learn(targets, targets.train, _count(words, targets.train.texts), chosen.strength)
    trained = save_linear(desk.draft, words, classifier, targets.contract("linear", BASE))
    facts = {
        "features": chosen.features,
        "terms": sum(len(one.vocabulary_) for one in words),
        "strength": chosen.strength,
        "chosen_by": f"{len(targets.validation.texts):,} validation rows"
        if len(trials) == 1
        else f"{len(trials)} folds",
        "scikit-learn": sklearn.__version__,
    }
    return Fitted(trained, stopped, targets.notes, facts)


@dataclass(frozen=True, slots=True)
class _Trial:
    """Rows to learn from, and others to judge by."""

    train: Taught
    judged: Taught


def _plan_trials(targets: Targets) -> list[_Trial]:
    """The rows that choices are judged by; none where there are too few even for folds."""
    from sklearn.model_selection import GroupKFold

    train = targets.train
    if len(targets.validation.texts) >= ENOUGH:
        return [_Trial(train, targets.validation)]
    # A row without a group is its own, named by what it says: the same rows in another order make
    # the same folds.
    groups = [
        group or mark_row(text, gold).hex()
        for group, text, gold in zip(train.groups, train.texts, train.gold.tolist(), strict=True)
    ]
    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        return []
    parts = GroupKFold(folds).split(train.texts, groups=np.asarray(groups))
    trials = [_Trial(train.choose(learnt), train.choose(judged)) for learnt, judged in parts]
    return [trial for trial in trials if targets.several or len(set(trial.train.gold.tolist())) > 1]


def _search(targets: Targets, trials: Sequence[_Trial], desk: Desk) -> tuple[Choice, bool]:
    """The best choice, and whether a signal ended the search."""
    best = Choice(
        "letters", 10.0
    )  # what served most sets best, where there is nothing to choose by
    steps, tried = len(FEATURES) * len(STRENGTHS), 0
    try:
        desk.watch.on_start(steps, 0)
        for tried, choice in _try(targets, trials):
            desk.journal.add(
                Point(tried, steps, tried / steps, validation_loss=choice.loss, score=choice.score)
            )
            best = min(best, choice, key=lambda one: one.loss)
            desk.signals.check()
    except Interrupted:
        if not tried:
            raise
        return best, True
    return best, False


def _try(targets: Targets, trials: Sequence[_Trial]) -> Iterator[tuple[int, Choice]]:
    """Each choice as the trials judge it, with its place among all of them.

    Along the strengths the loss falls and then rises: behind the first rise nothing better comes.
    """
    for place, features in enumerate(FEATURES):
        try:
            words = [_fit_words(features, targets, trial.train) for trial in trials]
        except ValueError:
            continue  # an empty vocabulary: "a b" has letters and no words
        read = [
            [_count(one, part.texts) for part in (trial.train, trial.judged)]
            for one, trial in zip(words, trials, strict=True)
        ]
        before = float("inf")
        for number, strength in enumerate(STRENGTHS if trials else (), 1):
            fitted = [
                _learn(targets, trial.train, terms[0], strength)
                for trial, terms in zip(trials, read, strict=True)
            ]
            shares = [
                _predict(targets, one, terms[1]) for one, terms in zip(fitted, read, strict=True)
            ]
            loss, score = judge(
                targets,
                np.concatenate([trial.judged.gold for trial in trials]),
                np.concatenate(shares),
            )
            yield place * len(STRENGTHS) + number, Choice(features, strength, loss, score)
            if loss > before:
                break
            before = loss


def _fit_words(features: str, targets: Targets, taught: Taught) -> list[Any]:
    """Vectorizers that know the terms of texts; ValueError where there are none."""
    make = {"words": weigh_words, "letters": _weigh_letters}
    return [make[part](len(targets.labels)).fit(taught.texts) for part in FEATURES[features]]


def _weigh_letters(labels: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Runs of letters inside words, the blanks at their ends included: they see stems ("-ectomy"),
    # compounds and typing errors.
    return TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 5),
        sublinear_tf=True,
        max_features=min(50_000, 10_000_000 // labels),
    )


def _count(words: Sequence[Any], texts: Sequence[str]) -> Any:
    """[texts, terms], the terms of all vectorizers side by side."""
    from scipy.sparse import hstack

    return hstack([one.transform(texts) for one in words], format="csr")


def _learn(targets: Targets, taught: Taught, terms: Any, strength: float) -> Any:
    """A fitted classifier; of one label among several it was fitted on their names."""
    gold = (
        taught.gold
        if targets.several
        else np.asarray(targets.labels, dtype=object)[taught.gold].astype(str)
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a fold may lack a label: that costs the trial, and every choice the same
        return learn_each(strength).fit(terms, gold)


def _predict(targets: Targets, classifier: Any, terms: Any) -> NDArray[np.float64]:
    """Probabilities [rows, labels]; 0 for labels that it does not know."""
    found: NDArray[np.float64] = classifier.predict_proba(terms)
    if targets.several:
        return found[:, -len(targets.labels) :]  # a lone label comes with its opposite before it
    shares = np.zeros((found.shape[0], len(targets.labels)))
    shares[:, [targets.labels.index(str(name)) for name in classifier.classes_]] = found
    return shares

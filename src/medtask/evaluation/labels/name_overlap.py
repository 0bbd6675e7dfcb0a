"""Labels with names or definitions of nearly the same meaning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medtask.display import isolate_name
from medtask.evaluation.labels.finding import LabelFinding, Severity
from medtask.records import Description
from medtask.unicode_text import split_words

# Cosine similarity of MiniLM vectors. Of the 876 pairs within 13 label sets (medical abstracts to
# ICD-9 procedures, shipped examples) 4 are at 0.65 or above and all others at 0.63 or below. Of 19
# pairs of medical synonyms 13 are above; "stroke" and "cerebrovascular accident" (0.43) are not.
SIMILAR_THRESHOLD = 0.65
SAME_MEANING_THRESHOLD = 0.8

_NEGATIONS = frozenset(
    {"no", "non", "not", "without", "with", "never", "absent", "negative", "positive"}
)
_MAX_UNINFLECTED_LETTERS = 3  # letters: "as" is not a plural


def find_similar_labels(
    labels: Sequence[Description], vectors: NDArray[np.float32] | None = None
) -> list[LabelFinding]:
    """Pairs of labels with nearly the same meaning, the most similar first.

    ``vectors`` are unit sentence vectors of names with definitions, [labels, dimensions]. Without
    them, only the words of the names are compared.
    """
    similarities = (
        None
        if vectors is None
        else np.asarray(vectors, dtype=np.float64) @ np.asarray(vectors, dtype=np.float64).T
    )
    found = []
    for first, second in combinations(range(len(labels)), 2):
        similarity = None if similarities is None else float(similarities[first, second])
        finding = _compare_pair(labels[first], labels[second], similarity)
        if finding:
            found.append(finding)
    return sorted(found, key=lambda finding: -finding.score)


def find_name_relation(first: str, second: str) -> str | None:
    """The relation of two names: "variant", "order", "plural", "negation", "contained", or None."""
    (one, singular), (other, singulars) = _split_words(first), _split_words(second)
    if not one or not other:
        return None
    if one == other:
        return "variant"
    if sorted(one) == sorted(other):
        return "order"
    if singular == singulars:
        return "plural"
    if set(one) ^ set(other) <= _NEGATIONS:
        return "negation"
    short, long = sorted((singular, singulars), key=len)
    inside = any(
        long[start : start + len(short)] == short for start in range(len(long) - len(short) + 1)
    )
    return "contained" if inside else None


def _compare_pair(
    first: Description, second: Description, similarity: float | None
) -> LabelFinding | None:
    relation = find_name_relation(first.name, second.name)
    near = similarity is not None and similarity >= SIMILAR_THRESHOLD
    if relation is None and not near:
        return None
    one, other = isolate_name(first.name), isolate_name(second.name)
    seen, weight, score = _describe_relation(relation, one, other)
    if similarity is not None and (near or relation):
        same = similarity >= SAME_MEANING_THRESHOLD
        degree = "nearly the same" if same else "near" if near else "apart"
        similar = f"the meaning of both is {degree} to MiniLM"
        seen = (
            f"{seen}; {similar} (similarity {similarity:.2f})"
            if seen
            else f"{one} and {other}: {similar} (similarity {similarity:.2f})"
        )
        score += similarity
    bare = [name for name, label in ((one, first), (other, second)) if not label.definition]
    advice = _advise_on_overlap(relation, bare)
    figures = {
        "relation": relation,
        "similarity": None if similarity is None else round(similarity, 4),
    }
    return LabelFinding("overlap", weight, (first.name, second.name), seen, advice, figures, score)


def _describe_relation(relation: str | None, one: str, other: str) -> tuple[str, Severity, float]:
    match relation:
        case "variant":
            return f"{one} and {other} differ only in case or punctuation", "act", 5.0
        case "order":
            return f"{one} and {other} are the same words in another order", "act", 4.0
        case "plural":
            return f"{one} and {other} are singular and plural of the same", "act", 4.0
        case "negation":
            return f"{one} and {other} differ only in a yes or a no", "look", 2.0
        case "contained":
            return f"one name contains the other: {one} and {other}", "look", 1.0
    return "", "look", 0.0


def _advise_on_overlap(relation: str | None, undefined: Sequence[str]) -> str:
    if relation in ("variant", "order", "plural"):
        return (
            "keep one of the two, unless they mean different things: then name them by the "
            "difference"
        )
    where = (
        ""
        if not undefined
        else f" ({undefined[0]} has none)"
        if len(undefined) == 1
        else " (neither has one)"
    )
    if relation == "negation":
        return (
            "encoders and small models overlook negations: say in both definitions what "
            f"tells them apart{where}"
        )
    if relation == "contained":
        return (
            f"say in both definitions when the narrower one applies and when the wider one{where}"
        )
    return (
        "if they mean the same, keep one; else say in both definitions what tells them "
        f"apart{where}"
    )


@lru_cache(maxsize=10_000)
def _split_words(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a name, and the same words in the singular."""
    words = tuple(split_words(name.replace("_", " ")))
    return words, tuple(map(_make_singular, words))


def _make_singular(word: str) -> str:
    if len(word) > _MAX_UNINFLECTED_LETTERS and word.endswith("ies"):
        return word[:-3] + "y"
    return (
        word[:-1]
        if len(word) > _MAX_UNINFLECTED_LETTERS
        and word.endswith("s")
        and not word.endswith(("ss", "is", "us"))
        else word
    )

"""The words of a page with their meanings, for readers who do not know them."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MEANINGS: Mapping[str, str] = {
    "abstained": "The answer of the task for rows that do not say enough.",
    "acceptance": "Taking answers from a confidence on without review, at a chosen error rate.",
    "accuracy": "The share of rows with gold whose answer is right.",
    "balanced accuracy": "The mean of the recall of all labels: rare labels count as much.",
    "baseline": "A simple method on the same rows. A model should be better than it.",
    "bootstrap": "Computing a figure again on many random draws of the rows, for its interval.",
    "Brier score": "The mean squared difference between probabilities and what came true.",
    "calibration": "A correction after which a confidence is right as often as it says.",
    "Cohen’s kappa": "Agreement beyond chance: 0 is chance, 1 is full agreement.",
    "confidence": "The probability of the answer, by the model.",
    "coverage": "The share of the rows that are accepted.",
    "exact match": "The share of rows in which the whole answer is that of gold.",
    "expected calibration error": "The mean distance between confidence and accuracy.",
    "F1": "The harmonic mean of precision and recall.",
    "gold": "Answers that a person has given, and that count as correct.",
    "Hamming loss": "The share of single decisions, label by label, that are wrong.",
    "Jaccard": "Labels in both gold and answer, as a share of labels in either.",
    "log loss": "The mean of -log(probability of what is right). Sure errors cost most.",
    "macro-F1": "The mean F1 of all labels: rare labels count as much as frequent ones.",
    "majority": "The most frequent answer in gold, for every row.",
    "Matthews correlation": "Correlation of answers with gold: 0 is chance, 1 is perfect.",
    "micro-F1": "F1 of all decisions together: frequent labels count most.",
    "MiniLM": "A small model that compares the meanings of texts.",
    "off-set mass": "The probability that a model gave to anything outside of the allowed answers.",
    "prediction set": "The labels that are plausible for a row, at a chosen rate of misses.",
    "precision": "Of the rows with this answer, the share in which it is right.",
    "recall": "Of the rows with this label in gold, the share that has it as the answer.",
    "ROUGE-L": "Words that an answer shares with gold in the same order, from 0 to 1.",
    "TF-IDF": "A method that weighs the words of a text, and does not know their meaning.",
    "token F1": "F1 of the words of an answer, compared with those of gold.",
    "weighted F1": "The mean F1 of all labels, each weighted by its rows in gold.",
    "95 % interval": "The range in which the true value lies, with 95 % certainty over the choice "
    "of the rows.",
    "p": "How often a difference of this size would arise by chance, if there were none.",
}
_PATTERNS: Mapping[str, str] = {"95 % interval": r"95 %|\(\d\.\d{3}-\d\.\d{3}", "p": r"\bp [<=] "}


def find_terms(text: str) -> list[tuple[str, str]]:
    """The terms that occur in a page's text, with their meanings."""
    return [
        (term, meaning)
        for term, meaning in _MEANINGS.items()
        if re.search(_PATTERNS.get(term, rf"\b{re.escape(term)}s?\b"), text, re.IGNORECASE)
    ]

"""Metric names, and values of the manifest and of answers, as reports write them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from medtask.display import shorten
from medtask.evaluation.statistics.extraction import flatten

# What figures are called, wherever they are told.
METRIC_NAMES = {
    "accuracy": "accuracy",
    "accuracy_answered": "accuracy of the answered",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "micro_f1": "micro-F1",
    "sample_f1": "F1 by row",
    "kappa": "Cohen’s kappa",
    "mcc": "Matthews correlation",
    "top_3": "gold in the top 3",
    "top_5": "gold in the top 5",
    "exact_match": "exact match",
    "exact_match_answered": "exact match of the answered",
    "jaccard": "mean Jaccard",
    "hamming_loss": "Hamming loss",
    "token_f1": "token F1",
    "token_f1_answered": "token F1 of the answered",
    "rouge_l": "ROUGE-L",
    "similarity": "MiniLM similarity",
    "fields_right": "fields right",
    "rows_right": "rows all right",
    "rows_right_answered": "rows all right of the answered",
}
MAX_VALUE_CHARACTERS = 2000  # how much of one value of the manifest is shown


def format_manifest_value(value: object) -> str:
    """One value of the manifest, in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return shorten(str(value), MAX_VALUE_CHARACTERS)


def format_value(value: object) -> str:
    """An answer or a gold value of any kind, as people read it: names joined by "; ", fields line
    by line.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return "; ".join(value) or "none applies"
    if isinstance(value, Mapping):
        return "\n".join(
            f"{'.'.join(path)}: {format_field_value(leaf)}" for path, leaf in flatten(value).items()
        )
    return str(value)


def format_field_value(leaf: object) -> str:
    """One field's value. What is not there is a dash."""
    if leaf is None or leaf == "" or leaf == []:
        return "–"
    if isinstance(leaf, str):
        return leaf
    if isinstance(leaf, list) and not any(isinstance(item, list | Mapping) for item in leaf):
        return "; ".join(map(format_field_value, leaf))
    return json.dumps(leaf, ensure_ascii=False)

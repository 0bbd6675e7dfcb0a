"""Numbers, times and long names as the report writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

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


def format_count(number: int) -> str:
    return f"{number:,}"


def format_row_count(number: int) -> str:
    return f"{number:,} row{'s' * (number != 1)}"


def format_percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def isolate_name(text: str) -> str:
    """A name inside a sentence of ours: shortened, and its direction of writing kept to itself."""
    return f"\u2068{shorten(text)}\u2069"


def format_manifest_value(value: object) -> str:
    """One value of the manifest, in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return shorten(str(value), MAX_VALUE_CHARACTERS)


def format_time(text: object) -> str | None:
    """An ISO time in words, such as "21 November 2026, 14:12 UTC"; whatever else it is, as it
    is.
    """
    try:
        at = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return str(text)
    return f"{at.day} {at:%B %Y, %H:%M %Z}".strip() if at else None


def format_duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def capitalise_first(text: str) -> str:
    return text[:1].upper() + text[1:]


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

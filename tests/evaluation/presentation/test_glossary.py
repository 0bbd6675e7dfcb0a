"""The words of a page have their meanings on it."""

from __future__ import annotations

from medtask.evaluation.kinds.metrics import METRICS
from medtask.evaluation.presentation.glossary import find_terms


def test_the_terms_of_a_text_are_found_in_any_case_and_number() -> None:
    found = dict(find_terms("MACRO-F1 0.5 (0.412-0.588); three baselines, p < 0.001."))
    assert list(found) == ["baseline", "F1", "macro-F1", "95 % interval", "p"]


def test_a_part_of_a_word_is_not_a_term() -> None:
    assert find_terms("golden, recalled, precisions2, p-values") == []


def test_every_metric_is_explained() -> None:
    clear = {"rows_right", "rows_right_answered", "fields_right", "top_3", "top_5", "similarity"}
    for name, spec in METRICS.items():
        assert name in clear or find_terms(spec.title), spec.title

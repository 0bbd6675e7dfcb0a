"""Labels that say nearly the same."""

from __future__ import annotations

import numpy as np
import pytest

from medtask.evaluation.labels.name_overlap import find_name_relation, find_similar_labels
from medtask.records import Description
from medtask.similarity import encode_texts, find_minilm, format_description


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ("Adverse event", "adverse-event", "variant"),
        ("MRI knee left", "MRI left knee", "order"),
        ("biopsy", "biopsies", "plural"),
        ("skin lesion", "skin lesions", "plural"),
        ("adverse-event", "no-adverse-event", "negation"),
        ("CT with contrast", "CT without contrast", "negation"),
        ("CTA Brain", "CTA Brain/Neck", "contained"),
        ("diagnosis", "diagnoses of others", None),
        ("liver", "kidney", None),
        ("a", "as", None),
        ("...", "---", None),
    ],
)
def test_names_are_related_by_their_words(first: str, second: str, relation: str | None) -> None:
    assert find_name_relation(first, second) == relation
    assert find_name_relation(second, first) == relation


def test_without_vectors_only_the_words_of_names_are_compared() -> None:
    found = find_similar_labels(
        [
            Description("heart attack"),
            Description("myocardial infarction"),
            Description("heart attack, old"),
        ]
    )
    assert [finding.labels for finding in found] == [("heart attack", "heart attack, old")]
    assert found[0].figures == {"relation": "contained", "similarity": None}


def test_likeness_is_the_dot_product_and_a_threshold_parts_pairs() -> None:
    vectors = np.array([[1, 0], [0.7, np.sqrt(1 - 0.49)], [0.6, 0.8]], dtype=np.float32)
    labels = [Description("p", "x"), Description("q", "x"), Description("r", "x")]
    found = find_similar_labels(labels, vectors)
    expected = {("q", "r"): float(vectors[1] @ vectors[2]), ("p", "q"): 0.7}
    assert {finding.labels: finding.figures["similarity"] for finding in found} == {
        pair: pytest.approx(value, abs=1e-4) for pair, value in expected.items()
    }
    assert found[0].labels == ("q", "r")  # the nearest first


def test_a_label_without_a_definition_is_named_in_the_advice() -> None:
    (one,) = find_similar_labels(
        [Description("CTA Brain", "vessels of the head"), Description("CTA Brain/Neck")]
    )
    assert "\u2068CTA Brain/Neck\u2069 has none" in one.advice
    (neither,) = find_similar_labels([Description("CTA Brain"), Description("CTA Brain/Neck")])
    assert "neither has one" in neither.advice


@pytest.mark.parametrize("labels", [[], [Description("alone")]])
def test_fewer_than_two_labels_have_no_pairs(labels: list[Description]) -> None:
    assert find_similar_labels(labels, np.zeros((len(labels), 384), np.float32)) == []


@pytest.mark.skipif(find_minilm() is None, reason="MiniLM is not installed")
@pytest.mark.slow
def test_minilm_finds_synonyms_and_leaves_distinct_labels_alone() -> None:
    labels = [
        Description("curative", "removes the tumour with intent to cure"),
        Description("radical", "removal of the whole tumour so that the patient is cured"),
        Description("supportive", "helps another treatment, such as a port"),
    ]
    vectors = encode_texts([format_description(label.name, label.definition) for label in labels])
    assert [finding.labels for finding in find_similar_labels(labels, vectors)] == [
        ("curative", "radical")
    ]

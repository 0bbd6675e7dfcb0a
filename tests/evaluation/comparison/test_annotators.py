"""How well two readers agree, and the model with each of them."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, jaccard_score
from sklearn.preprocessing import MultiLabelBinarizer
from statsmodels.stats.inter_rater import cohens_kappa

from medtask.evaluation.comparison.annotators import (
    AnnotatedRows,
    AnnotatorAgreement,
    compare_annotators,
)
from medtask.evaluation.presentation.blocks import ReportTable
from medtask.evaluation.report.annotator_report import build_annotator_blocks, list_annotator_lines
from medtask.evaluation.statistics.significance import compare_by_mcnemar

LABELS = ["curative", "palliative", "staging"]


def draw_readings(seed: int, rows: int = 120) -> tuple[list[str], list[str], list[str | None]]:
    """Two readers and a model, which is a little worse."""
    chance = random.Random(seed)
    truth = [chance.choice(LABELS) for _ in range(rows)]
    first, second, model = (
        [one if chance.random() < share else chance.choice(LABELS) for one in truth]
        for share in (0.95, 0.9, 0.75)
    )
    return first, second, [None if chance.random() < 0.05 else one for one in model]


def compare_columns(
    first: Any, second: Any, model: Any, *, columns: dict[str, Any] | None = None, **options: Any
) -> AnnotatorAgreement:
    found = compare_annotators(AnnotatedRows(first, second, model, **(columns or {})), **options)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(4))
def test_agreement_and_kappa_are_sklearns(seed: int) -> None:
    first, second, model = draw_readings(seed)
    found = compare_columns(first, second, model, labels=LABELS)
    assert found.inter_annotator.share.value == pytest.approx(
        np.mean(np.array(first) == np.array(second))
    )
    assert found.inter_annotator.kappa is not None
    assert found.inter_annotator.kappa.value == pytest.approx(cohen_kappa_score(first, second))
    for reader, agreement in zip((first, second), found.model_agreements, strict=True):
        assert agreement.kappa is not None
        assert agreement.kappa.value == pytest.approx(
            cohen_kappa_score(reader, [value or "none" for value in model])
        )
    alike = [index for index in range(len(first)) if first[index] == second[index]]
    assert found.consensus is not None
    assert found.consensus.rows == len(alike)
    assert found.consensus.share.value == pytest.approx(
        np.mean([model[index] == first[index] for index in alike])
    )


def test_kappas_interval_is_near_the_large_sample_one_of_statsmodels() -> None:
    first, second, model = draw_readings(9, rows=600)
    kappa = compare_columns(first, second, model).inter_annotator.kappa
    table = [
        [sum(x == a and y == b for x, y in zip(first, second, strict=True)) for b in LABELS]
        for a in LABELS
    ]
    expected = cohens_kappa(np.array(table))
    assert kappa is not None
    assert kappa.value == pytest.approx(expected.kappa)
    assert kappa.low == pytest.approx(expected.kappa_low, abs=0.01)
    assert kappa.high == pytest.approx(expected.kappa_upp, abs=0.01)


def test_the_model_is_compared_with_a_reader_as_the_other_reader_is() -> None:
    first, second, model = draw_readings(2)
    found = compare_columns(first, second, model)
    gap, p = found.model_differences["A"]
    own, reference = (
        np.mean([x == y for x, y in zip(first, column, strict=True)]) for column in (model, second)
    )
    assert gap.value == pytest.approx(own - reference)
    assert p == pytest.approx(compare_by_mcnemar(first, model, second).p)


def test_rows_of_one_group_are_drawn_together() -> None:
    first = ["curative", "staging"] * 60
    second = [value if index // 6 % 2 else "palliative" for index, value in enumerate(first)]
    alone, grouped = (
        compare_columns(first, second, first, columns={"groups": each})
        for each in ((), [f"p{index // 6}" for index in range(120)])
    )
    assert grouped.n_groups == 20
    assert alone.n_groups is None
    for one, other in (
        (alone.inter_annotator.share, grouped.inter_annotator.share),
        (alone.inter_annotator.kappa, grouped.inter_annotator.kappa),
    ):
        assert one is not None
        assert other is not None
        assert one.value == other.value
        assert other.high - other.low > 1.5 * (one.high - one.low)  # type: ignore[operator]


def test_sets_have_jaccard_and_a_kappa_by_label() -> None:
    chance = random.Random(3)
    first = [tuple(name for name in LABELS if chance.random() < 0.4) for _ in range(80)]
    second = [
        tuple(name for name in LABELS if (name in names) ^ (chance.random() < 0.15))
        for names in first
    ]
    found = compare_columns(first, second, second, kind="labels", labels=[*LABELS, "never"])
    table = MultiLabelBinarizer(classes=LABELS)
    one, other = table.fit_transform(first), table.fit_transform(second)
    assert found.inter_annotator.share.value == pytest.approx(
        jaccard_score(one, other, average="samples", zero_division=1)
    )
    assert found.inter_annotator.exact is not None
    assert found.inter_annotator.exact.value == pytest.approx((one == other).all(axis=1).mean())
    assert list(found.inter_annotator.labels) == LABELS
    for index, name in enumerate(LABELS):
        kappa = found.inter_annotator.labels[name]
        assert kappa is not None
        assert kappa.value == pytest.approx(cohen_kappa_score(one[:, index], other[:, index]))
    assert found.model_agreements[1].share.value == 1


def test_several_letters_are_sets() -> None:
    found = compare_columns(
        [("A", "B"), ("C",)], [("B", "A"), ("D",)], [("A",), "C"], kind="choice"
    )
    assert found.method.kappa == "labels"
    assert found.inter_annotator.exact is not None
    assert found.inter_annotator.exact.value == 0.5
    assert found.n_disagreements == 1


def test_texts_and_objects_are_alike_by_degrees() -> None:
    texts = compare_columns(
        ["red eye", "cough"], ["red eye", "dry cough"], ["red eye", None], kind="answer"
    )
    assert texts.inter_annotator.share.value == pytest.approx((1 + 2 / 3) / 2)
    assert texts.inter_annotator.kappa is None
    objects = compare_columns(
        [{"side": "left", "stage": "I"}],
        [{"side": "left", "stage": "II"}],
        [{"side": "left", "stage": "I"}],
        kind="fields",
    )
    assert objects.inter_annotator.share.value == 0.5


def test_disagreements_are_listed_with_what_everybody_said() -> None:
    first = ["curative", "staging", None, "staging"]
    second = ["curative", "palliative", "staging", "staging"]
    output = {
        "ids": list("wxyz"),
        "rows": [11, 12, 13, 14],
        "texts": ["one", "two", "three", "four"],
    }
    found = compare_columns(
        first, second, ["curative", None, "staging", "curative"], columns=output
    )
    (only,) = found.disagreements
    assert (only.row, only.record_id, only.text) == (12, "x", "two")
    assert (only.first, only.second, only.model) == ("staging", "palliative", "no answer")
    assert (found.n_disagreements, found.single_annotated, found.inter_annotator.rows) == (1, 1, 3)
    numbers = found.to_json()
    assert numbers["disagreements"] == {"rows": 1, "first": [{"row": 12, "id": "x"}]}
    assert "two" not in json.dumps(numbers)
    assert any("left out" in line for line in list_annotator_lines(found))


def test_the_summary_lines_report_inter_annotator_agreement() -> None:
    first, second, model = draw_readings(2)
    found = compare_columns(first, second, model, names=("dr_a", "dr_b"))
    assert list_annotator_lines(found)[0].startswith(
        f"The agreement of dr_a and dr_b is {found.inter_annotator.share.value:.2f} ("
    )
    assert "the model reaches" in list_annotator_lines(found)[0]
    tables = [block for block in build_annotator_blocks(found) if isinstance(block, ReportTable)]
    assert [table.about for table in tables] == ["Annotators and model", "Disagreements"]
    assert len(tables[0].lines) == 4


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([None], ["staging"]), (["staging", None], [None, "staging"])]
)
def test_no_row_that_both_have_read_is_nothing_to_say(
    first: list[str | None], second: list[str | None]
) -> None:
    assert compare_annotators(AnnotatedRows(first, second, ["staging"] * len(first))) is None


@pytest.mark.parametrize("rows", [1, 4])
def test_one_class_for_both_leaves_kappa_undefined(rows: int) -> None:
    found = compare_columns(["staging"] * rows, ["staging"] * rows, ["staging"] * rows)
    assert found.inter_annotator.share.value == 1
    assert found.inter_annotator.kappa is None
    assert "not defined" in list_annotator_lines(found)[1]
    assert build_annotator_blocks(found)
    assert found.n_disagreements == 0


def test_one_row_and_no_agreement_at_all() -> None:
    found = compare_columns(["staging"], ["curative"], [None])
    assert (found.inter_annotator.share.value, found.consensus, found.n_disagreements) == (
        0,
        None,
        1,
    )
    assert found.inter_annotator.kappa is not None
    assert found.inter_annotator.kappa.value == 0
    assert build_annotator_blocks(found)

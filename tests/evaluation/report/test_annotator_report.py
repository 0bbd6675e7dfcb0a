"""What reports say about the agreement of annotators, with each other and with the model."""

from __future__ import annotations

from dataclasses import replace

from medtask.evaluation.comparison.annotators import (
    AnnotatorAgreement,
    AnnotatorDisagreement,
    PairwiseAgreement,
)
from medtask.evaluation.kinds.protocols import AgreementMethod
from medtask.evaluation.presentation.blocks import Heading, Paragraph, ReportTable
from medtask.evaluation.report.annotator_report import build_annotator_blocks, list_annotator_lines
from medtask.evaluation.statistics.intervals import Metric

SHARE = Metric(0.9, 100, 0.82, 0.95)
AGREEMENT = AnnotatorAgreement(
    names=("dr_a", "dr_b"),
    method=AgreementMethod("accuracy", "agreement", is_proportion=True, kappa="rows"),
    inter_annotator=PairwiseAgreement(
        "dr_a", "dr_b", 100, SHARE, kappa=Metric(0.8, 100, 0.7, 0.88)
    ),
    model_agreements=(
        PairwiseAgreement("the model", "dr_a", 100, Metric(0.75, 100, 0.66, 0.82)),
        PairwiseAgreement("the model", "dr_b", 100, Metric(0.7, 100, 0.6, 0.78)),
    ),
    consensus=PairwiseAgreement("the model", "both", 90, Metric(0.8, 90, 0.71, 0.87)),
    model_differences={
        "dr_a": (Metric(-0.15, 100, -0.24, -0.06), 0.002),
        "dr_b": (Metric(0.01, 100, -0.08, 0.1), 0.9),
    },
    single_annotated=1,
    n_groups=None,
    n_disagreements=1,
    disagreements=(AnnotatorDisagreement(7, "c-7", "curative", "palliative", "curative", "stent"),),
)


def test_lines_give_both_agreements_the_differences_and_the_rows_left_out() -> None:
    assert list_annotator_lines(AGREEMENT) == [
        "The agreement of dr_a and dr_b is 0.90 (0.82-0.95), n = 100; the model reaches "
        "0.75 (0.66-0.82) with dr_a and 0.70 (0.60-0.78) with dr_b.",
        "Their kappa, agreement beyond chance, is 0.80 (0.70-0.88).",
        "With dr_a as gold, the model is worse than dr_b, by -0.150 (-0.240 to -0.060), p = 0.002.",
        "With dr_b as gold, the model and dr_a show no clear difference (by 0.010 (-0.080 to "
        "0.100), p = 0.900).",
        "Where both agree (90 rows), the model reaches 0.80 (0.71-0.87).",
        "1 row with one annotator only is left out.",
    ]


def test_without_consensus_and_single_rows_these_lines_are_missing() -> None:
    lines = list_annotator_lines(replace(AGREEMENT, consensus=None, single_annotated=0))
    assert len(lines) == 4


def test_kappa_of_sets_is_a_range_over_labels() -> None:
    sets = PairwiseAgreement(
        "dr_a",
        "dr_b",
        100,
        SHARE,
        exact=Metric(0.6, 100, 0.5, 0.69),
        labels={"pain": Metric(0.9, 100), "fever": Metric(0.4, 100), "rash": None},
    )
    found = replace(AGREEMENT, inter_annotator=sets)
    assert list_annotator_lines(found)[1] == (
        "Their sets are equal in 0.60 (0.50-0.69); kappa by label is 0.40 to 0.90."
    )
    by_label = next(
        block
        for block in build_annotator_blocks(found)
        if isinstance(block, ReportTable) and block.about == "Kappa by label"
    )
    assert [line[0] for line in by_label.lines] == ["pain", "fever", "rash"]
    assert by_label.lines[2][1] == "–"


def test_a_missing_kappa_is_explained() -> None:
    noted = replace(AGREEMENT.inter_annotator, kappa=None, note="both gave one label only")
    assert list_annotator_lines(replace(AGREEMENT, inter_annotator=noted))[1] == (
        "Both gave one label only."
    )
    plain = replace(noted, note="")
    assert list_annotator_lines(replace(AGREEMENT, inter_annotator=plain))[1] == (
        "Kappa is not defined for this kind of answer."
    )


def test_the_section_lists_every_pair_and_the_rows_on_which_annotators_differ() -> None:
    blocks = build_annotator_blocks(AGREEMENT)
    assert blocks[0] == Paragraph(" ".join(list_annotator_lines(AGREEMENT)))
    pairs, disagreements = (block for block in blocks if isinstance(block, ReportTable))
    assert [line[0] for line in pairs.lines] == [
        "dr_a and dr_b",
        "the model and dr_a",
        "the model and dr_b",
        "the model and both",
    ]
    assert list(disagreements.lines) == [["7 c-7", "curative", "palliative", "curative", "stent"]]
    assert Heading("Where the annotators disagree") in blocks


def test_a_shortened_list_of_disagreements_says_so() -> None:
    blocks = build_annotator_blocks(replace(AGREEMENT, n_disagreements=250))
    texts = [block.body for block in blocks if isinstance(block, Paragraph)]
    assert any(text.startswith("250 rows; the first 100.") for text in texts)


def test_few_groups_make_rough_intervals() -> None:
    lines = list_annotator_lines(replace(AGREEMENT, n_groups=3))
    assert lines[-1].startswith("The rows come from 3 groups only")

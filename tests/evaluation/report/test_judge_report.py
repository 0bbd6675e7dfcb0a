"""What a terminal shows of the grades and preferences of a judge."""

from __future__ import annotations

from dataclasses import replace

from medtask.evaluation.report.judge_report import (
    UNKNOWN_ERROR,
    format_judge_metrics,
    format_pairwise_metrics,
)
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.judge_metrics import (
    GradeScale,
    JudgeAgreement,
    JudgeMetrics,
    MissingJudgements,
)
from medtask.evaluation.statistics.pairwise_judge_metrics import PairwiseJudgeMetrics
from medtask.evaluation.statistics.refusal import Refusal
from medtask.records import LeftOut

AGREEMENT = JudgeAgreement(
    n=100,
    lost=2,
    sensitivity=Metric(0.9, 70, 0.81, 0.95),
    specificity=None,
    kappa=Metric(0.7, 100, 0.6, 0.8),
    kappa_acceptable=None,
    human_share=Metric(0.7, 100, 0.6, 0.78),
    human_mean=Metric(3.4, 100, 3.2, 3.6),
    share=Refusal("the judge errs too often", 100),
    mean=Metric(3.5, 500, 3.3, 3.7),
)
METRICS = JudgeMetrics(
    scale=GradeScale(("1", "2", "3", "4"), (1.0, 2.0, 3.0, 4.0), 2),
    n=480,
    missing=MissingJudgements(unanswered=3, unreferenced=1, failed=20),
    grades={"1": 30, "2": 50, "3": 200, "4": 200},
    mean=Metric(3.19, 480, 3.1, 3.28),
    expected=None,
    acceptable=Metric(0.833, 480, 0.797, 0.864),
    human_agreement=None,
)
PAIRS = PairwiseJudgeMetrics(
    n=100,
    missing=MissingJudgements(),
    wins=50,
    losses=30,
    first_position_ties=10,
    second_position_ties=5,
    same=5,
    win_rate=Metric(0.6, 100, 0.5, 0.69),
    by_place=Metric(0.158, 95, 0.098, 0.244),
    p=0.0334,
    test="sign test",
)


def test_grades_without_human_grades_have_an_unknown_error() -> None:
    assert format_judge_metrics(METRICS) == [
        "3 rows without an answer to judge; 1 row without a reference to judge by; 20 judgements "
        "failed (4.0 % of those that were asked for)",
        "grades   1: 30   2: 50   3: 200   4: 200",
        "mean grade 3.190 (3.100-3.280), n = 480",
        "acceptable (grade 3 or better) 0.833 (0.797-0.864), n = 480",
        UNKNOWN_ERROR,
    ]


def test_human_grades_give_error_rates_and_corrected_metrics_or_a_reason() -> None:
    lines = format_judge_metrics(replace(METRICS, human_agreement=AGREEMENT))
    assert UNKNOWN_ERROR not in lines
    assert lines[4:] == [
        "against people, on 100 rows that they graded, 2 more without a judgement:",
        "  sensitivity 0.900 (0.810-0.950), n = 70 acceptable   specificity not known",
        "  kappa of the grades (quadratic) 0.700 (0.600-0.800)   of acceptable or not not known",
        "  people alone: acceptable 0.700 (0.600-0.780), n = 100",
        "  no corrected share: the judge errs too often",
        "  people alone: mean grade 3.400 (3.200-3.600), n = 100",
        "  corrected: mean grade 3.500 (3.300-3.700), 100 graded by people too and 400 by the "
        "judge alone",
        "  corrected metrics hold if the rows that people graded were drawn at random",
    ]


def test_the_condition_of_corrected_metrics_is_shown_only_with_such_a_metric() -> None:
    refused = replace(AGREEMENT, mean=Refusal("too few grades", 100))
    lines = format_judge_metrics(replace(METRICS, human_agreement=refused))
    assert lines[-1] == "  no corrected mean grade: too few grades"


def test_rows_that_are_not_new_to_the_model_are_counted() -> None:
    lines = format_judge_metrics(replace(METRICS, left_out={LeftOut.TRAINING: 4}))
    assert lines[1] == "left out of the metrics: 4 rows trained the model"


def test_preferences_name_both_systems_and_count_ties_by_position() -> None:
    assert format_pairwise_metrics(PAIRS, "gemma", "qwen") == [
        "gemma is better in 50 pairs, qwen in 30 (sign test p = 0.0334); 15 decided by position "
        "alone, 5 with the same text",
        "win rate of gemma (a tie is half a win) 0.600 (0.500-0.690), n = 100",
        "decided by position 0.158 (0.098-0.244), n = 95",
        "the judge's error rate is unknown; people's verdicts on some of these pairs would show it",
    ]


def test_preferences_without_a_winner_have_no_p_value() -> None:
    ties = replace(PAIRS, wins=0, losses=0, p=None)
    assert "sign test" not in format_pairwise_metrics(ties, "gemma", "qwen")[0]

"""What is wrong with a set of labels, as a whole."""

from __future__ import annotations

import json

import numpy as np

from medtask.evaluation.labels.content_free_bias import ContentFreeBias
from medtask.evaluation.labels.finding import SEVERITIES
from medtask.evaluation.labels.label_set_report import (
    TOPIC_TITLES,
    LabelSetInputs,
    LabelSetReport,
    build_blocks,
    check_label_set,
    check_option_letters,
    list_bias_shares,
    list_finding_lines,
    summarise_findings,
    to_json,
)
from medtask.evaluation.presentation.blocks import BarChart, Heading, Paragraph, ReportTable
from medtask.evaluation.statistics.intervals import Metric
from medtask.records import Description
from support.label_pairs import LABELS, count_label_pairs, make_confused_rows

MEANINGS = [Description(name) for name in LABELS]
BIAS = ContentFreeBias(
    {"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1},
    True,
    {"N/A": {"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1}},
)
ROWS = [*make_confused_rows(), *[("d", "a")] * 90]


def make_full_report() -> LabelSetReport:
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = vectors[0]
    tokens = {"a": (1, 2, 0), "b": (1, 3, 0), "c": (4, 0), "d": (5, 0)}
    return check_label_set(
        LabelSetInputs(
            MEANINGS,
            vectors=vectors,
            pair_counts=count_label_pairs(LABELS, ROWS),
            tokens=tokens,
            bias=BIAS,
            skipped_checks=["rows: none"],
        )
    )


def test_findings_come_worst_first_and_every_topic_has_a_heading() -> None:
    examination = make_full_report()
    weights = [SEVERITIES.index(finding.weight) for finding in examination.findings]
    assert weights == sorted(weights)
    topics = {finding.topic for finding in examination.findings}
    assert topics == {
        "answered_too_often",
        "confused",
        "missing_label",
        "overlap",
        "prior",
        "tokens",
        "merge",
    }
    assert topics < set(TOPIC_TITLES)


def test_a_report_has_a_table_for_each_topic_and_bars_for_the_prior() -> None:
    blocks = build_blocks(make_full_report())
    headings = [block.body for block in blocks if isinstance(block, Heading)]
    assert len(headings) == len(set(headings)) == 8
    assert len([block for block in blocks if isinstance(block, ReportTable)]) == 7
    (bars,) = [block for block in blocks if isinstance(block, BarChart)]
    assert [bar.length for bar in bars.lines] == [0.7, 0.1, 0.1, 0.1]
    assert isinstance(blocks[-1], Paragraph)
    assert blocks[-1].body == "Rows: none"


def test_the_document_is_json_and_its_names_are_in_quotes() -> None:
    text = json.dumps(to_json(make_full_report()), allow_nan=False)
    assert "\\u2068" not in text
    document = json.loads(text)
    assert (document["labels"], document["answered"], document["gold_rows"]) == (4, 390, 390)
    assert document["prior"]["even"] == 0.25
    assert document["not_examined"] == ["rows: none"]


def test_lines_are_at_most_ten_of_a_kind() -> None:
    labels = [Description(f"same {number}") for number in range(8)]
    examination = check_label_set(
        LabelSetInputs(labels, exclusive=False, vectors=np.ones((8, 1), np.float32))
    )
    assert len(examination.findings) == 28
    lines = list(list_finding_lines(examination))
    assert len(lines) == 11
    assert lines[-1][1] == "18 more: nearly the same meaning"
    assert "\u2068" not in "".join(map(str, lines))


def test_the_summary_counts_what_was_looked_at() -> None:
    assert (
        summarise_findings(
            check_label_set(LabelSetInputs([Description("a"), Description("b")], exclusive=False))
        )
        == "2 labels; nothing was found."
    )
    output = summarise_findings(make_full_report())
    assert output.startswith("4 labels, 390 answers, 390 rows with gold; findings: ")


def test_of_letters_only_the_model_is_examined() -> None:
    examination = check_option_letters(
        ContentFreeBias(BIAS.shares, True, BIAS.inputs, noun="letter"),
        20,
        ["the options themselves"],
    )
    assert [finding.topic for finding in examination.findings] == ["prior"]
    assert summarise_findings(examination).startswith("4 letters, 20 answers")


def test_shares_are_shown_beside_those_of_gold() -> None:
    bias = ContentFreeBias({"a": 0.2, "b": 0.8}, True, {}, {"b": Metric(0.5, 10, 0.2, 0.8)})
    assert list_bias_shares(bias) == [("b", 0.8, "50.0 %"), ("a", 0.2, "")]


def test_nothing_at_all_can_be_examined() -> None:
    examination = check_label_set(LabelSetInputs([], exclusive=False))
    assert examination.findings == ()
    assert build_blocks(examination) == [Paragraph("0 labels; nothing was found.")]


def test_answers_without_gold_and_all_abstained_find_no_pairs() -> None:
    pair_counts = count_label_pairs(
        [*LABELS, "unknown"], [(None, "unknown")] * 30, abstain="unknown"
    )
    examination = check_label_set(
        LabelSetInputs(MEANINGS, abstain="unknown", pair_counts=pair_counts)
    )
    assert {finding.topic for finding in examination.findings} == {"never_predicted"}

"""Checks a set of labels by names, answers and gold, tokens, and content-free inputs.

Each check has a module: name_overlap, usage, confusion, merges, label_tokens, content_free_bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.display import (
    capitalise_first,
    format_count,
    format_percent,
    format_row_count,
    isolate_name,
)
from medtask.evaluation.labels.confusion import build_confusion_findings, find_confused_pairs
from medtask.evaluation.labels.content_free_bias import ContentFreeBias, find_bias
from medtask.evaluation.labels.finding import SEVERITIES, LabelFinding
from medtask.evaluation.labels.label_tokens import find_token_problems
from medtask.evaluation.labels.merges import build_merge_findings, evaluate_merges
from medtask.evaluation.labels.name_overlap import find_similar_labels
from medtask.evaluation.labels.pair_counts import GoldAnswerCounts, build_pair_cells
from medtask.evaluation.labels.usage import OffSetCounts, find_missing_label, find_usage_problems
from medtask.evaluation.presentation.blocks import (
    BarChart,
    BarRow,
    Heading,
    Paragraph,
    ReportBlock,
    ReportTable,
)
from medtask.records import Description

MAX_FINDINGS_PER_TOPIC = 10  # findings per topic on a terminal and in a report; JSON has all

TOPIC_TITLES = {
    "never_predicted": "Never the answer",
    "answered_too_often": "Answered too often",
    "confused": "Often confused",
    "missing_label": "Is a label missing?",
    "overlap": "Nearly the same meaning",
    "prior": "Preferred without any input",
    "tokens": "Hard for the model's tokens",
    "merge": "As one label",
    "never_in_gold": "Never in gold",
}


@dataclass(frozen=True, slots=True)
class LabelSetReport:
    """The findings of all checks.

    Attributes:
        label_count: Number of labels.
        answered: Number of answers that were checked.
        gold_rows: Number of rows with gold that were checked.
        findings: Findings, most severe first.
        bias: Content-free bias; None without a model.
        skipped_checks: Checks that were not possible, and what they need.
    """

    label_count: int
    answered: int
    gold_rows: int
    findings: tuple[LabelFinding, ...]
    bias: ContentFreeBias | None = None
    skipped_checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class LabelSetInputs:
    """The inputs of the checks; a check is skipped if its input is None.

    Attributes:
        labels: The labels, without the abstention.
        abstain: Name of the abstention.
        exclusive: Whether every row gets exactly one label.
        vectors: Sentence vectors of the labels; see `find_similar_labels`.
        pair_counts: Answers, counted by gold and answer.
        off_set: How often the model's first choice is outside the set.
        tokens: Tokens of each label; see `find_token_problems`.
        lowercase_counts: Number of tokens of each label in lower case.
        bias: The model's probabilities on inputs without content.
        skipped_checks: Sentences on inputs that the caller could not provide.
    """

    labels: Sequence[Description]
    abstain: str | None = None
    exclusive: bool = True
    vectors: NDArray[np.float32] | None = None
    pair_counts: GoldAnswerCounts | None = None
    off_set: OffSetCounts | None = None
    tokens: Mapping[str, Sequence[int]] | None = None
    lowercase_counts: Mapping[str, int] | None = None
    bias: ContentFreeBias | None = None
    skipped_checks: Sequence[str] = ()


def check_label_set(inputs: LabelSetInputs) -> LabelSetReport:
    """Returns the findings of all checks that these inputs allow."""
    names = [label.name for label in inputs.labels]
    overlaps = find_similar_labels(inputs.labels, inputs.vectors)
    found = [
        *overlaps,
        *find_missing_label(
            names, inputs.abstain, inputs.exclusive, inputs.pair_counts, inputs.off_set
        ),
    ]
    if inputs.pair_counts:
        found += _check_answers(inputs.pair_counts, overlaps)
    if inputs.tokens:
        found += find_token_problems(inputs.tokens, inputs.lowercase_counts)
    if inputs.bias:
        found += find_bias(inputs.bias)
    gold_rows = inputs.pair_counts.gold_rows if inputs.pair_counts else 0
    return LabelSetReport(
        len(names),
        inputs.pair_counts.answered if inputs.pair_counts else 0,
        gold_rows,
        tuple(_sort_findings(found)),
        inputs.bias,
        tuple(inputs.skipped_checks),
    )


def check_option_letters(
    bias: ContentFreeBias, answered: int = 0, skipped_checks: Sequence[str] = ()
) -> LabelSetReport:
    """Checks the options of rows, for which only the preference for letters can be measured."""
    return LabelSetReport(
        len(bias.shares),
        answered,
        0,
        tuple(_sort_findings(find_bias(bias))),
        bias,
        tuple(skipped_checks),
    )


def _check_answers(
    pair_counts: GoldAnswerCounts, overlaps: Sequence[LabelFinding]
) -> Iterator[LabelFinding]:
    cells = build_pair_cells(pair_counts)
    yield from find_usage_problems(pair_counts, cells)
    confused = find_confused_pairs(cells)
    yield from build_confusion_findings(confused, pair_counts.labels, pair_counts.abstain)
    places = {name: place for place, name in enumerate(pair_counts.labels)}
    pairs = [(pair.gold, pair.answer) for pair in confused]
    pairs += [
        (places[one], places[other]) for one, other in (finding.labels for finding in overlaps)
    ]
    abstain_index = places.get(pair_counts.abstain) if pair_counts.abstain else None
    yield from build_merge_findings(
        evaluate_merges(cells, pairs, abstain=abstain_index), pair_counts.labels
    )


def _sort_findings(found: Sequence[LabelFinding]) -> list[LabelFinding]:
    """Sort by weight, then by topic, then by score."""
    topics = list(TOPIC_TITLES)
    return sorted(
        found,
        key=lambda finding: (
            SEVERITIES.index(finding.weight),
            topics.index(finding.topic),
            -finding.score,
        ),
    )


def to_json(label_set_report: LabelSetReport) -> dict[str, Any]:
    """Returns a plain dict with names of labels and no record text."""
    bias = label_set_report.bias
    return {
        "labels": label_set_report.label_count,
        "answered": label_set_report.answered,
        "gold_rows": label_set_report.gold_rows,
        "findings": [
            {
                **asdict(finding),
                "seen": _replace_isolates(finding.seen),
                "advice": _replace_isolates(finding.advice),
            }
            for finding in label_set_report.findings
        ],
        "prior": {
            **asdict(bias),
            "even": bias.uniform_share,
            "distance": bias.distance_from_uniform,
        }
        if bias
        else None,
        "not_examined": list(label_set_report.skipped_checks),
    }


def build_blocks(label_set_report: LabelSetReport) -> list[ReportBlock]:
    """The section of a report."""
    blocks: list[ReportBlock] = [Paragraph(summarise_findings(label_set_report))]
    for topic, found in _group_by_topic(label_set_report):
        blocks.append(Heading(TOPIC_TITLES[topic]))
        lines = [
            (capitalise_first(finding.seen), capitalise_first(finding.advice))
            for finding in found[:MAX_FINDINGS_PER_TOPIC]
        ]
        caption = (
            f"{len(found) - MAX_FINDINGS_PER_TOPIC:,} more are in the report's JSON."
            if len(found) > MAX_FINDINGS_PER_TOPIC
            else ""
        )
        if topic == "merge":
            caption = f"{_MERGE_CAVEAT} {caption}".strip()
        blocks.append(
            ReportTable(
                TOPIC_TITLES[topic], (("What was seen", "w"), ("What to do", "w")), lines, caption
            )
        )
    if label_set_report.bias:
        blocks += [
            Heading("What the model prefers without any input"),
            *_build_bias_blocks(label_set_report.bias),
        ]
    blocks += [Paragraph(capitalise_first(gap), "quiet") for gap in label_set_report.skipped_checks]
    return blocks


_MERGE_CAVEAT = (
    "These are the best of the pairs that were tried, on the rows that chose them: expect a "
    "smaller gain on new rows."
)


def summarise_findings(label_set_report: LabelSetReport) -> str:
    """One sentence on what was checked and the number of findings."""
    noun = label_set_report.bias.noun if label_set_report.bias else "label"
    checked = [format_count(label_set_report.label_count, noun)]
    if label_set_report.answered:
        checked.append(
            f"{format_count(label_set_report.answered, 'answer')}, "
            f"{format_row_count(label_set_report.gold_rows)} with gold"
        )
    costs, may, notes = (
        sum(finding.weight == weight for finding in label_set_report.findings)
        for weight in SEVERITIES
    )
    parts = [f"{costs} cost{'s' * (costs == 1)} right answers"] * bool(costs)
    parts += [f"{may} may cost some"] * bool(may)
    parts += [f"{notes} {'is' if notes == 1 else 'are'} good to know"] * bool(notes)
    found = f"findings: {', '.join(parts)}" if parts else "nothing was found"
    return f"{', '.join(checked)}; {found}."


def list_finding_lines(label_set_report: LabelSetReport) -> Iterator[tuple[str, str, str]]:
    """(weight, observation, advice) for a terminal: at most ten of each topic, then the number of
    others.
    """
    for (weight, topic), group in groupby(
        label_set_report.findings, key=lambda finding: (finding.weight, finding.topic)
    ):
        found = list(group)
        for finding in found[:MAX_FINDINGS_PER_TOPIC]:
            yield weight, _replace_isolates(finding.seen), _replace_isolates(finding.advice)
        if len(found) > MAX_FINDINGS_PER_TOPIC:
            yield (
                weight,
                f"{len(found) - MAX_FINDINGS_PER_TOPIC:,} more: {TOPIC_TITLES[topic].lower()}",
                "--json lists all",
            )


def list_bias_shares(bias: ContentFreeBias) -> list[tuple[str, float, str]]:
    """(outcome, probability, share in gold or "") for bars, largest first."""
    ordered = sorted(bias.shares.items(), key=lambda item: -item[1])
    return [
        (name, share, format_percent(bias.gold[name].value) if name in bias.gold else "")
        for name, share in ordered
    ]


def _replace_isolates(sentence: str) -> str:
    """Use quotes instead of direction isolates, which some terminals display."""
    return sentence.replace("\u2068", '"').replace("\u2069", '"')


def _group_by_topic(label_set_report: LabelSetReport) -> Iterator[tuple[str, list[LabelFinding]]]:
    """Findings by topic, starting with the topic of the most severe finding."""
    for topic in dict.fromkeys(finding.topic for finding in label_set_report.findings):
        yield topic, [finding for finding in label_set_report.findings if finding.topic == topic]


def _build_bias_blocks(bias: ContentFreeBias) -> Iterator[ReportBlock]:
    columns = ("probability", "in gold") if bias.gold else ("probability",)
    lines = [
        BarRow(isolate_name(name), share, (format_percent(share), gold)[: len(columns)])
        for name, share, gold in list_bias_shares(bias)
    ]
    yield BarChart((bias.noun, *columns), tuple(lines))
    yield Paragraph(
        f"The mean over {len(bias.inputs)} inputs without content. Even would be "
        f"{format_percent(bias.uniform_share)} for each; the {bias.noun}s are "
        f"{bias.distance_from_uniform:.2f} away from that (total variation, 0 is even)."
    )

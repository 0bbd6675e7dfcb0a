"""The report of a comparison: a static HTML file, and its numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medtask.atomic_files import replace_text
from medtask.display import capitalise_first, format_count, format_row_count, format_time, shorten
from medtask.evaluation.comparison.aligned_rows import ComparisonRows
from medtask.evaluation.comparison.disagreements import (
    DirectedDisagreements,
    find_disagreements,
)
from medtask.evaluation.comparison.leaderboard import Leaderboard, LeaderboardEntry
from medtask.evaluation.comparison.leaderboard_text import (
    compare_with_best,
    describe_leaderboard,
    describe_samples,
    format_costs,
    get_model_name,
)
from medtask.evaluation.comparison.paired import PairedComparison, describe_pair, round_up_rows
from medtask.evaluation.kinds.metric_report import warn_about_few_groups
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.kinds.protocols import get_evaluation_kind
from medtask.evaluation.presentation.blocks import (
    ColumnStyle,
    Paragraph,
    ReportBlock,
    ReportPlot,
    ReportTable,
    TableCell,
)
from medtask.evaluation.presentation.comparison_plots import draw_differences, draw_scatter
from medtask.evaluation.presentation.formatting import (
    MISSING,
    format_difference,
    format_metric_cell,
    format_p_value,
)
from medtask.evaluation.presentation.plots import draw_intervals
from medtask.evaluation.report.quality_sections import MAX_METRIC_COLUMNS
from medtask.evaluation.report.run_report import get_report_templates

MAX_PAIR_SENTENCES = 3  # pairs that are described in a sentence each
MAX_COMPARED_SYSTEMS = 3  # systems whose disagreements with the best one are shown
MAX_PARTS_SHOWN = 40  # maximum number of labels or fields on the page


def write_comparison(
    path: Path, comparison: ComparisonRows, leaderboard: Leaderboard, notes: Sequence[str] = ()
) -> None:
    """Writes the report to ``path``, and its numbers to a JSON file in the same folder.

    The JSON file has no record text. Both files are readable by their owner only.

    Raises:
        StorageError: If the files cannot be written.
    """
    disagreements = _find_disagreements(comparison, leaderboard)
    numbers = {
        **comparison.to_json(),
        **leaderboard.to_json(),
        "notes": [*notes, *comparison.row_coverage.describe()],
        "disagreements": [one.to_json() for pair in disagreements for one in pair],
    }
    replace_text(path.with_suffix(".json"), json.dumps(numbers, default=str) + "\n")
    replace_text(path, render_comparison(comparison, leaderboard, notes, disagreements))


def render_comparison(
    comparison: ComparisonRows,
    leaderboard: Leaderboard,
    notes: Sequence[str] = (),
    disagreements: Sequence[tuple[DirectedDisagreements, DirectedDisagreements]] | None = None,
) -> str:
    """Returns the report as HTML."""
    names = [system.name for system in comparison.systems]
    return (
        get_report_templates()
        .get_template("comparison.html.j2")
        .render(
            name=" against ".join(names)
            if len(names) == 2
            else f"{len(names)} systems, side by side",
            lead=_describe_comparison(comparison),
            tiles=_list_tiles(comparison, leaderboard),
            warnings=[*notes, *comparison.row_coverage.describe()],
            leaderboard=_build_leaderboard_blocks(comparison, leaderboard),
            speed=_build_speed_blocks(leaderboard),
            pairs=_build_pair_blocks(leaderboard),
            simple=[_build_pair_table(leaderboard.baseline_pairs, "Systems against simple methods")]
            if leaderboard.baseline_pairs
            else [],
            disputes=_find_disagreements(comparison, leaderboard)
            if disagreements is None
            else disagreements,
            parts=_build_part_blocks(comparison, leaderboard),
            systems=_build_system_blocks(comparison, leaderboard),
            methods=_build_method_blocks(comparison, leaderboard),
        )
    )


def _find_disagreements(
    comparison: ComparisonRows, leaderboard: Leaderboard
) -> list[tuple[DirectedDisagreements, DirectedDisagreements]]:
    """Where the best system and each of the next ones disagree."""
    best, *others = (line.name for line in leaderboard.entries if not line.baseline)
    return [find_disagreements(comparison, best, other) for other in others[:MAX_COMPARED_SYSTEMS]]


def _describe_comparison(comparison: ComparisonRows) -> str:
    groups = len({group for group in comparison.groups if group})
    grouped = f", in {groups:,} groups" if groups else ""
    both = (
        "both systems" if len(comparison.systems) == 2 else f"all {len(comparison.systems)} systems"
    )
    return (
        f"{capitalise_first(format_row_count(len(comparison.ids)))} with gold{grouped}, which "
        f"{both} have."
    )


def _list_tiles(comparison: ComparisonRows, leaderboard: Leaderboard) -> list[tuple[str, str]]:
    tiles = [(f"{len(comparison.ids):,}", "rows compared")]
    for line in [line for line in leaderboard.entries if not line.baseline][:3]:
        reached = leaderboard.headline(line)
        if reached:
            tiles.append(
                (
                    f"{reached.value:.3f}",
                    (
                        f"{get_metric_title(leaderboard.metric)} of {shorten(line.name, 40)} "
                        f"({reached.interval_text})"
                    ),
                )
            )
    return tiles


def _build_leaderboard_blocks(
    comparison: ComparisonRows, leaderboard: Leaderboard
) -> list[ReportBlock]:
    name = capitalise_first(get_metric_title(leaderboard.metric))
    ranked = [
        (f"{place} {shorten(line.name, 60)}", leaderboard.headline(line))
        for place, line in enumerate(leaderboard.entries, 1)
    ]
    reached = [(who, figure) for who, figure in ranked if figure]
    further_metrics = [
        measure for measure in _list_metrics(leaderboard) if measure != leaderboard.metric
    ][:2]
    head: list[tuple[str, ColumnStyle]] = [
        ("System", "l"),
        ("Family", "v"),
        (name, "n"),
        *((capitalise_first(get_metric_title(one)), "n") for one in further_metrics),
    ]
    price: list[tuple[str, ColumnStyle]] = (
        [("Per 1,000 rows", "n")] if leaderboard.price_per_hour is not None else []
    )
    # Notes are sentences, which must wrap.
    style: ColumnStyle = "w" if any(line.note for line in leaderboard.entries) else "v"
    head += [("Rows/s", "n"), ("Memory", "n"), *price, ("Against the best", style)]
    lines = [
        _list_cells(place, line, leaderboard, further_metrics)
        for place, line in enumerate(leaderboard.entries, 1)
    ]
    blocks: list[ReportBlock] = [
        Paragraph(describe_leaderboard(leaderboard, len(comparison.ids))),
        ReportPlot(
            f"{name} with 95 % intervals, the best first.",
            draw_intervals(reached, f"{name} of all systems"),
        ),
        ReportTable("Leaderboard", tuple(head), lines),
    ]
    trained_baselines = [
        line.name
        for line in leaderboard.entries
        if line.baseline and line.family == "TF-IDF" and not line.note
    ]
    if trained_baselines:
        sentence = (
            f"{trained_baselines[0]} is computed here. It learned from the gold of these rows, in "
            "cross-validation, as prompted models have not."
        )
        blocks.append(Paragraph(sentence, "quiet small"))
    return [*blocks, *(Paragraph(text, "note") for text in describe_samples(leaderboard))]


def _list_metrics(leaderboard: Leaderboard) -> list[str]:
    """Metrics that systems are compared by."""
    tested = [
        measure
        for pair in (*leaderboard.pairs, *leaderboard.baseline_pairs)
        for measure in pair.differences
    ]
    return list(dict.fromkeys([leaderboard.metric, *tested]))


def _list_cells(
    place: int, line: LeaderboardEntry, leaderboard: Leaderboard, further_metrics: Sequence[str]
) -> list[TableCell]:
    cells = [
        format_metric_cell(line.figures.get(measure))
        for measure in (leaderboard.metric, *further_metrics)
    ]
    versus = f"not measured: {line.note}" if line.note else compare_with_best(leaderboard, line)
    family = (line.family, "baseline" if line.baseline else shorten(get_model_name(line), 30))
    costs = format_costs(line)[: 2 if leaderboard.price_per_hour is None else 3]
    return [f"{place} {line.name}", family, *cells, *costs, versus]


def _build_speed_blocks(leaderboard: Leaderboard) -> list[ReportBlock]:
    points = [
        (place, line.name, line.rows_per_s, figure)
        for place, line in enumerate(leaderboard.entries, 1)
        if line.rows_per_s and (figure := leaderboard.headline(line))
    ]
    if not points:
        return [
            Paragraph(
                "No speed is known: runs of medtask record it, tables of other tools do not.",
                "quiet",
            )
        ]
    numbered = ", ".join(f"{place} is {shorten(name, 60)}" for place, name, *_ in points)
    measure = capitalise_first(get_metric_title(leaderboard.metric))
    caption = f"{measure} with 95 % intervals, over rows answered per second: {numbered}."
    blocks: list[ReportBlock] = [
        ReportPlot(caption, draw_scatter(points, f"{measure} by speed", measure))
    ]
    if leaderboard.price_per_hour is not None:
        sentence = (
            f"Costs are of a machine at {leaderboard.price_per_hour:g} an hour, in the currency in "
            "which that was given, while it answers."
        )
        blocks.append(Paragraph(sentence, "quiet small"))
    return blocks


def _build_pair_blocks(leaderboard: Leaderboard) -> list[ReportBlock]:
    measure = capitalise_first(get_metric_title(leaderboard.metric))
    # With many pairs, the verdicts of the table are easier to read than sentences.
    blocks: list[ReportBlock] = (
        [Paragraph(describe_pair(pair)) for pair in leaderboard.pairs[:MAX_PAIR_SENTENCES]]
        if len(leaderboard.pairs) <= MAX_PAIR_SENTENCES
        else []
    )
    drawn = [
        (f"{shorten(pair.first, 30)} − {shorten(pair.second, 30)}", pair.headline[1])
        for pair in leaderboard.pairs
    ]
    caption = (
        f"Differences in {get_metric_title(leaderboard.metric)} with 95 % intervals; those in blue "
        "exclude zero."
    )
    blocks.append(ReportPlot(caption, draw_differences(drawn, f"{measure}: differences")))
    return [*blocks, _build_pair_table(leaderboard.pairs, "Systems against each other")]


def _build_pair_table(pairs: Sequence[PairedComparison], title: str) -> ReportTable:
    measures = list(dict.fromkeys(measure for pair in pairs for measure in pair.differences))[
        :MAX_METRIC_COLUMNS
    ]
    judged = any(pair.only_first is not None for pair in pairs)
    head: list[tuple[str, ColumnStyle]] = [
        ("Pair", "l"),
        *((f"Δ {get_metric_title(one)}", "n") for one in measures),
    ]
    head += [("Only one right", "n")] if judged else []
    head += [("p (Holm)", "n"), ("Verdict", "w"), ("Rows", "n")]
    lines: list[list[TableCell]] = []
    for pair in pairs:
        cells: list[TableCell] = [f"{shorten(pair.first, 40)} − {shorten(pair.second, 40)}"]
        for measure in measures:
            value, _, interval = format_difference(pair.differences[measure]).partition(" (")
            cells.append((value, interval.rstrip(")")))
        if judged:
            cells.append(
                "–" if pair.only_first is None else f"{pair.only_first:,} / {pair.only_second:,}"
            )
        cells += [
            format_p_value(pair.p_holm).removeprefix("p = ").removeprefix("p "),
            _describe_verdict(pair),
            f"{pair.n:,}",
        ]
        lines.append(cells)
    return ReportTable(title, tuple(head), lines)


def _describe_verdict(pair: PairedComparison) -> str:
    if pair.verdict != "no clear difference":
        return f"the {'first' if pair.verdict == 'better' else 'second'} is better"
    if pair.more_rows is None:
        return "no difference at all" if pair.shows_nothing else "no clear difference"
    rows = format_count(round_up_rows(pair.more_rows), "more row")
    return f"no clear difference; about {rows} with gold would show one"


def _build_part_blocks(comparison: ComparisonRows, leaderboard: Leaderboard) -> list[ReportBlock]:
    """F1 by label, or share of right values by field, with one column per system."""
    lines = [line for line in leaderboard.entries if line.parts]
    if not lines:
        return []
    texts = get_evaluation_kind(comparison.kind).texts
    gold: dict[str, int] = {}
    for line in lines:
        gold.update({name: n for name, (n, _) in line.parts.items()})
    ranked = sorted(gold, key=lambda name: (-gold[name], name))
    head: list[tuple[str, ColumnStyle]] = [
        (capitalise_first(texts.part_noun), "l"),
        ("In gold", "n"),
    ]
    head += [(shorten(line.name, 30), "n") for line in lines]
    rows = [
        (
            name,
            f"{gold[name]:,}",
            *(format_metric_cell(line.parts.get(name, (0, None))[1]) for line in lines),
        )
        for name in ranked
    ]
    what = texts.part_metric
    caption = (
        f"The {MAX_PARTS_SHOWN} with most rows in gold, of {len(ranked):,}; the JSON beside this "
        "page has all."
    )
    return [
        Paragraph(f"{what}, with 95 % intervals. Few rows in gold make wide intervals."),
        ReportTable(what, tuple(head), rows, caption).cut(MAX_PARTS_SHOWN),
    ]


def _build_system_blocks(comparison: ComparisonRows, leaderboard: Leaderboard) -> list[ReportBlock]:
    lines: list[list[TableCell]] = []
    by_name: Mapping[str, LeaderboardEntry] = {line.name: line for line in leaderboard.entries}
    for system in comparison.systems:
        line = by_name[system.name]
        ran = format_time(system.facts.started) or MISSING
        asked = system.facts.task or MISSING
        absent = comparison.row_coverage.absent[system.name]
        rows = f"{comparison.row_coverage.rows[system.name]:,}"
        lines.append(
            [system.name, line.title, asked, ran, rows, f"{absent:,}", f"{line.unanswered or 0:,}"]
        )
    head: tuple[tuple[str, ColumnStyle], ...] = (
        *(("System", "l"), ("Model", "w"), ("Task", "l"), ("Started", "v")),
        *(("Rows", "n"), ("Rows it lacks", "n"), ("Without an answer", "n")),
    )
    sentence = (
        f"Of {comparison.row_coverage.union:,} different rows, "
        f"{comparison.row_coverage.eligible:,} are in every system and have gold. "
    )
    sentence += "Rows without an answer are not left out: they count as wrong."
    return [Paragraph(sentence), ReportTable("Systems", head, lines)]


def _warn_about_groups(leaderboard: Leaderboard) -> list[str]:
    pairs = (*leaderboard.pairs, *leaderboard.baseline_pairs)
    return warn_about_few_groups(pairs[0].groups) if pairs else []


def _build_method_blocks(comparison: ComparisonRows, leaderboard: Leaderboard) -> list[ReportBlock]:
    tests = " or ".join(
        dict.fromkeys(pair.test for pair in (*leaderboard.pairs, *leaderboard.baseline_pairs))
    )
    units = "groups" if any(comparison.groups) else "rows"
    return [
        Paragraph(
            f"Every pair is tested on the same rows, by {tests}. McNemar’s test looks at the rows "
            "that only one of two has right; randomisation measures how often a difference of this "
            "size arises if answers are exchanged at random (Noreen 1989). Intervals of "
            f"differences are a paired bootstrap of 1,000 resamples of {units}."
        ),
        *(Paragraph(text) for text in _warn_about_groups(leaderboard)),
        Paragraph(
            "Δ is how far the first of a pair is ahead of the second. p (Holm) is corrected for "
            "the number of pairs in its family: of families without any difference at most 5 % "
            "show one. Systems are one family, systems against simple methods another."
        ),
        Paragraph(
            "The number of further rows is for a power of 80 % and a difference as large as here "
            "(Miettinen 1968, Connor 1987; where the test is not McNemar’s, by the width of the "
            "interval). It is a rough guide, as the difference itself is uncertain."
        ),
    ]

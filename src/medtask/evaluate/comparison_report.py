"""The report of a comparison: one HTML file for people that needs no network and no script, and its
numbers as JSON beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medtask.data.atomic import replace_text
from medtask.evaluate.blocks import Align, Block, Cell, Picture, Table, Text
from medtask.evaluate.comparison import describe_p
from medtask.evaluate.comparison_plots import draw_differences, draw_scatter
from medtask.evaluate.contest import Contest
from medtask.evaluate.disagreement import Disputes, find_disputes, list_rivals
from medtask.evaluate.leaderboard import Leaderboard, Line, describe_board, list_costs, name_model
from medtask.evaluate.paired import Pair, describe_gap, describe_pair, round_up
from medtask.evaluate.plots import draw_intervals
from medtask.evaluate.report import open_templates
from medtask.evaluate.sections import NARROW, find_fact
from medtask.evaluate.words import MEASURES, capital, count_rows, moment, shorten

FEW = 3  # pairs that are told in a sentence each
PARTS = 40  # labels or fields that the page shows


def write_comparison(
    path: Path, contest: Contest, board: Leaderboard, notes: Sequence[str] = ()
) -> None:
    """Write ``path`` and, beside it, the same numbers without record text as .json; both for their
    owner only.

    StorageError where the files cannot be written.
    """
    disputes = _find_disputes(contest, board)
    numbers = {
        **contest.to_json(),
        **board.to_json(),
        "notes": [*notes, *contest.coverage.tell()],
        "disagreements": [one.to_json() for pair in disputes for one in pair],
    }
    replace_text(path.with_suffix(".json"), json.dumps(numbers, default=str) + "\n")
    replace_text(path, render_comparison(contest, board, notes, disputes))


def render_comparison(
    contest: Contest,
    board: Leaderboard,
    notes: Sequence[str] = (),
    disputes: Sequence[tuple[Disputes, Disputes]] | None = None,
) -> str:
    """The report as HTML."""
    names = [entrant.name for entrant in contest.entrants]
    return (
        open_templates()
        .get_template("comparison.html.j2")
        .render(
            name=" against ".join(names)
            if len(names) == 2
            else f"{len(names)} systems, side by side",
            lead=_tell_lead(contest),
            tiles=_list_tiles(contest, board),
            warnings=[*notes, *contest.coverage.tell()],
            leaderboard=_tell_leaderboard(contest, board),
            speed=_tell_speed(board),
            pairs=_tell_pairs(board),
            simple=[_tabulate(board.baseline_pairs, "Systems against simple methods")]
            if board.baseline_pairs
            else [],
            disputes=_find_disputes(contest, board) if disputes is None else disputes,
            parts=_tell_parts(contest, board),
            systems=_tell_systems(contest, board),
            methods=_tell_methods(contest, board),
        )
    )


def _find_disputes(contest: Contest, board: Leaderboard) -> list[tuple[Disputes, Disputes]]:
    named = [line.name for line in board.lines if not line.baseline]
    return [find_disputes(contest, first, second) for first, second in list_rivals(named)]


def _tell_lead(contest: Contest) -> str:
    groups = len({group for group in contest.groups if group})
    grouped = f", in {groups:,} groups" if groups else ""
    both = "both systems" if len(contest.entrants) == 2 else f"all {len(contest.entrants)} systems"
    return f"{capital(count_rows(len(contest.ids)))} with gold{grouped}, which {both} have."


def _list_tiles(contest: Contest, board: Leaderboard) -> list[tuple[str, str]]:
    tiles = [(f"{len(contest.ids):,}", "rows compared")]
    for line in [line for line in board.lines if not line.baseline][:3]:
        reached = board.headline(line)
        if reached:
            tiles.append(
                (
                    f"{reached.value:.3f}",
                    f"{MEASURES[board.measure]} of {shorten(line.name, 40)} ({reached.interval})",
                )
            )
    return tiles


def _tell_leaderboard(contest: Contest, board: Leaderboard) -> list[Block]:
    name = capital(MEASURES[board.measure])
    ranked = [
        (f"{place} {shorten(line.name, 60)}", board.headline(line))
        for place, line in enumerate(board.lines, 1)
    ]
    reached = [(who, figure) for who, figure in ranked if figure]
    others = [measure for measure in _list_measures(board) if measure != board.measure][:2]
    head: list[tuple[str, Align]] = [
        ("System", "l"),
        ("Family", "v"),
        (name, "n"),
        *((capital(MEASURES[one]), "n") for one in others),
    ]
    head += [("Rows/s", "n"), ("Memory", "n"), ("Per 1,000 rows", "n"), ("Against the best", "v")]
    lines = [_list_cells(place, line, board, others) for place, line in enumerate(board.lines, 1)]
    blocks: list[Block] = [
        Text(describe_board(board, len(contest.ids))),
        Picture(
            f"{name} with 95 % intervals, the best first.",
            draw_intervals(reached, f"{name} of all systems"),
        ),
        Table("Leaderboard", tuple(head), lines),
    ]
    learned = [
        line.name
        for line in board.lines
        if line.baseline and line.family == "TF-IDF" and not line.note
    ]
    if learned:
        told = (
            f"{learned[0]} is computed here. It learned from the gold of these rows, in "
            "cross-validation, as prompted models have not."
        )
        blocks.append(Text(told, "quiet small"))
    return blocks


def _list_measures(board: Leaderboard) -> list[str]:
    """The measures that tests are made for, as far as lines have them."""
    tested = [
        measure for pair in (*board.pairs, *board.baseline_pairs) for measure in pair.differences
    ]
    return list(dict.fromkeys([board.measure, *tested]))


def _list_cells(place: int, line: Line, board: Leaderboard, others: Sequence[str]) -> list[Cell]:
    cells: list[Cell] = []
    for measure in (board.measure, *others):
        figure = line.figures.get(measure)
        cells.append((f"{figure.value:.3f}", figure.interval) if figure else "–")
    versus: Cell = (
        "the best" if line is board.best else "–" if line.p is None else describe_p(line.p)
    )
    if line.note:
        versus = f"not measured: {line.note}"
    family = (line.family, "baseline" if line.baseline else shorten(name_model(line), 30))
    return [f"{place} {line.name}", family, *cells, *list_costs(line), versus]


def _tell_speed(board: Leaderboard) -> list[Block]:
    points = [
        (place, line.name, line.rows_per_s, figure)
        for place, line in enumerate(board.lines, 1)
        if line.rows_per_s and (figure := board.headline(line))
    ]
    if not points:
        return [
            Text(
                "No system’s speed is known: runs of medtask tell it, other tools’ tables do not.",
                "quiet",
            )
        ]
    numbered = ", ".join(f"{place} is {shorten(name, 60)}" for place, name, *_ in points)
    measure = capital(MEASURES[board.measure])
    caption = f"{measure} with 95 % intervals, over rows answered per second: {numbered}."
    blocks: list[Block] = [Picture(caption, draw_scatter(points, f"{measure} by speed", measure))]
    if board.price_per_hour is not None:
        told = (
            f"Costs are of a machine at {board.price_per_hour:g} an hour, in the currency in "
            "which that was given, while it answers."
        )
        blocks.append(Text(told, "quiet small"))
    return blocks


def _tell_pairs(board: Leaderboard) -> list[Block]:
    measure = capital(MEASURES[board.measure])
    # With many pairs the verdicts of the table are quicker to read than sentences.
    blocks: list[Block] = (
        [Text(describe_pair(pair)) for pair in board.pairs[:FEW]] if len(board.pairs) <= FEW else []
    )
    drawn = [
        (f"{shorten(pair.first, 30)} − {shorten(pair.second, 30)}", pair.headline[1])
        for pair in board.pairs
    ]
    caption = (
        f"Differences in {MEASURES[board.measure]} with 95 % intervals; those in blue "
        "leave zero out."
    )
    blocks.append(Picture(caption, draw_differences(drawn, f"{measure}: differences")))
    return [*blocks, _tabulate(board.pairs, "Systems against each other")]


def _tabulate(pairs: Sequence[Pair], about: str) -> Table:
    measures = list(dict.fromkeys(measure for pair in pairs for measure in pair.differences))[
        :NARROW
    ]
    judged = any(pair.only_first is not None for pair in pairs)
    head: list[tuple[str, Align]] = [
        ("Pair", "l"),
        *((f"Δ {MEASURES[one]}", "n") for one in measures),
    ]
    head += [("Only one right", "n")] if judged else []
    head += [("p (Holm)", "n"), ("Verdict", "w"), ("Rows", "n")]
    lines: list[list[Cell]] = []
    for pair in pairs:
        cells: list[Cell] = [f"{shorten(pair.first, 40)} − {shorten(pair.second, 40)}"]
        for measure in measures:
            value, _, interval = describe_gap(pair.differences[measure]).partition(" (")
            cells.append((value, interval.rstrip(")")))
        if judged:
            cells.append(
                "–" if pair.only_first is None else f"{pair.only_first:,} / {pair.only_second:,}"
            )
        cells += [
            describe_p(pair.p_holm).removeprefix("p = ").removeprefix("p "),
            _judge(pair),
            f"{pair.n:,}",
        ]
        lines.append(cells)
    return Table(about, tuple(head), lines)


def _judge(pair: Pair) -> str:
    if pair.verdict != "no clear difference":
        return f"the {'first' if pair.verdict == 'better' else 'second'} is better"
    if pair.more_rows is None:
        return "no difference at all"
    return f"no clear difference; about {round_up(pair.more_rows):,} more rows with gold would tell"


def _tell_parts(contest: Contest, board: Leaderboard) -> list[Block]:
    """F1 by label, or how often each field is right, systems side by side."""
    lines = [line for line in board.lines if line.parts]
    if not lines:
        return []
    gold: dict[str, int] = {}
    for line in lines:
        gold.update({name: n for name, (n, _) in line.parts.items()})
    ranked = sorted(gold, key=lambda name: (-gold[name], name))
    head: list[tuple[str, Align]] = [
        ("Field" if contest.kind == "fields" else "Label", "l"),
        ("In gold", "n"),
    ]
    head += [(shorten(line.name, 30), "n") for line in lines]
    rows: list[list[Cell]] = []
    for name in ranked[:PARTS]:
        figures = [line.parts.get(name, (0, None))[1] for line in lines]
        rows.append(
            [
                name,
                f"{gold[name]:,}",
                *((f"{one.value:.3f}", one.interval) if one else "–" for one in figures),
            ]
        )
    what = (
        "How often each field is right"
        if contest.kind == "fields"
        else "F1 of each label that gold has"
    )
    caption = (
        (
            f"The {PARTS} with most rows in gold, of {len(ranked):,}; the JSON beside this page "
            "has "
            "all."
        )
        if len(ranked) > PARTS
        else ""
    )
    return [
        Text(f"{what}, with 95 % intervals. Few rows in gold make wide intervals."),
        Table(what, tuple(head), rows, caption),
    ]


def _tell_systems(contest: Contest, board: Leaderboard) -> list[Block]:
    lines: list[list[Cell]] = []
    by_name: Mapping[str, Line] = {line.name: line for line in board.lines}
    for entrant in contest.entrants:
        line, manifest = by_name[entrant.name], entrant.manifest
        ran = moment(manifest.get("created")) or "–"
        asked = str(find_fact(manifest, "task", "name") or "–")
        absent = contest.coverage.absent[entrant.name]
        rows = f"{contest.coverage.rows[entrant.name]:,}"
        lines.append(
            [entrant.name, line.title, asked, ran, rows, f"{absent:,}", f"{line.unanswered or 0:,}"]
        )
    head: tuple[tuple[str, Align], ...] = (
        *(("System", "l"), ("Model", "w"), ("Task", "l"), ("Started", "v")),
        *(("Rows", "n"), ("Rows it lacks", "n"), ("Without an answer", "n")),
    )
    told = (
        f"Of {contest.coverage.union:,} different rows, {contest.coverage.eligible:,} are in "
        "every system and have gold. "
    )
    told += "Rows without an answer are not left out: they count as wrong."
    return [Text(told), Table("Systems", head, lines)]


def _tell_methods(contest: Contest, board: Leaderboard) -> list[Block]:
    tests = " or ".join(dict.fromkeys(pair.test for pair in (*board.pairs, *board.baseline_pairs)))
    units = "groups" if any(contest.groups) else "rows"
    return [
        Text(
            f"Every pair is tested on the same rows, by {tests}. McNemar’s test looks at the "
            "rows that only one of two has right; "
            "randomisation asks how often so large a difference comes about where answers change "
            "hands by chance (Noreen 1989). "
            f"Intervals of differences are a paired bootstrap of 1,000 resamples of {units}."
        ),
        Text(
            "Δ is how far the first of a pair is ahead of the second. p (Holm) is corrected for "
            "the number of pairs in its family: of "
            "families without any difference at most 5 % show one. Systems are one family, "
            "systems against simple methods another."
        ),
        Text(
            "How many more rows it takes is for a power of 80 %, were the difference as large as "
            "it is here (Miettinen 1968, Connor 1987; "
            "where the test is not McNemar’s, by the width of the interval). It is a rough "
            "guide, as the difference itself is uncertain."
        ),
    ]

"""A leaderboard in lines and sentences."""

from __future__ import annotations

from medtask.display import format_bytes, format_row_count, shorten
from medtask.evaluation.comparison.aligned_rows import OTHER_TOOL
from medtask.evaluation.comparison.leaderboard import Leaderboard, LeaderboardEntry
from medtask.evaluation.comparison.paired import describe_pair
from medtask.evaluation.kinds.metric_report import warn_about_few_groups
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.presentation.formatting import format_p_value
from medtask.evaluation.statistics.significance import ALPHA, describe_sampling

MAX_NAME_LENGTH = 36  # maximum characters of a name on a terminal


def format_leaderboard(leaderboard: Leaderboard) -> list[str]:
    """The leaderboard as lines for a terminal, followed by a sentence on each pair."""
    head = (
        "",
        "family",
        get_metric_title(leaderboard.metric),
        "",
        "rows/s",
        "memory",
        "per 1,000 rows",
        "against the best",
    )
    rows = [head]
    for line in leaderboard.entries:
        reached = leaderboard.headline(line)
        value, interval = (
            (str(reached).split(" ", 1))
            if reached
            else ("–", line.note and f"not measured: {line.note}")
        )
        name = f"{shorten(line.name, MAX_NAME_LENGTH)}{' (baseline)' if line.baseline else ''}"
        model = "" if line.baseline else shorten(get_model_name(line), 24)
        rows.append(
            (
                name,
                f"{line.family}, {model}" if model else line.family,
                value,
                interval,
                *format_costs(line),
                compare_with_best(leaderboard, line),
            )
        )
    kept = [
        place
        for place in range(len(head))
        if place < 3 or any(row[place] not in ("", "–") for row in rows[1:])
    ]
    widths = {place: max(len(row[place]) for row in rows) for place in kept}
    padded = [
        [f"{row[place]:{'>' if place in (4, 5, 6) else '<'}{widths[place]}}" for place in kept]
        for row in rows
    ]
    return [
        *("  ".join(row).rstrip() for row in padded),
        "",
        *(describe_pair(pair) for pair in leaderboard.pairs),
        *describe_samples(leaderboard),
        *_describe_tests(leaderboard),
    ]


def _describe_tests(leaderboard: Leaderboard) -> list[str]:
    """Which p-values these are: a run's report shows uncorrected ones against its baselines."""
    pairs = (*leaderboard.pairs, *leaderboard.baseline_pairs)
    tests = dict.fromkeys(pair.test for pair in pairs if pair.test)
    if not tests:
        return []
    return [
        *warn_about_few_groups(pairs[0].groups),
        f"p: {' or '.join(tests)}, corrected for the number of pairs (Holm). The report of a run "
        "shows p without this correction.",
    ]


def compare_with_best(leaderboard: Leaderboard, line: LeaderboardEntry) -> str:
    """The p-value of the difference from the best system; "best" for that system itself."""
    if line is leaderboard.best:
        return "best"
    return "–" if line.p is None else format_p_value(line.p)


def get_model_name(entry: LeaderboardEntry) -> str:
    """The model's name without load options; "" for tables of other tools."""
    return "" if entry.family == OTHER_TOOL else entry.title.partition(",")[0].partition(" (")[0]


def format_costs(entry: LeaderboardEntry) -> tuple[str, str, str]:
    """Rows per second, peak memory and cost per 1,000 rows as text; dashes for None."""
    speed = "–" if entry.rows_per_s is None else f"{entry.rows_per_s:,.1f}"
    parts = [format_bytes(entry.memory_bytes)] if entry.memory_bytes else []
    parts += [f"{format_bytes(entry.accelerator_bytes)} GPU"] if entry.accelerator_bytes else []
    cost = (
        "–"
        if entry.cost_per_1000 is None
        else f"{entry.cost_per_1000:.2f}"
        if entry.cost_per_1000 >= 1
        else f"{entry.cost_per_1000:.2g}"
    )
    return speed, " + ".join(parts) or "–", cost


def describe_samples(leaderboard: Leaderboard) -> list[str]:
    """A sentence on each baseline that was computed on some of the rows only."""
    sentences = []
    for line in leaderboard.entries:
        reached = leaderboard.headline(line)
        if reached and line.sampled_from:
            sampling = describe_sampling(reached.n, line.sampled_from)
            sentences.append(f"{shorten(line.name, MAX_NAME_LENGTH)} was computed {sampling}.")
    return sentences


def describe_leaderboard(leaderboard: Leaderboard, rows: int) -> str:
    """One sentence on the best system and on those that are not significantly worse."""
    reached = leaderboard.headline(leaderboard.best)
    if reached is None:
        return "No metric could be computed."
    first = [
        shorten(line.name)
        for line in leaderboard.entries
        if (figure := leaderboard.headline(line)) and figure.value == reached.value
    ]
    sentence = (
        f"{' and '.join(first)} {'has' if len(first) == 1 else 'have'} the highest "
        f"{get_metric_title(leaderboard.metric)}, {reached} on {format_row_count(rows)}"
    )
    near = [
        shorten(line.name)
        for line in leaderboard.entries[len(first) :]
        if line.p is not None and line.p >= ALPHA
    ]
    return f"{sentence}; not clearly worse: {', '.join(near)}." if near else f"{sentence}."

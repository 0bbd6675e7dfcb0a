"""What each section of the report says: facts and figures, in the words that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medtask.evaluate.blocks import Align, Block, Cell, Picture, Table, Text
from medtask.evaluate.comparison import Baseline, describe_p
from medtask.evaluate.gold import GoldSummary
from medtask.evaluate.intervals import Estimate
from medtask.evaluate.plots import Layer, draw_histogram, draw_intervals, draw_pace_bars, draw_stack
from medtask.evaluate.summary import STATUS_WORDS, Summary
from medtask.evaluate.words import (
    MEASURES,
    capital,
    count_rows,
    duration,
    isolate,
    moment,
    percent,
    shorten,
)
from medtask.hardware import format_bytes
from medtask.records import Status

NARROW = 2  # measures beside each other, with more of which a table would not fit on a page
MARGIN = 0.05  # how far mean confidence may be from accuracy on however many rows

_MEANINGS = {
    Status.OK: "has an answer",
    Status.REVIEW: "has an answer, but a person should look at it",
    Status.ABSTAINED: "the model chose the task’s way to give no answer",
    Status.EMPTY_INPUT: "there was nothing to read, so nothing was asked",
    Status.NOT_TEXT: "no words were found in it, so nothing was asked",
    Status.TOO_SHORT: "fewer words than the task asks for, so nothing was asked",
    Status.NOVEL: "too little like the task’s examples, so nothing was asked",
    Status.TOO_LONG: "more text than the model can read; nothing was cut off, nothing was asked",
    Status.TRUNCATED: "the model was stopped by a limit before its answer had come to an end",
    Status.UNPARSABLE: "the answer was not in the form that the task asks for",
    Status.FAILED: "the engine could not answer",
}
_TONES = {Status.OK: "blue", Status.REVIEW: "orange"}
_VERDICTS = {
    "right": ("right, says gold", "blue"),
    "wrong": ("wrong, says gold", "orange"),
    "unknown": ("with no usable gold", "grey"),
}


def find_fact(manifest: Mapping[str, object], *path: str) -> Any:
    """What the manifest holds at a path; None where it holds nothing there."""
    found: object = manifest
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def tell_lead(summary: Summary, manifest: Mapping[str, object]) -> str:
    model, source = find_fact(manifest, "model", "title"), find_fact(manifest, "data", "source")
    of_source = f" of {source}" if source else ""
    by_model = f", answered by {model}" if model else ""
    return f"{count_rows(summary.rows)}{of_source}{by_model}."


def list_tiles(summary: Summary) -> list[tuple[str, str]]:
    """The few figures that stand on top, each with its words."""
    tiles = [
        (f"{summary.rows:,}", "rows"),
        (percent(summary.answered / summary.rows) if summary.rows else "–", "have an answer"),
        (f"{summary.statuses.get(Status.REVIEW, 0):,}", "of these for review"),
    ]
    if summary.gold and summary.gold.quality:
        measure, first = next(
            (measure, figure) for measure, figure in summary.gold.quality.figures.items() if figure
        )
        interval = f"{first.low:.3f}-{first.high:.3f}, " if first.low is not None else ""
        tiles.append((f"{first.value:.3f}", f"{MEASURES[measure]} ({interval}n = {first.n:,})"))
    return tiles


def list_facts(manifest: Mapping[str, object]) -> list[tuple[str, str]]:
    """What ran, on what, when, and whether anything left the machine; what the manifest lacks is
    left out.
    """
    rows, columns = find_fact(manifest, "data", "rows"), find_fact(manifest, "data", "columns")
    table = [
        find_fact(manifest, "data", "source"),
        count_rows(rows) if isinstance(rows, int) else None,
        _tell_columns(columns) if isinstance(columns, Sequence) else None,
    ]
    cores, memory = (
        find_fact(manifest, "hardware", "cores"),
        find_fact(manifest, "hardware", "memory_bytes"),
    )
    machine = [
        find_fact(manifest, "hardware", "processor"),
        f"{cores} cores" if cores else None,
        format_bytes(memory) if isinstance(memory, int) else None,
        find_fact(manifest, "hardware", "accelerator_name"),
    ]
    facts = [
        ("Task", find_fact(manifest, "task", "name")),
        ("Model", find_fact(manifest, "model", "title") or find_fact(manifest, "model", "name")),
        ("Table", "; ".join(str(part) for part in table if part)),
        ("Started", moment(manifest.get("created"))),
        ("Finished", moment(manifest.get("finished"))),
        ("Machine", ", ".join(str(part) for part in machine if part)),
        (
            "Left the machine",
            _tell_egress(
                *(
                    find_fact(manifest, "egress", fact)
                    for fact in ("connections_attempted", "sent_to")
                )
            ),
        ),
    ]
    return [(term, shorten(str(fact), 600)) for term, fact in facts if fact]


def _tell_columns(columns: Sequence[object]) -> str:
    """The columns by name, but for those of single labels' probabilities, which are counted."""
    names = [str(name) for name in columns]
    shown = [name for name in names if not name.startswith("p:")]
    several = len(names) - len(shown) > 1
    return f"columns {', '.join(shown if several else names)}" + (
        f" and {len(names) - len(shown):,} of probabilities" if several else ""
    )


def _tell_egress(attempts: object, sent_to: object) -> str:
    if not isinstance(attempts, int):
        return "Not recorded."
    servers = " and ".join(str(url) for url in sent_to) if isinstance(sent_to, Mapping) else ""
    tried = (
        f"{attempts:,} connection{'s' * (attempts != 1)} to other machines were tried and "
        "refused while records were read"
    )
    if servers:
        return (
            f"The text of every row that was asked: it was sent to {servers}, as was allowed. "
            + (
                f"Besides, {tried}."
                if attempts
                else "Connections to any other machine were blocked, and none was tried."
            )
        )
    if attempts == 0:
        return (
            "Nothing. Connections to other machines were blocked while records were read, and "
            "none was tried."
        )
    return f"Nothing, but {tried}."


def list_statuses(summary: Summary) -> dict[str, Any]:
    lines = [
        {
            "word": STATUS_WORDS[status],
            "rows": n,
            "share": n / summary.rows,
            "meaning": _MEANINGS[status],
        }
        for status, n in summary.statuses.items()
    ]
    parts = [
        (STATUS_WORDS[status], n / summary.rows, _TONES.get(status, "grey"))
        for status, n in summary.statuses.items()
    ]
    return {"lines": lines, "bar": draw_stack(parts, "Rows by status")}


def draw_doubt(summary: Summary) -> dict[str, Any]:
    """Histograms of confidence and of off-set mass; None where no row has any."""
    layers = [
        Layer(*_VERDICTS[verdict], bins)
        for verdict, bins in summary.confidence.items()
        if bins.any()
    ]
    if summary.gold is None:
        layers = [Layer("rows", "blue", layer.counts) for layer in layers]
    off_set = [Layer("rows", "blue", summary.off_set)]
    return {
        "layers": layers,
        "confidence": draw_histogram(layers, "Rows by confidence", "confidence")
        if layers
        else None,
        "off_set": draw_histogram(off_set, "Rows by off-set mass", "off-set mass")
        if summary.off_set.any()
        else None,
    }


def tell_quality(gold: GoldSummary | None, baselines: Sequence[Baseline]) -> list[Block]:
    """The figures in words, and the model beside its baselines; nothing where nothing can be said
    without gold.
    """
    if gold is None or gold.quality is None:
        return []
    quality = gold.quality
    figures = {measure: quality.figures[measure] for measure in quality.headlines}
    headline = next(measure for measure, figure in figures.items() if figure)
    name = capital(MEASURES[headline])
    compared = [
        ("the model", figures[headline]),
        *((one.name, one.figures.get(headline)) for one in baselines),
    ]
    reached = [(who, figure) for who, figure in compared if figure]
    measures, narrow = tuple(figures), len(figures) > NARROW
    head: list[tuple[str, Align]] = [
        ("Who", ""),
        *((capital(MEASURES[measure]), "n") for measure in measures),
    ]
    lines = [_list_cells("the model", figures, measures, narrow, ("–", ""), "all rows with gold")]
    lines += [_describe_baseline(one, measures, narrow) for one in baselines]
    return [
        Text(
            " ".join(
                [
                    *quality.tell(),
                    *_tell_calibration(gold.mean_confidence, quality.right),
                    *quality.caveats(),
                ]
            )
        ),
        Picture(
            f"{name} with 95 % intervals, the model first.",
            draw_intervals(reached, f"{name} of the model and its baselines"),
        ),
        Table(
            "The model and its baselines",
            (*head, ("Rows", "n"), ("Against the model", "v"), ("How", "w")),
            lines,
        ),
        Text(quality.explain(), "quiet small"),
        *quality.detail(),
    ]


def _describe_baseline(one: Baseline, measures: Sequence[str], narrow: bool) -> list[Cell]:
    how = f"not measured: {one.note}" if one.note else one.method
    verdict = (one.versus.verdict, describe_p(one.versus.p)) if one.versus else ("–", "")
    return _list_cells(one.name, one.figures, measures, narrow, verdict, how)


def _list_cells(
    who: str,
    figures: Mapping[str, Estimate | None],
    measures: Sequence[str],
    narrow: bool,
    verdict: tuple[str, str],
    how: str,
) -> list[Cell]:
    """``narrow``: intervals stand below their figures."""
    known = [figure for measure in measures if (figure := figures.get(measure))]
    cells: list[Cell] = []
    for measure in measures:
        value, _, interval = str(figures.get(measure) or "–").partition(" ")
        cells.append((value, interval.strip("()")) if narrow else f"{value} {interval}".strip())
    return [who, *cells, f"{max(figure.n for figure in known):,}" if known else "–", verdict, how]


def tell_belief(summary: Summary, *, risk: bool = True) -> list[Block]:
    """Whether confidence means what it says; nothing without gold or confidences. ``risk``: with
    the error at each coverage.
    """
    found = summary.gold.reliability if summary.gold else None
    return found.tell(risk=risk) if found else []


def draw_pace(summary: Summary) -> list[Block]:
    """How fast rows were answered along the table; nothing where too few of them tell."""
    if len(summary.pace) < 4:
        return []
    rates = [(span.first, span.rate) for span in summary.pace]
    return [
        Picture(
            "Rows a second along the table. Rows that repeat earlier ones cost nothing.",
            draw_pace_bars(rates, "Throughput"),
        )
    ]


def tell_passes(summary: Summary) -> list[Block]:
    """What each further pass changed; nothing where there was none."""
    if not summary.passes:
        return []
    graded = any(one.before_after for one in summary.passes)
    head: list[tuple[str, Align]] = [
        ("Pass", ""),
        ("Asked", "n"),
        ("Changed", "n"),
        ("Gained", "n"),
        ("Lost", "n"),
    ]
    head += [("Right before", "n"), ("Right after", "n"), ("Difference", "v")] if graded else []
    lines: list[list[Cell]] = []
    for one in summary.passes:
        cells: list[Cell] = [
            one.name,
            f"{one.asked:,}",
            f"{one.changed:,}",
            f"{one.gained:,}",
            f"{one.lost:,}",
        ]
        if graded and one.before_after and one.p is not None:
            (_, mended), (spoilt, right) = one.before_after
            cells += [(f"{n:,}", f"of {one.graded:,}") for n in (spoilt + right, mended + right)]
            cells.append((f"{mended:,} mended, {spoilt:,} spoilt", describe_p(one.p)))
        elif graded:
            cells += ["–"] * 3
        lines.append(cells)
    told = (
        "Each further pass asks again about the rows that its condition picks. Changed: from one "
        "answer to another. Gained: there was no "
        "answer, and there is one. Lost: the reverse."
    )
    more = (
        " Right: of the rows with gold. Mended rows were wrong and are right, spoilt rows the "
        "reverse; p is McNemar’s exact test."
    )
    return [Text(told + more * graded), Table("What passes changed", tuple(head), lines)]


_SURE = (
    "Where was it sure, and wrong?",
    "most confident answers that gold contradicts",
    "the task’s words mislead it",
)
# Title, which answers, why gold may say otherwise although the model is not to blame, and what the
# colours mean.
_CONTRADICTED = {
    "label": (*_SURE, "Gold’s label is blue, the answer orange."),
    "labels": (*_SURE, "Gold’s labels are blue, others that were given orange."),
    "choice": (*_SURE, "Gold’s option is blue, the answer orange."),
    "answer": (
        "Where is it farthest from gold?",
        "answers that share the fewest words with gold",
        "it is right in other words",
        "",
    ),
    "fields": (
        "Where does gold contradict it most?",
        "answers with the most fields that gold contradicts",
        "the task’s words mislead it",
        "Such fields are orange.",
    ),
}


def tell_errors(summary: Summary) -> tuple[str, str]:
    """Title and words of the section of answers that gold contradicts."""
    title, which, excuse, tones = _CONTRADICTED[summary.kind]
    shown = len(summary.gold.errors) if summary.gold else 0
    told = f"The {shown} {which}. Either the model is wrong, or {excuse}, or gold is wrong. {tones}"
    return title, told.strip()


def tell_doubtful(summary: Summary) -> str:
    """What is shown of the rows that need a person."""
    n, shown = summary.doubtful_rows, len(summary.doubtful)
    least = f"; these are the {shown} least sure" if n > shown else ""
    bars = {
        "label": "The bars are the likeliest labels with their probabilities",
        "labels": "The bars are the likeliest labels, each with the probability that it applies",
        "choice": "The bars are the likeliest options with their probabilities",
        "answer": "",
        "fields": (
            "The bars are the values that were chosen where the task names the possible "
            "ones, the least sure first"
        ),
    }[summary.kind]
    one = "its label is" if summary.kind == "label" else "what it says is"
    tones = (
        f"; where gold is known, {one} blue and a wrong answer orange"
        if summary.gold and bars
        else ""
    )
    return " ".join(
        part
        for part in (
            f"{count_rows(n)} {'need' if n != 1 else 'needs'} a person{least}.",
            f"{bars}{tones}." if bars else "",
        )
        if part
    )


def tell_gaps(summary: Summary) -> list[Block]:
    """Rows whose gold says nothing, or nothing that can be used."""
    gold = summary.gold
    if gold is None:
        return []
    blocks: list[Block] = []
    if gold.unknown:
        what = {
            "label": "no label of the task",
            "labels": "no set of the task’s labels",
            "choice": "none of the row’s options",
        }
        told = what.get(summary.kind, "not of the task’s form")
        values = ", ".join(
            f"“{isolate(value)}” ({rows:,})" for value, rows in gold.unknown_values.items()
        )
        blocks.append(
            Text(
                f"In {count_rows(gold.unknown)} gold is {told}; these rows are not used above. "
                f"The most frequent of such values: {values}.",
                "note",
            )
        )
    if gold.missing:
        blocks.append(
            Text(
                f"{count_rows(gold.missing)} {'have' if gold.missing != 1 else 'has'} no gold.",
                "quiet",
            )
        )
    return blocks


def _tell_calibration(confidence: float | None, answered: Estimate | None) -> list[str]:
    if confidence is None or answered is None or answered.low is None or answered.high is None:
        return []
    verdict = "which fits"
    if confidence > max(answered.high, answered.value + MARGIN):
        verdict = (
            "so it is surer than it should be: let its confidence put rows in order, not "
            "stand for a chance of being right"
        )
    elif confidence < min(answered.low, answered.value - MARGIN):
        verdict = "so it is less sure than it could be"
    return [
        (
            f"Its mean confidence on these rows is {confidence:.2f}, and it is right in "
            f"{answered.value:.2f} of them, {verdict}."
        )
    ]


def list_costs(summary: Summary, manifest: Mapping[str, object]) -> list[tuple[str, str]]:
    """Time, speed and tokens; the manifest's time where it has one, else the sum of the rows'
    shares.
    """
    measured = find_fact(manifest, "timing", "seconds")
    seconds = measured if isinstance(measured, int | float) and measured > 0 else summary.ms / 1000
    given = find_fact(manifest, "timing", "rows_per_s")
    speed = given if isinstance(given, int | float) else summary.rows / seconds if seconds else 0.0
    costs = [("Time", duration(seconds)), ("Speed", f"{speed:,.1f} rows/s")] if seconds else []
    tokens = summary.tokens_read + summary.tokens_reused
    if summary.rows and tokens:
        share = percent(summary.tokens_reused / tokens)
        costs += [
            (
                "Tokens read",
                f"{summary.tokens_read:,} ({summary.tokens_read / summary.rows:,.1f} a row)",
            ),
            (
                "Tokens reused",
                f"{summary.tokens_reused:,} ({share} of all): read once for many rows",
            ),
        ]
    return costs or [("Time", "not measured")]

"""One leaderboard over all kinds of systems, from TF-IDF to fine-tuned models: how good, how fast,
how big, at what cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from medtask.evaluate.baselines import Labels, answer_simply
from medtask.evaluate.comparison import ALPHA, Baseline, describe_p
from medtask.evaluate.contest import Contest, Entrant
from medtask.evaluate.gold import SAMPLE
from medtask.evaluate.intervals import Estimate
from medtask.evaluate.kinds.kind import Quality, Sample, open_kind
from medtask.evaluate.paired import Entry, Pair, compare_family, describe_pair
from medtask.evaluate.sections import find_fact
from medtask.evaluate.weigh import weigh_answers
from medtask.evaluate.words import MEASURES, count_rows, shorten
from medtask.hardware import format_bytes

_FAMILIES = {"linear": "TF-IDF", "encoder": "encoder", "fake": "no model"}
_BASELINES = {"TF-IDF": "TF-IDF", "nearest question": "TF-IDF", "MiniLM": "encoder"}
OTHER = "another tool"
Part = tuple[int, Estimate | None]  # rows with gold, and the figure
NAME = 36  # characters of a name on a terminal


@dataclass(frozen=True, slots=True)
class Line:
    """One system. ``figures``: by measure, the headline first. ``p``: of its difference from the
    best, corrected (Holm); None for the best itself, and where the two were not compared.

    ``baseline``: computed here, on up to 2,000 of the rows. ``unanswered``: compared rows without
    an answer. ``parts``: rows in gold and F1 by label, or how often a field is right. What was not
    measured is None. ``note``: why there are no figures.
    """

    name: str
    title: str
    family: str
    baseline: bool
    figures: Mapping[str, Estimate | None]
    p: float | None = None
    unanswered: int | None = None
    rows_per_s: float | None = None
    memory_bytes: int | None = None
    accelerator_bytes: int | None = None
    cost_per_1000: float | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """``lines``: the best first, by ``measure``; those without figures last. ``pairs``: of the
    systems that were named, the better one first; ``baseline_pairs``: each of these with each
    baseline. Either family is corrected by itself.
    """

    measure: str
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]
    baseline_pairs: tuple[Pair, ...]
    price_per_hour: float | None

    @property
    def best(self) -> Line:
        return self.lines[0]

    def headline(self, line: Line) -> Estimate | None:
        return line.figures.get(self.measure)

    def to_json(self) -> dict[str, object]:
        """Without record text."""
        return {
            "measure": self.measure,
            "price_per_hour": self.price_per_hour,
            "systems": [asdict(line) for line in self.lines],
            "pairs": [pair.to_json() for pair in self.pairs],
            "baseline_pairs": [pair.to_json() for pair in self.baseline_pairs],
        }


def rank_systems(
    contest: Contest,
    definitions: Labels = (),
    *,
    baselines: bool = True,
    price_per_hour: float | None = None,
    seed: int = 0,
) -> Leaderboard:
    """Every system of a contest, beside simple methods on the same rows unless ``baselines`` is
    False.

    ``definitions``: every allowed answer and what it means, for the baselines. ``price_per_hour``:
    of the machine, in whatever currency; a cost is told only where it is given and the speed is
    known.
    """
    lines = [
        _describe_entrant(contest, entrant, price_per_hour, seed) for entrant in contest.entrants
    ]
    entries = {entrant.name: weigh_entrant(contest, entrant) for entrant in contest.entrants}
    measure = next(iter(entries[contest.entrants[0].name].weighed))
    lines.sort(key=lambda line: _rank(line, measure))
    named = [entries[line.name] for line in lines]
    pairs = compare_family(
        [(first, second) for place, first in enumerate(named) for second in named[place + 1 :]],
        contest.groups,
        seed=seed,
    )
    simple: list[tuple[Line, Entry | None]] = []
    if baselines:
        best = next(entrant for entrant in contest.entrants if entrant.name == lines[0].name)
        simple = _run_baselines(contest, best, definitions, seed)
    against = [(system, other) for system in named for _, other in simple if other]
    held = compare_family(
        [_order(one, other, measure) for one, other in against], contest.groups, seed=seed
    )
    ranked = sorted([*lines, *(line for line, _ in simple)], key=lambda line: _rank(line, measure))
    return Leaderboard(
        measure,
        tuple(_tell_p(line, ranked[0], (*pairs, *held)) for line in ranked),
        pairs,
        held,
        price_per_hour,
    )


def find_family(manifest: Mapping[str, object]) -> str:
    """What kind of system a run's manifest tells of: TF-IDF, encoder, prompted, few-shot or
    fine-tuned.

    An adapter makes a model fine-tuned, whatever else it is shown; worked examples in the prompt
    make it few-shot. A model that was fine-tuned and merged elsewhere looks like any other, and
    counts as prompted.
    """
    engine, identity = find_fact(manifest, "model", "name"), find_fact(manifest, "identity")
    if not isinstance(engine, str) or not isinstance(identity, Mapping):
        return OTHER
    if engine in _FAMILIES:
        return _FAMILIES[engine]
    if any(identity.get(f"model.{mark}") for mark in ("adapter", "contract")):
        return "fine-tuned"
    shown = str(identity.get("task.examples") or "0 ")
    return "few-shot" if identity.get("task.pool") or not shown.startswith("0 ") else "prompted"


def leaderboard_lines(board: Leaderboard) -> list[str]:
    """The leaderboard as lines of a terminal, then what is to be told about every pair of named
    systems.
    """
    head = (
        "",
        "family",
        MEASURES[board.measure],
        "",
        "rows/s",
        "memory",
        "per 1,000 rows",
        "against the best",
    )
    rows = [head]
    for line in board.lines:
        reached = board.headline(line)
        value, interval = (
            (str(reached).split(" ", 1))
            if reached
            else ("–", line.note and f"not measured: {line.note}")
        )
        cells = list_costs(line)
        versus = "best" if line is board.best else "–" if line.p is None else describe_p(line.p)
        name = f"{shorten(line.name, NAME)}{' (baseline)' if line.baseline else ''}"
        model = "" if line.baseline else shorten(name_model(line), 24)
        rows.append(
            (
                name,
                f"{line.family}, {model}" if model else line.family,
                value,
                interval,
                *cells,
                versus,
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
        *(describe_pair(pair) for pair in board.pairs),
    ]


def name_model(line: Line) -> str:
    """The model of a run, without how it was loaded; nothing for a table of another tool."""
    return "" if line.family == OTHER else line.title.partition(",")[0].partition(" (")[0]


def list_costs(line: Line) -> tuple[str, str, str]:
    """Rows/s, peak memory and cost per 1,000 rows in words; a dash for what was not measured."""
    speed = "–" if line.rows_per_s is None else f"{line.rows_per_s:,.1f}"
    parts = [format_bytes(line.memory_bytes)] if line.memory_bytes else []
    parts += [f"{format_bytes(line.accelerator_bytes)} GPU"] if line.accelerator_bytes else []
    cost = (
        "–"
        if line.cost_per_1000 is None
        else f"{line.cost_per_1000:.2f}"
        if line.cost_per_1000 >= 1
        else f"{line.cost_per_1000:.2g}"
    )
    return speed, " + ".join(parts) or "–", cost


def grade_entrant(contest: Contest, entrant: Entrant, seed: int = 0) -> Quality:
    """What one system's answers are worth on the contest's rows, by the same figures as any
    run's.
    """
    grader = open_kind(contest.kind, contest.labels, contest.abstain, seed)[1]
    for given, truth, answer, group in zip(
        entrant.given, contest.gold, entrant.answers, contest.groups, strict=True
    ):
        grader.add(given, truth, answer, group)
    quality = grader.finish(_take_sample(contest, entrant.given))
    assert quality is not None
    return quality


def weigh_entrant(contest: Contest, entrant: Entrant) -> Entry:
    """One system as a side of a pair."""
    return _weigh(contest, entrant.name, entrant.given, entrant.right)


def _describe_entrant(contest: Contest, entrant: Entrant, price: float | None, seed: int) -> Line:
    quality = grade_entrant(contest, entrant, seed)
    manifest = entrant.manifest
    speed = _measure_speed(manifest)
    memory, accelerator = (
        find_fact(manifest, "timing", f"peak_{what}_bytes") for what in ("memory", "accelerator")
    )
    return Line(
        name=entrant.name,
        title=str(find_fact(manifest, "model", "title") or "a table of answers"),
        family=find_family(manifest),
        baseline=False,
        figures=quality.figures,
        unanswered=sum(given is None for given in entrant.given),
        rows_per_s=speed,
        memory_bytes=memory if isinstance(memory, int) else None,
        accelerator_bytes=accelerator if isinstance(accelerator, int) else None,
        cost_per_1000=price * 1000 / 3600 / speed if price is not None and speed else None,
        parts=_list_parts(quality),
    )


def _measure_speed(manifest: Mapping[str, object]) -> float | None:
    """Rows a second of answering; of a run that does not tell, of the whole run, with its
    loading.
    """
    given = find_fact(manifest, "timing", "rows_per_s")
    if isinstance(given, int | float) and given > 0:
        return float(given)
    rows, seconds = (
        find_fact(manifest, "settings", "rows"),
        find_fact(manifest, "timing", "seconds"),
    )
    return (
        rows / seconds
        if isinstance(rows, int) and rows and isinstance(seconds, int | float) and seconds > 0
        else None
    )


def _list_parts(quality: Any) -> dict[str, Part]:
    """Rows in gold and F1 by label that gold has, or how often a field is right; nothing for kinds
    without parts.
    """
    inner = getattr(quality, "quality", None)
    labels = {one.label: (one.gold, one.f1) for one in getattr(inner, "labels", ()) if one.gold}
    return labels or {one.field: (one.rows, one.agreement) for one in getattr(inner, "fields", ())}


def _weigh(
    contest: Contest, name: str, given: Sequence[Any], right: Sequence[bool | None] | None = None
) -> Entry:
    """``given``: answers to the contest's first rows."""
    gold = contest.gold[: len(given)]
    if right is None:
        grader = open_kind(contest.kind, contest.labels, contest.abstain, 0)[1]
        right = [grader.is_right(value, truth) for value, truth in zip(given, gold, strict=True)]
    known = (
        None if any(verdict is None for verdict in right) else [bool(verdict) for verdict in right]
    )
    return Entry(name, weigh_answers(contest.kind, contest.classes, gold, given), known)


def _run_baselines(
    contest: Contest, best: Entrant, definitions: Labels, seed: int
) -> list[tuple[Line, Entry | None]]:
    if not any(contest.texts) and contest.kind != "fields":
        note = "the texts of the rows are not known"
        return [(Line("simple methods", "", "–", True, {}, note=note), None)]
    taken = {entrant.name for entrant in contest.entrants}
    found = []
    for baseline, answers in answer_simply(
        contest.kind, _take_sample(contest, best.given), definitions, seed=seed
    ):
        name = f"{baseline.name} here" if baseline.name in taken else baseline.name
        found.append(
            (
                _describe_baseline(baseline, name),
                None if answers is None else _weigh(contest, name, answers),
            )
        )
    return found


def _describe_baseline(baseline: Baseline, name: str) -> Line:
    return Line(
        name,
        baseline.method,
        _BASELINES.get(baseline.name, "floor"),
        True,
        baseline.figures,
        note=baseline.note,
    )


def _take_sample(contest: Contest, given: Sequence[Any]) -> Sample:
    """The contest's first rows, which are random ones."""
    return Sample(
        contest.texts[:SAMPLE],
        contest.gold[:SAMPLE],
        tuple(given[:SAMPLE]),
        contest.options[:SAMPLE],
    )


def _rank(line: Line, measure: str) -> tuple[float, str]:
    reached = line.figures.get(measure)
    return (-reached.value if reached else 2.0), line.name


def _order(one: Entry, other: Entry, measure: str) -> tuple[Entry, Entry]:
    rows = min(one.rows, other.rows)
    ahead = [entry.weighed[measure].first(rows).value() for entry in (one, other)]
    return (one, other) if ahead[0] >= ahead[1] else (other, one)


def _tell_p(line: Line, best: Line, pairs: Sequence[Pair]) -> Line:
    p = next(
        (pair.p_holm for pair in pairs if {pair.first, pair.second} == {line.name, best.name}), None
    )
    return replace(line, p=p) if line is not best else line


def describe_board(board: Leaderboard, rows: int) -> str:
    """One sentence on who leads, and whether anybody is as good as far as these rows tell."""
    reached = board.headline(board.best)
    if reached is None:
        return "Nothing could be measured."
    told = (
        f"{shorten(board.best.name)} has the highest {MEASURES[board.measure]}, {reached} on "
        f"{count_rows(rows)}"
    )
    near = [
        shorten(line.name) for line in board.lines[1:] if line.p is not None and line.p >= ALPHA
    ]
    return f"{told}; not clearly worse: {', '.join(near)}." if near else f"{told}."

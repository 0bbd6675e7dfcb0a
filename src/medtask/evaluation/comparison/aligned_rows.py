"""The rows that all compared systems have, with gold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medtask.display import format_count, format_list, format_row_count, quote, shorten
from medtask.errors import InputError
from medtask.evaluation.kinds.protocols import (
    SAMPLE_SIZE,
    EvaluationKind,
    Grader,
    compute_sample_key,
    get_evaluation_kind,
)
from medtask.evaluation.presentation.formatting import (
    count_left_out,
    format_left_out,
    suggest_unseen_rows,
)
from medtask.kinds import KindName
from medtask.records import Answer, AnsweredRow, LeftOut, Option, Value

OTHER_TOOL, OTHER_TOOL_TITLE = "another tool", "a table of answers"


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """Facts about one system; None for what was not measured.

    Attributes:
        title: The model, or "a table of answers".
        family: "TF-IDF", "encoder", "prompted", "few-shot", "fine-tuned", or "another tool".
        rows_per_s: Rows answered per second.
        memory_bytes: Peak memory.
        accelerator_bytes: Peak memory of the accelerator.
        task: The name of the task; "" if it is not known.
        started: When the run was started, as in its manifest.
    """

    title: str = OTHER_TOOL_TITLE
    family: str = OTHER_TOOL
    rows_per_s: float | None = None
    memory_bytes: int | None = None
    accelerator_bytes: int | None = None
    task: str = ""
    started: object = None


@dataclass(frozen=True, slots=True)
class SystemSource:
    """A system: ``rows`` returns its rows from the first."""

    name: str
    rows: Callable[[], Iterable[AnsweredRow]]
    facts: SystemFacts = SystemFacts()


@dataclass(frozen=True, slots=True)
class RowCoverage:
    """Numbers of rows that are compared or left out.

    Attributes:
        rows: Number of rows of each system.
        absent: Number of rows with gold that another system has and this one lacks.
        union: Number of different ids.
        eligible: Number of rows that all systems have, with gold.
        compared: Number of rows that are compared.
        ungraded: Number of rows that all systems have, without gold.
        unknown: Number of rows whose gold is not valid.
        left_out: Number of rows with gold that are not new to one of the systems, by reason.
        outside: Number of answers of each system that the task does not allow; they count as none.
    """

    rows: Mapping[str, int]
    absent: Mapping[str, int]
    union: int
    eligible: int
    compared: int
    ungraded: int
    unknown: int
    left_out: Mapping[LeftOut, int]
    outside: Mapping[str, int]

    def describe(self) -> list[str]:
        """Sentences about rows that are left out."""
        sentences = [
            (
                f"{shorten(name)} lacks {format_row_count(n)} with gold that another system has: "
                "left out of the comparison."
            )
            for name, n in self.absent.items()
            if n
        ]
        sentences += [
            (
                f"{shorten(name)} has {format_count(n, 'answer')} that the task does not allow: "
                "counted as no answer."
            )
            for name, n in self.outside.items()
            if n
        ]
        if self.left_out:
            sentences.append(f"Left out of the comparison: {format_left_out(self.left_out)}.")
        if self.unknown:
            sentences.append(f"In {format_row_count(self.unknown)} gold is not valid: left out.")
        if self.ungraded:
            sentences.append(
                f"{format_row_count(self.ungraded)} {'have' if self.ungraded != 1 else 'has'} no "
                "gold: left out."
            )
        if self.compared < self.eligible:
            sentences.append(
                f"{self.compared:,} random rows of {self.eligible:,} are compared, because texts "
                "take long to compare with gold."
            )
        return sentences


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """One system's answers to the compared rows.

    ``values`` are comparable values; None for no answer.
    """

    name: str
    facts: SystemFacts
    rows: tuple[int, ...]
    answers: tuple[Answer, ...]
    values: tuple[Any, ...]
    right: tuple[bool | None, ...]
    invalid_answers: int


@dataclass(frozen=True, slots=True, eq=False)
class ComparisonRows:
    """The compared rows with the systems' answers, in a random order that depends only on the ids.

    ``labels`` excludes the abstention. ``groups`` is None for a row without a group.
    """

    kind: KindName
    labels: tuple[str, ...]
    abstain: str | None
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    gold: tuple[Any, ...]
    options: tuple[tuple[Option, ...], ...]
    groups: tuple[str | None, ...]
    systems: tuple[System, ...]
    row_coverage: RowCoverage

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels if self.abstain is None else (*self.labels, self.abstain)

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict without record text."""
        groups = {group for group in self.groups if group is not None}
        return {
            "kind": self.kind,
            "n": len(self.ids),
            "groups": len(groups) or None,
            "rows": asdict(self.row_coverage),
        }


def align_rows(
    kind: KindName, labels: Sequence[str], abstain: str | None, sources: Sequence[SystemSource]
) -> ComparisonRows:
    """Collects the rows that all sources have and for which at least one has gold.

    Each source is read twice. Memory grows with the rows that have gold and with the ids.

    Raises:
        InputError: If an id occurs twice in a source, gold differs between sources, or no row is
            left.
    """
    evaluation_kind = get_evaluation_kind(kind)
    grader = evaluation_kind.create_grader(labels, abstain, 0)
    ids, gold_by_id, unknown, not_new = _collect_gold(grader, sources)
    shared = set.intersection(*(set(rows) for rows in ids))
    graded = shared & gold_by_id.keys()
    left_out = {name: not_new[name] for name in graded & not_new.keys()}
    eligible = sorted(graded - left_out.keys(), key=lambda name: (compute_sample_key(name), name))
    if not shared:
        raise _make_no_shared_ids_error(sources, ids)
    if not eligible:
        raise _build_no_rows_error(sources, shared, gold_by_id, left_out)
    kept = eligible[:SAMPLE_SIZE] if evaluation_kind.compares_sample else eligible
    found = [_collect_rows(source, frozenset(kept)) for source in sources]
    rows = [[seen[name] for seen in found] for name in kept]
    used_kind = evaluation_kind.resolve(
        [gold_by_id[name] for name in kept], [one.answer.value for row in rows for one in row]
    )
    gold = tuple(used_kind.normalize(gold_by_id[name]) for name in kept)
    systems = tuple(
        _build_system(source, [row[place] for row in rows], gold, grader, used_kind)
        for place, source in enumerate(sources)
    )
    return ComparisonRows(
        kind=kind,
        labels=tuple(labels),
        abstain=abstain,
        ids=tuple(kept),
        texts=tuple(next((one.text for one in row if one.text), "") for row in rows),
        gold=gold,
        options=tuple(next((tuple(one.options) for one in row if one.options), ()) for row in rows),
        groups=tuple(next((one.group for one in row if one.group), None) for row in rows),
        systems=systems,
        row_coverage=RowCoverage(
            rows={source.name: len(each) for source, each in zip(sources, ids, strict=True)},
            absent={
                source.name: len(gold_by_id.keys() - set(each))
                for source, each in zip(sources, ids, strict=True)
            },
            union=len(set.union(*(set(each) for each in ids))),
            eligible=len(eligible),
            compared=len(kept),
            ungraded=len(shared - gold_by_id.keys() - unknown),
            unknown=len(unknown - gold_by_id.keys()),
            left_out=count_left_out(left_out.values()),
            outside={system.name: system.invalid_answers for system in systems},
        ),
    )


def _collect_gold(
    grader: Grader, sources: Sequence[SystemSource]
) -> tuple[list[dict[str, int]], dict[str, Value], set[str], dict[str, LeftOut]]:
    """The rows of each source by id, gold by id, ids with invalid gold, and the rows that are not
    new to one of the sources, which they would favour.
    """
    ids: list[dict[str, int]] = []
    gold_by_id: dict[str, Value] = {}
    unknown: set[str] = set()
    left_out: dict[str, LeftOut] = {}
    for source in sources:
        rows: dict[str, int] = {}
        differs: list[int] = []
        for seen in source.rows():
            name = seen.answer.record_id
            if name in rows:
                fix = "give every row a different id"
                raise InputError(
                    f"{source.name} has the same id in two rows, {rows[name]:,} and {seen.row:,}",
                    fix=fix,
                )
            rows[name] = seen.row
            if seen.left_out and not seen.answer_counts:
                left_out.setdefault(name, seen.left_out)
            if seen.gold is None or seen.gold in ("", {}):
                continue
            truth = grader.parse_gold(seen.gold, seen.options)
            if truth is None:
                unknown.add(name)
            elif gold_by_id.setdefault(name, truth) != truth:
                differs.append(seen.row)
        if differs:
            message = (
                f"{source.name} has different gold from the systems before it, in "
                f"{format_row_count(len(differs))} (first: row {differs[0]:,})"
            )
            raise InputError(message, fix="give one file with gold for all systems: --gold FILE")
        ids.append(rows)
    return ids, gold_by_id, unknown, left_out


def _make_no_shared_ids_error(
    sources: Sequence[SystemSource], ids: Sequence[Mapping[str, int]]
) -> InputError:
    names = " and ".join(source.name for source in sources)
    first_ids = [
        f"{quote(next(iter(rows)))} in {source.name}"
        for source, rows in zip(sources, ids, strict=True)
        if rows
    ]
    return InputError(
        f"no row is in all of {names}: their ids have nothing in common"
        + (f" (the first ids are {format_list(first_ids)})" if first_ids else ""),
        fix=(
            "compare answers to the same table; if a spreadsheet has changed the ids (it drops "
            "zeros and makes dates), restore them"
        ),
    )


def _build_no_rows_error(
    sources: Sequence[SystemSource],
    shared: set[str],
    gold_by_id: Mapping[str, Value],
    left_out: Mapping[str, LeftOut],
) -> InputError:
    names = " and ".join(source.name for source in sources)
    if left_out:
        counts = count_left_out(left_out.values())
        return InputError(
            f"no row of {names} can be compared: {format_left_out(counts)}",
            fix=suggest_unseen_rows(counts),
        )
    if gold_by_id:
        return InputError(
            f"none of the rows that are in all of {names} has gold",
            fix="give gold for rows that all systems have answered",
        )
    return InputError(
        f"no row of {names} has gold", fix="name the gold with --gold COLUMN or --gold FILE"
    )


def _collect_rows(source: SystemSource, record_ids: frozenset[str]) -> dict[str, AnsweredRow]:
    return {
        seen.answer.record_id: seen for seen in source.rows() if seen.answer.record_id in record_ids
    }


def _build_system(
    source: SystemSource,
    rows: Sequence[AnsweredRow],
    gold: Sequence[Any],
    grader: Grader,
    kind: EvaluationKind,
) -> System:
    values = [grader.comparable_value(one.answer.status, one.answer.value) for one in rows]
    # Another tool may give an answer that the task does not allow.
    invalid = [
        bool(kind.is_closed and value and grader.parse_gold(value, one.options) is None)
        for value, one in zip(values, rows, strict=True)
    ]
    given = [
        None if is_invalid else kind.normalize(value)
        for is_invalid, value in zip(invalid, values, strict=True)
    ]
    return System(
        name=source.name,
        facts=source.facts,
        rows=tuple(one.row for one in rows),
        answers=tuple(one.answer for one in rows),
        values=tuple(given),
        right=tuple(
            grader.is_right(value, truth) for value, truth in zip(given, gold, strict=True)
        ),
        invalid_answers=sum(invalid),
    )

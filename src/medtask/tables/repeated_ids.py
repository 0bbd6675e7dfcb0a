"""Rows that repeat the id of an earlier row: left out, or given ids of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace

from medtask.display import format_count, quote
from medtask.tables.cell_values import read_key
from medtask.tables.read_options import DuplicateRule
from medtask.tables.table import Table
from medtask.tables.table_part import Row


def resolve_repeated_ids(table: Table, id_column: str | None) -> Table:
    """The table with unique ids, as its option ``on_duplicate`` says; unchanged without it.

    "first" leaves out rows whose id an earlier row has. "suffix" gives the second row with the id
    ``A1`` the id ``A1-2``, or the next number that no row has. Ids are compared as `read_key`
    returns them; rows without an id are kept.

    Memory grows with the number of repeated ids only, so rows are read twice before they are used.
    """
    rule = table.options.on_duplicate
    if rule is None or table.change_rows or id_column is None or id_column not in table.columns:
        return table
    counts = _count_repeated(table, id_column)
    repeated = counts.keys()
    pairs = (_split_suffix(key) for row in table.rows() if (key := read_key(row[id_column])))
    taken = frozenset(f"{head}-{number}" for head, number in pairs if head in repeated)
    change = _RowChange(id_column, rule, repeated, taken)
    return replace(table, change_rows=change.apply, id_note=_describe(counts, rule))


@dataclass(frozen=True, slots=True)
class _RowChange:
    """The change of a table's rows; ``taken`` are ids of the table that end like new ones."""

    id_column: str
    rule: DuplicateRule
    repeated: Set[str]
    taken: Set[str]

    def apply(self, rows: Iterable[Row]) -> Iterator[Row]:
        seen: Counter[str] = Counter()
        for row in rows:
            key = read_key(row[self.id_column])
            if key is None or key not in self.repeated:
                yield row
                continue
            seen[key] += 1
            if seen[key] == 1:
                yield row
            elif self.rule == "suffix":
                while (name := f"{key}-{seen[key]}") in self.taken:
                    seen[key] += 1
                yield {**row, self.id_column: name}


def _count_repeated(table: Table, id_column: str) -> Counter[str]:
    """How often each id is in the table, of those that are there more than once."""
    hashes: set[int] = set()
    repeated_hashes: set[int] = set()
    for row in table.rows():
        if key := read_key(row[id_column]):
            (repeated_hashes if hash(key) in hashes else hashes).add(hash(key))
    keys = (read_key(row[id_column]) for row in table.rows())
    counts = Counter(key for key in keys if key and hash(key) in repeated_hashes)
    return Counter({key: count for key, count in counts.items() if count > 1})


def _split_suffix(key: str) -> tuple[str, str]:
    head, _, number = key.rpartition("-")
    return head, number


def _describe(counts: Counter[str], rule: DuplicateRule) -> str:
    extra = counts.total() - len(counts)
    if not extra:
        return ""
    example = quote(next(iter(counts)))
    if rule == "first":
        return (
            f"{format_count(extra, 'row')} left out, because an earlier row has the same id "
            f"(such as {example}; --on-duplicate first)"
        )
    name = quote(f"{next(iter(counts))}-2")
    return (
        f"{format_count(extra, 'row')} with an id that an earlier row has: a number is added, as "
        f"in {name} for {example} (--on-duplicate suffix)"
    )

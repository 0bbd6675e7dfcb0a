"""Statistics of a table's columns: missing cells, different values, lengths, frequent values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medtask.tables.cell_values import read_present_cell

# A column with more different values has texts or ids: none of them is frequent.
MAX_FREQUENT_VALUES = 50
_MAX_COUNTED_VALUES = 100_000
_MAX_VALUE_LENGTH = 200


@dataclass(slots=True)
class ColumnStatistics:
    """What the cells of a column hold.

    Attributes:
        name: The column.
        rows: The rows of the table.
        missing: Cells without a value, or with a word for a missing value.
        distinct: The number of different values; None if there are more than are counted.
        max_length: Characters of the longest value.
        total_length: Characters of all values.
    """

    name: str
    rows: int = 0
    missing: int = 0
    max_length: int = 0
    total_length: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _is_overfull: bool = False

    @property
    def distinct(self) -> int | None:
        return None if self._is_overfull else len(self._counts)

    @property
    def mean_length(self) -> float:
        """The mean number of characters of the values; 0.0 without any."""
        present = self.rows - self.missing
        return self.total_length / present if present else 0.0

    @property
    def frequent_values(self) -> list[tuple[str, int]]:
        """The values with their numbers, the most frequent first; empty for texts and ids."""
        distinct, present = self.distinct, self.rows - self.missing
        if distinct is None or distinct > MAX_FREQUENT_VALUES or distinct == present:
            return []
        return [
            (value[:_MAX_VALUE_LENGTH], count)
            for value, count in sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        ]

    def add(self, cell: object) -> None:
        """Count a cell."""
        self.rows += 1
        value = read_present_cell(cell)
        if value is None:
            self.missing += 1
            return
        self.total_length += len(value)
        self.max_length = max(self.max_length, len(value))
        if not self._is_overfull:
            self._counts[value] += 1
            if len(self._counts) > _MAX_COUNTED_VALUES:
                self._is_overfull = True
                self._counts.clear()

    def to_json(self) -> dict[str, Any]:
        """The statistics as JSON values; frequent values are texts of the table."""
        return {
            "name": self.name,
            "missing": self.missing,
            "distinct": self.distinct,
            "mean_length": round(self.mean_length, 1),
            "max_length": self.max_length,
            "frequent_values": [
                {"value": value, "rows": count} for value, count in self.frequent_values
            ],
        }


def collect_column_statistics(
    columns: Iterable[str], rows: Iterable[Mapping[str, object]]
) -> list[ColumnStatistics]:
    """Count the cells of all columns in one pass."""
    statistics = [ColumnStatistics(name) for name in columns]
    for row in rows:
        for one in statistics:
            one.add(row.get(one.name))
    return statistics

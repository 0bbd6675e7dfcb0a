"""Made-up contests: systems of a known quality on the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from medtask.evaluate.contest import Contest, Source, join_rows
from medtask.evaluate.kinds.kind import Kind
from medtask.records import Answer, Option, Status

LABELS = ("curative", "palliative", "staging")


class Row(NamedTuple):
    row: int
    answer: Answer
    text: str = ""
    gold: Any = None
    options: tuple[Option, ...] = ()
    group: str | None = None


def answer(name: str, value: Any, confidence: float | None = 0.8) -> Answer:
    if value is None:
        return Answer(name, Status.FAILED, reason="no answer")
    return Answer(name, Status.OK, value, confidence)


def make_rows(
    gold: Sequence[Any],
    given: Sequence[Any],
    *,
    texts: Sequence[str] = (),
    groups: Sequence[str | None] = (),
) -> list[Row]:
    return [
        Row(
            place + 1,
            answer(f"c{place}", value),
            texts[place] if texts else f"a text about {truth} {place}",
            truth,
            group=groups[place] if groups else None,
        )
        for place, (truth, value) in enumerate(zip(gold, given, strict=True))
    ]


def join(
    kind: Kind,
    systems: dict[str, list[Row]],
    labels: Sequence[str] = LABELS,
    manifests: dict[str, dict[str, Any]] | None = None,
) -> Contest:
    def repeat(rows: list[Row]) -> Callable[[], list[Row]]:
        return lambda: rows

    return join_rows(
        kind,
        labels,
        None,
        [
            Source(name, repeat(rows), (manifests or {}).get(name, {}))
            for name, rows in systems.items()
        ],
    )


def make_contest(
    rows: int = 150, *, groups: bool = False, manifests: dict[str, dict[str, Any]] | None = None
) -> Contest:
    """A good, a fair and a poor system; each leaves some rows without an answer."""
    chance = random.Random(7)
    gold = [chance.choice(LABELS) for _ in range(rows)]
    grouped = [f"patient {place // 3}" for place in range(rows)] if groups else ()
    systems = {}
    for name, quality in (("good", 0.9), ("fair", 0.8), ("poor", 0.4)):
        given = [truth if chance.random() < quality else chance.choice(LABELS) for truth in gold]
        systems[name] = make_rows(
            gold, [None if chance.random() < 0.03 else value for value in given], groups=grouped
        )
    return join("label", systems, manifests=manifests)

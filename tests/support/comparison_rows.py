"""Comparison rows: systems of a known quality on the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from medtask.evaluation.comparison.aligned_rows import ComparisonRows, SystemSource, align_rows
from medtask.kinds import KindName
from medtask.records import Answer, AnsweredRow, Status
from medtask.runs.system_facts import read_system_facts

LABELS = ("curative", "palliative", "staging")


def make_manifest(engine: str = "hf", *, seconds: float = 10.0, **facts: Any) -> dict[str, Any]:
    """The manifest of a run that a comparison reads."""
    return {
        "model": {"name": engine, "title": f"a model of {engine}"},
        "identity": {"task.examples": "0 (sha256 00)", **facts},
        "settings": {"rows": 200},
        "timing": {"sessions": 1, "seconds": seconds},
    }


def make_answer(name: str, value: Any, confidence: float | None = 0.8) -> Answer:
    if value is None:
        return Answer(name, Status.FAILED, reason="no answer")
    return Answer(name, Status.OK, value, confidence)


def make_rows(
    gold: Sequence[Any],
    given: Sequence[Any],
    *,
    texts: Sequence[str] = (),
    groups: Sequence[str | None] = (),
) -> list[AnsweredRow]:
    return [
        AnsweredRow(
            index + 1,
            make_answer(f"c{index}", value),
            texts[index] if texts else f"a text about {truth} {index}",
            truth,
            group=groups[index] if groups else None,
        )
        for index, (truth, value) in enumerate(zip(gold, given, strict=True))
    ]


def join_systems(
    kind: KindName,
    systems: dict[str, list[AnsweredRow]],
    labels: Sequence[str] = LABELS,
    manifests: dict[str, dict[str, Any]] | None = None,
) -> ComparisonRows:
    def make_rows_factory(rows: list[AnsweredRow]) -> Callable[[], list[AnsweredRow]]:
        return lambda: rows

    return align_rows(
        kind,
        labels,
        None,
        [
            SystemSource(
                name, make_rows_factory(rows), read_system_facts((manifests or {}).get(name, {}))
            )
            for name, rows in systems.items()
        ],
    )


def make_comparison(
    rows: int = 150, *, groups: bool = False, manifests: dict[str, dict[str, Any]] | None = None
) -> ComparisonRows:
    """A good, a fair and a poor system; each leaves some rows without an answer."""
    chance = random.Random(7)
    gold = [chance.choice(LABELS) for _ in range(rows)]
    grouped = [f"patient {index // 3}" for index in range(rows)] if groups else ()
    systems = {}
    for name, quality in (("good", 0.9), ("fair", 0.8), ("poor", 0.4)):
        given = [truth if chance.random() < quality else chance.choice(LABELS) for truth in gold]
        systems[name] = make_rows(
            gold, [None if chance.random() < 0.03 else value for value in given], groups=grouped
        )
    return join_systems("label", systems, manifests=manifests)

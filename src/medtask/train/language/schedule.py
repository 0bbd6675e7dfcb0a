"""Which rows are learnt from in which step: the same for the same seed, on any machine, after any
interruption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medtask.train.language.passage import Passage

# Batches of one stretch are filled by length: rows of like length waste nothing, and a stretch is
# long enough to stay mixed.
STRETCH = 8


def order_batches(
    tasks: Sequence[int], lengths: Sequence[int], batch: int, steps: int, seed: int
) -> list[list[int]]:
    """Rows (by index) for each of ``steps`` steps: every row once an epoch, grouped by task and
    length, the groups in random order.

    ``tasks``: which task a row is of: a batch holds rows of one task, that they may share a prefix.
    ``lengths``: in tokens.
    """
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < steps:
        draw = np.random.default_rng([seed, epoch])
        rows = draw.permutation(len(lengths)).tolist()
        made = [
            one
            for task in sorted(set(tasks))
            for one in _cut([row for row in rows if tasks[row] == task], lengths, batch)
        ]
        batches += [made[place] for place in draw.permutation(len(made))]
        epoch += 1
    return batches[:steps]


def _cut(rows: Sequence[int], lengths: Sequence[int], batch: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), batch * STRETCH):
        stretch = sorted(
            rows[start : start + batch * STRETCH], key=lambda row: (-lengths[row], row)
        )
        for at in range(0, len(stretch), batch):
            yield stretch[at : at + batch]


def count_batches(tasks: Sequence[int], batch: int) -> int:
    """Steps of an epoch."""
    return sum(-(-list(tasks).count(task) // batch) for task in set(tasks))


def cut_packs(passages: Sequence[Passage], most: int) -> Iterator[list[Passage]]:
    """Passages of one step in packs of at most ``most`` tokens, or one passage; the longest
    first.
    """
    pack: list[Passage] = []
    tokens = 0
    for passage in sorted(passages, key=lambda passage: -passage.longest):
        own = sum(len(line.tokens) - passage.shared for line in passage.lines)
        if pack and tokens + own > most:
            yield pack
            pack, tokens = [], 0
        pack.append(passage)
        tokens += own
    if pack:
        yield pack

from __future__ import annotations

from itertools import product

from medtask.runs.task_inference import collect_statistics, infer_task


def test_labels_are_found_in_tables_with_thousands_of_different_sets() -> None:
    names = [f"finding {letter}" for letter in "abcdefghijkl"]
    sets = [
        "; ".join(name for name, chosen in zip(names, bits, strict=True) if chosen)
        for bits in product((0, 1), repeat=len(names))
    ]
    cells = [*sets, "finding a; rare finding"]
    statistics = collect_statistics((cell, cell) for cell in cells)
    task = infer_task("t", *statistics, [], sums_to_one=False, kind="labels")
    assert [label.name for label in task.labels] == [*names, "rare finding"]

"""What each section of the report says: facts and figures, in the words that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtask.evaluate.baselines import Baseline, describe_p
from medtask.evaluate.gold import GoldSummary
from medtask.evaluate.intervals import Counts, Estimate
from medtask.evaluate.metrics import Quality
from medtask.evaluate.plots import Layer, draw_histogram, draw_intervals, draw_stack, shade
from medtask.evaluate.summary import STATUS_WORDS, Summary
from medtask.evaluate.words import count_rows, duration, moment, percent, shorten
from medtask.hardware import format_bytes
from medtask.records import Status

LABELS = 40  # how many labels a table shows: with 2,000 labels the page must stay readable, and small
FEW_ROWS = 10  # gold rows of a label, with fewer of which its F1 is mostly luck
MARGIN = 0.05  # how far mean confidence may be from accuracy on however many rows

_MEANINGS = {
    Status.OK: "has an answer",
    Status.REVIEW: "has an answer, but a person should look at it",
    Status.ABSTAINED: "the model chose the task’s way to give no answer",
    Status.EMPTY_INPUT: "there was nothing to read, so nothing was asked",
    Status.TOO_LONG: "more text than the model can read; nothing was cut off, nothing was asked",
    Status.TRUNCATED: "the answer stopped at its length limit and is not used",
    Status.UNPARSABLE: "the answer was not in the form that the task asks for",
    Status.FAILED: "the engine could not answer",
}
_TONES = {Status.OK: "blue", Status.REVIEW: "orange"}
_VERDICTS = {"right": ("right, says gold", "blue"), "wrong": ("wrong, says gold", "orange"), "unknown": ("with no usable gold", "grey")}


def find_fact(manifest: Mapping[str, object], *path: str) -> Any:
    """What the manifest holds at a path; None where it holds nothing there."""
    found: object = manifest
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def tell_lead(summary: Summary, manifest: Mapping[str, object]) -> str:
    model, source = find_fact(manifest, "model", "title"), find_fact(manifest, "data", "source")
    return f"{count_rows(summary.rows)}{f' of {source}' if source else ''}{f', answered by {model}' if model else ''}."


def list_tiles(summary: Summary) -> list[tuple[str, str]]:
    """The few figures that stand on top, each with its words."""
    tiles = [
        (f"{summary.rows:,}", "rows"),
        (percent(summary.answered / summary.rows) if summary.rows else "–", "have an answer"),
        (f"{summary.statuses.get(Status.REVIEW, 0):,}", "of these for review"),
    ]
    if summary.gold and summary.gold.quality:
        accuracy = summary.gold.quality.accuracy
        tiles.append((f"{accuracy.value:.3f}", f"accuracy ({accuracy.low:.3f}-{accuracy.high:.3f}, n = {accuracy.n:,})"))
    return tiles


def list_facts(manifest: Mapping[str, object]) -> list[tuple[str, str]]:
    """What ran, on what, when, and whether anything left the machine; what the manifest lacks is left out."""
    rows, columns = find_fact(manifest, "data", "rows"), find_fact(manifest, "data", "columns")
    table = [
        find_fact(manifest, "data", "source"),
        count_rows(rows) if isinstance(rows, int) else None,
        f"columns {', '.join(map(str, columns))}" if isinstance(columns, Sequence) else None,
    ]
    cores, memory = find_fact(manifest, "hardware", "cores"), find_fact(manifest, "hardware", "memory_bytes")
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
        ("Left the machine", _tell_egress(find_fact(manifest, "egress", "connections_attempted"))),
    ]
    return [(term, shorten(str(fact), 600)) for term, fact in facts if fact]


def _tell_egress(attempts: object) -> str:
    if not isinstance(attempts, int):
        return "Not recorded."
    if attempts == 0:
        return "Nothing. Connections to other machines were blocked while records were read, and none was tried."
    return f"Nothing, but {attempts:,} connection{'s' * (attempts != 1)} to other machines were tried and refused while records were read."


def list_statuses(summary: Summary) -> dict[str, Any]:
    lines = [
        {"word": STATUS_WORDS[status], "rows": n, "share": n / summary.rows, "meaning": _MEANINGS[status]}
        for status, n in summary.statuses.items()
    ]
    parts = [(STATUS_WORDS[status], n / summary.rows, _TONES.get(status, "grey")) for status, n in summary.statuses.items()]
    return {"lines": lines, "bar": draw_stack(parts, "Rows by status")}


def tell_answers(summary: Summary) -> dict[str, Any]:
    peak = max(summary.answers.values(), default=0)
    lines = [{"name": name, "rows": n, "share": n / summary.answered, "length": n / peak} for name, n in summary.answers.items()]
    unused = [name for name in summary.labels if name not in summary.answers]
    return {
        "shown": lines[:LABELS],
        "others": max(0, len(lines) - LABELS),
        "other_rows": sum(list(summary.answers.values())[LABELS:]),
        "unused": len(unused),
        "unused_names": unused if len(unused) <= LABELS else [],
    }


def draw_doubt(summary: Summary) -> dict[str, Any]:
    """Histograms of confidence and of off-set mass; None where no row has any."""
    layers = [Layer(*_VERDICTS[verdict], bins) for verdict, bins in summary.confidence.items() if bins.any()]
    if summary.gold is None:
        layers = [Layer("rows", "blue", layer.counts) for layer in layers]
    off_set = [Layer("rows", "blue", summary.off_set)]
    return {
        "layers": layers,
        "confidence": draw_histogram(layers, "Rows by confidence", "confidence") if layers else None,
        "off_set": draw_histogram(off_set, "Rows by off-set mass", "off-set mass") if summary.off_set.any() else None,
    }


def tell_quality(gold: GoldSummary | None, baselines: Sequence[Baseline]) -> dict[str, Any] | None:
    """Accuracy in words, and the model beside its baselines; None where nothing can be said without gold."""
    if gold is None or gold.quality is None:
        return None
    quality, accuracy = gold.quality, gold.quality.accuracy
    answered = quality.accuracy_answered
    without = accuracy.n - (answered.n if answered else 0)
    right = round(accuracy.value * accuracy.n)
    sentences = [f"Of {count_rows(accuracy.n)} with gold, {right:,} have the right answer: accuracy {accuracy}."]
    if without:
        agreed = right - (round(answered.value * answered.n) if answered else 0)
        but = f", but for {agreed:,} where gold abstains too" if agreed else ""
        sentences.append(f"{count_rows(without)} without a label count as wrong{but}.")
    if without and answered:
        sentences.append(f"Among the {answered.n:,} that got a label, accuracy is {answered}.")
    reached = [(one.name, one.accuracy) for one in baselines if one.accuracy]
    table = [{"who": "the model", "accuracy": accuracy, "macro_f1": quality.macro_f1, "how": "all rows with gold", "verdict": ("–", "")}]
    table += [_describe_baseline(one) for one in baselines]
    return {
        "text": " ".join([*sentences, *_tell_calibration(gold.mean_confidence, answered), *_tell_scarcity(quality, len(gold.classes))]),
        "table": table,
        "plot": draw_intervals([("the model", accuracy), *reached], "Accuracy of the model and its baselines"),
        "matrix": _cut_confusion(gold.confusion, gold.classes),
        "labels": sorted(quality.labels, key=lambda one: -one.gold),
    }


def _describe_baseline(one: Baseline) -> dict[str, object]:
    how = f"not measured: {one.note}" if one.note else one.method
    verdict = (one.versus.verdict, describe_p(one.versus.p)) if one.versus else ("–", "")
    return {"who": one.name, "accuracy": one.accuracy, "macro_f1": one.macro_f1, "how": how, "verdict": verdict}


def _tell_calibration(confidence: float | None, answered: Estimate | None) -> list[str]:
    if confidence is None or answered is None or answered.low is None or answered.high is None:
        return []
    verdict = "which fits"
    if confidence > max(answered.high, answered.value + MARGIN):
        verdict = "so it is surer than it should be: let its confidence put rows in order, not stand for a chance of being right"
    elif confidence < min(answered.low, answered.value - MARGIN):
        verdict = "so it is less sure than it could be"
    return [f"Its mean confidence on these rows is {confidence:.2f}, and it is right in {answered.value:.2f} of them, {verdict}."]


def _tell_scarcity(quality: Quality, classes: int) -> list[str]:
    never = classes - sum(one.gold > 0 for one in quality.labels)
    few = sum(0 < one.gold < FEW_ROWS for one in quality.labels)
    if not never and not few:
        return []
    scarce = f"{never:,} never and {few:,} in fewer than {FEW_ROWS} rows"
    return [f"Of {classes:,} possible answers, gold has {scarce}: macro-F1 says little of these."]


def _cut_confusion(counts: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix of the most frequent labels, in the task's order; ``others`` shares one column."""
    used = counts.sum(axis=1) + counts[:, :-1].sum(axis=0)
    ranked = np.argsort(-used, kind="stable")[: np.count_nonzero(used)]
    kept, others = np.sort(ranked[:LABELS]), ranked[LABELS:]
    lines = []
    for place, truth in enumerate(kept.tolist()):
        row = counts[truth]
        shown = [*row[kept].tolist(), *([int(row[others].sum())] if len(others) else []), int(row[-1])]
        total = max(1, sum(shown))
        tones = ["blue" if column == place else "orange" for column in range(len(shown) - 1)] + ["grey"]
        cells = [(rows, shade(rows / total, tone)) for rows, tone in zip(shown, tones, strict=True)]
        lines.append({"name": classes[truth], "cells": cells})
    return {"lines": lines, "others": len(others)}


def list_costs(summary: Summary, manifest: Mapping[str, object]) -> list[tuple[str, str]]:
    """Time, speed and tokens; the manifest's time where it has one, else the sum of the rows' shares."""
    measured = find_fact(manifest, "timing", "seconds")
    seconds = measured if isinstance(measured, int | float) and measured > 0 else summary.ms / 1000
    given = find_fact(manifest, "timing", "rows_per_s")
    speed = given if isinstance(given, int | float) else summary.rows / seconds if seconds else 0.0
    costs = [("Time", duration(seconds)), ("Speed", f"{speed:,.1f} rows/s")] if seconds else []
    tokens = summary.tokens_read + summary.tokens_reused
    if summary.rows and tokens:
        share = percent(summary.tokens_reused / tokens)
        costs += [
            ("Tokens read", f"{summary.tokens_read:,} ({summary.tokens_read / summary.rows:,.1f} a row)"),
            ("Tokens reused", f"{summary.tokens_reused:,} ({share} of all): read once for many rows"),
        ]
    return costs or [("Time", "not measured")]

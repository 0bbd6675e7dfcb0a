"""Measure cascades on the stored answers of a trained model: the promise, and the cost by rows.

    medtask train TASK ade_sentences/dev.jsonl.gz --base minilm --method encoder --out encoder
    medtask run TASK ade_sentences/train.jsonl.gz --model encoder --out answers
    python benchmarks/cascade.py answers [--draws 100] [--out cascade.json] [--picture cascade.svg]

The stored answers are read as those of a model that takes a second a row. The sentence vectors of
all texts are computed once, for all draws. A draw is a random part of the table in a random order,
answered by the code that `medtask run --cascade` uses. All answers of the model are known, so each
draw shows how many rows differ.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medtask.engines.fake import FakeEngine
from medtask.prediction.cascade import Cascade
from medtask.prediction.predictor import RowAnswer
from medtask.prediction.student_vectors import SentenceVectors
from medtask.records import Answer, BranchScores, Prompt, Record, Scores
from medtask.similarity import encode_texts
from medtask.tasks.task import Label, Task
from medtask.tasks.text_cleaning import clean_text

ALPHA = 0.02
# So long that a student pays on a busy machine, too: its time is measured, the model's is not.
MODEL_MS = 1_000.0
CURVE_ROWS = (1_000, 3_000, 10_000, 100_000)  # at most all rows
CURVE_DRAWS = 3


@dataclass(frozen=True, slots=True)
class StoredAnswers:
    """The texts of a table, and the probabilities of a model's labels."""

    texts: Sequence[str]
    probabilities: Sequence[Mapping[str, float]]
    vectors: Mapping[str, NDArray[np.float32]]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.probabilities[0])

    def list_values(self) -> list[str]:
        return [max(row, key=row.__getitem__) for row in self.probabilities]


class StoredModel(FakeEngine):
    """Gives stored answers, and says that each took `MODEL_MS`."""

    def __init__(self, stored: StoredAnswers) -> None:
        super().__init__()
        self.by_text = dict(zip(map(clean_text, stored.texts), stored.probabilities, strict=True))

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        return [self._look_up(prompt) for prompt in batch]

    def _look_up(self, prompt: Prompt) -> Scores:
        shares = self.by_text[prompt.text].values()
        logprobs = tuple(math.log(max(share, 1e-12)) for share in shares)
        return Scores(prompt.record_id, (BranchScores(logprobs),), ms=MODEL_MS)


@dataclass(slots=True)
class MemoryCache:
    """The answers of one draw."""

    rows: dict[int, Answer] = field(default_factory=dict)
    keys: dict[bytes, tuple[int, Answer]] = field(default_factory=dict)

    def list_answered_rows(self, first: int, last: int) -> set[int]:
        return {row for row in range(first, last + 1) if row in self.rows}

    def find_answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        found = {key: self.keys[key] for key in keys if key in self.keys}
        return {key: answer for key, (first, answer) in found.items() if first < row}

    def add(self, one: RowAnswer) -> None:
        self.rows[one.row] = one.answer
        if one.key is not None and one.row < self.keys.get(one.key, (math.inf,))[0]:
            self.keys[one.key] = (one.row, one.answer)


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw: shares of all its rows."""

    rows: int
    seed: int
    differing: float
    model_share: float
    taught: int
    tested: int
    audited: int
    audit_differences: int
    missed_by_label: Mapping[str, float]
    seconds: float
    refusal: str | None


def read_stored_answers(run: Path) -> StoredAnswers:
    table = pl.read_parquet(run / "answers.parquet")
    texts = table["text"].to_list()
    cleaned, started = list(map(clean_text, texts)), time.perf_counter()
    vectors = dict(zip(cleaned, encode_texts(cleaned), strict=True))
    seconds = time.perf_counter() - started
    print(f"sentence vectors: {1000 * seconds / len(texts):.1f} ms per row", flush=True)
    return StoredAnswers(texts, table["probabilities"].to_list(), vectors)


def draw_cascade(stored: StoredAnswers, rows: int, seed: int) -> Draw:
    """Answer a random part of the table by a cascade."""
    chosen = np.random.default_rng([seed, 7]).permutation(len(stored.texts))[:rows].tolist()
    task = Task(
        "stored", "", "{{ text }}", labels=tuple(Label(name, "", name) for name in stored.labels)
    )
    records = [
        Record(str(number), {"text": stored.texts[row]}) for number, row in enumerate(chosen)
    ]
    cache, started = MemoryCache(), time.perf_counter()
    cascade = Cascade(
        ALPHA,
        seed,
        len(records),
        lambda answer: answer,
        lambda _: None,
        vectors=SentenceVectors(
            lambda texts: np.stack([stored.vectors[clean_text(text)] for text in texts])
        ),
    )
    for one in cascade.answer_rows(task, StoredModel(stored), records, cache):
        cache.add(one)
    values = stored.list_values()
    pairs = [(values[row], cache.rows[number].value) for number, row in enumerate(chosen, 1)]
    report = cascade.report
    assert report is not None
    missed = {
        name: float(np.mean([given != name for truth, given in pairs if truth == name]))
        for name in stored.labels
    }
    return Draw(
        rows=len(records),
        seed=seed,
        differing=float(np.mean([truth != given for truth, given in pairs])),
        model_share=report.model_rows / len(records),
        taught=report.decision.taught,
        tested=report.decision.tested,
        audited=report.audited,
        audit_differences=report.audit_differences,
        missed_by_label=missed,
        seconds=time.perf_counter() - started,
        refusal=report.decision.refusal,
    )


def describe(draws: Sequence[Draw]) -> str:
    differing = np.array([one.differing for one in draws])
    shares = np.array([one.model_share for one in draws])
    low, middle, high = np.quantile(shares, [0.1, 0.5, 0.9])
    audits = sum(one.audited for one in draws), sum(one.audit_differences for one in draws)
    missed = {
        name: float(np.mean([one.missed_by_label[name] for one in draws]))
        for name in draws[0].missed_by_label
    }
    return (
        f"{draws[0].rows:,} rows, {len(draws)} draws: broken {np.mean(differing > ALPHA):.3f}, "
        f"differing {differing.mean():.4f} (largest {differing.max():.4f}), model "
        f"{shares.mean():.3f} (median {middle:.3f}, 80 % of draws {low:.3f}-{high:.3f}), refused "
        f"{sum(one.refusal is not None for one in draws)}, audit {audits[1]} of {audits[0]}, "
        f"missed by label {', '.join(f'{name} {share:.3f}' for name, share in missed.items())}, "
        f"{np.mean([one.seconds for one in draws]):.1f} s a draw"
    )


def draw_picture(by_rows: Mapping[int, Sequence[Draw]]) -> str:
    """The rows that the model answers by the rows of the table, as SVG."""
    most = max(by_rows)
    left, top, width, height = 70, 20, 520, 300

    def place(rows: float, asked: float) -> tuple[float, float]:
        return left + width * rows / most, top + height * (1 - asked / most)

    points = {
        rows: float(np.mean([rows * one.model_share for one in draws]))
        for rows, draws in by_rows.items()
    }
    line = " ".join("{:.1f},{:.1f}".format(*place(*pair)) for pair in [(0, 0), *points.items()])
    parts = [
        f'<line x1="{left}" y1="{top + height}" x2="{left + width}" y2="{top}" '
        'stroke="#999" stroke-dasharray="5 4"/>',
        f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>',
        f'<text x="{left + width - 6}" y="{top + 40}" text-anchor="end">without a cascade</text>',
    ]
    for rows, draws in by_rows.items():
        for one in draws:
            x, y = place(rows, rows * one.model_share)
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#1f5fa8" opacity="0.5"/>'
            )
        x, y = place(rows, points[rows])
        # Beside the lines: above them where both are near the axis.
        anchor, shift, below = ("start", 6, 18) if rows < most else ("end", -2, 32)
        if y + below > top + height - 4:
            shift, below = -24, -22
        parts += [
            f'<text x="{x + shift:.1f}" y="{y + below:.1f}" text-anchor="{anchor}">'
            f"{points[rows]:,.0f} ({points[rows] / rows:.0%})</text>",
            f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{rows:,}</text>',
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} '
        f'{top + height + 50}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="14">rows that the model answers (alpha {ALPHA:g})</text>'
        f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">rows of the '
        f'table</text><path d="M{left} {top}V{top + height}H{left + width}" fill="none" '
        f'stroke="#333"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="a finished run of a trained model")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2_000, help="rows of each of these draws")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    stored = read_stored_answers(options.run)
    resamples = []
    for seed in range(options.draws):
        resamples.append(draw_cascade(stored, options.rows, seed))
        if (seed + 1) % 20 == 0:
            print(describe(resamples), flush=True)
    by_rows: dict[int, list[Draw]] = {}
    for rows in CURVE_ROWS:
        rows = min(rows, len(stored.texts))
        by_rows[rows] = [draw_cascade(stored, rows, 1_000 + seed) for seed in range(CURVE_DRAWS)]
        print(describe(by_rows[rows]), flush=True)
    if options.picture:
        options.picture.write_text(draw_picture(by_rows), encoding="utf-8")
    if options.out:
        draws = [*resamples, *(one for draws in by_rows.values() for one in draws)]
        options.out.write_text(json.dumps([asdict(one) for one in draws], indent=1) + "\n")


if __name__ == "__main__":
    main()

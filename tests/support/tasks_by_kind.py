"""A small task of every kind with a table of made-up rows, for tests of runs."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

ANSWER_SPECS = {
    "labels": """\
answer:
  kind: labels
  labels: {heart: the heart and its vessels, lung: the lungs, nerves: brain and nerves}
""",
    "choice": """\
answer: {kind: choice, options: options, debias: permute}
passes:
  - {name: think, when: {confidence_below: 0.6}, model: "fake:seed=5"}
""",
    "several": """\
answer: {kind: choice, options: options, several: true}
""",
    "answer": """\
answer: {kind: answer, max_tokens: 12}
gate: {min_words: 2}
""",
    "sections": """\
answer: {kind: answer, max_tokens: 40, sections: true}
""",
    "fields": """\
answer:
  kind: fields
  schema:
    type: object
    properties:
      side: {enum: [left, right], quote: true}
      size: {type: number, minimum: 0, unit: mm}
      seen: {type: boolean}
""",
    "passes": """\
answer: {kind: label, labels: [curative, palliative, other], abstain: cannot tell}
reasoning: {budget: 4}
passes:
  - {name: refine, when: {answer_in: [other], status: [abstained]}, instruction: Look again., labels: [curative, palliative]}
""",  # noqa: E501 - data as it is read
}
_TASK_HEAD = """\
instruction: Decide about the text.
input: "{{ text }}"
id: case
"""
_WORDS = (
    "resection",
    "biopsy",
    "of",
    "the",
    "colon",
    "left",
    "right",
    "chest",
    "pain",
    "tremor",
    "2.5",
    "mm",
)


def write_task_and_table(kind: str, folder: Path, rows: int) -> tuple[Path, Path]:
    """The task's folder and its table: a tenth of the rows repeat an earlier text, a twentieth are
    blank.
    """
    task = folder / "task"
    task.mkdir(parents=True, exist_ok=True)
    (task / "task.yaml").write_text(_TASK_HEAD + ANSWER_SPECS[kind])
    dice = random.Random(rows)
    texts: list[str] = []
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "text", "options", "gold"])
        for row in range(rows):
            chance = dice.random()
            fresh = f"{' '.join(dice.choices(_WORDS, k=dice.randrange(1, 12)))} {row}"
            texts.append(
                "" if chance < 0.05 else dice.choice(texts) if texts and chance < 0.15 else fresh
            )
            options = {
                letter: f"{word} {row}"
                for letter, word in zip("ABCDE"[: 2 + row % 4], _WORDS, strict=False)
            }
            gold = (
                dice.sample(["heart", "lung", "nerves"], k=dice.randrange(0, 3))
                if row % 4
                else None
            )
            writer.writerow(
                [
                    f"c-{row}",
                    texts[-1],
                    json.dumps(options),
                    "" if gold is None else json.dumps(gold),
                ]
            )
    return task, folder / "rows.csv"

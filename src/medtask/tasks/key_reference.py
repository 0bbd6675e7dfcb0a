"""What each key of a task file means, with an example: for the JSON Schema and the documentation.

Types and defaults are those of `config` and of the kinds; a key whose value has several shapes has
its schema here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

# Labels and words are texts as typed, also where YAML reads a number or a boolean.
NAME: Schema = {"type": ["string", "number", "boolean"]}
NAMES: Schema = {"anyOf": [NAME, {"type": "array", "items": NAME, "minItems": 1}]}


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """A key of a task file.

    Attributes:
        summary: The meaning, as a sentence.
        example: A line of YAML.
        schema: The JSON Schema of the value, if the type of the configuration does not say it.
    """

    summary: str
    example: str
    schema: Schema | None = None


# Section -> key -> description; those of ``answer:`` are in `kinds`.
KEY_DESCRIPTIONS: Mapping[str, Mapping[str, KeyDescription]] = {
    "": {
        "name": KeyDescription(
            "The name of the task. Default: the name of its folder.", "name: surgery-purpose"
        ),
        "instruction": KeyDescription(
            "What the model is asked to do, in a sentence or two.",
            "instruction: Decide the main purpose of the cancer operation.",
        ),
        "input": KeyDescription(
            "The text of a row: a template over the columns of the table. "
            '`{{ row["Procedure name"] }}` reads a column whose name has blanks.',
            'input: "{{ procedure }}"',
        ),
        "id": KeyDescription(
            "The column that identifies a row. Default: the number of the row.", "id: case_id"
        ),
        "gold": KeyDescription("The column with the correct answers.", "gold: purpose"),
        "group": KeyDescription(
            "Rows with the same value, such as one patient, are not independent.", "group: patient"
        ),
        "data": KeyDescription(
            "The table, as a path from the folder of the task.", "data: procedures.xlsx"
        ),
        "model": KeyDescription(
            "The model, where the command names none.", "model: google/gemma-3-4b-it"
        ),
        "answer": KeyDescription("The kind of the question, and its settings.", "answer: {...}"),
        "examples": KeyDescription(
            "Solved rows that the model sees: a list, the path of a table, or a section.",
            'examples: [{procedure: "Sigmoid colectomy for cancer", answer: curative}]',
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "object", "required": ["answer"]}},
                    {"type": "string"},
                    {"$ref": "#/$defs/examples"},
                ]
            },
        ),
        "reasoning": KeyDescription(
            "The model thinks first, within a budget.",
            "reasoning: {budget: 512}",
            {"$ref": "#/$defs/reasoning"},
        ),
        "gate": KeyDescription(
            "Which rows are not asked, and what happens to long ones.",
            "gate: {min_words: 3}",
            {"$ref": "#/$defs/gate"},
        ),
        "baselines": KeyDescription(
            "Keywords of the labels, for a simple method that reports show beside the model.",
            'baselines: {keywords: {infection: [abscess, "infect*"]}}',
            {"$ref": "#/$defs/baselines"},
        ),
        "cascade": KeyDescription(
            "A small classifier answers rows in which it agrees with the model.",
            "cascade: {alpha: 0.02}",
            {"$ref": "#/$defs/cascade"},
        ),
        "phi": KeyDescription(
            "Whether the table contains patients' data. If true, models on other machines are "
            "refused. Default: not stated.",
            "phi: true",
        ),
        "passes": KeyDescription(
            "Further passes, which ask again about uncertain answers.",
            "passes: [{name: refine, when: {confidence_below: 0.6}, model: google/gemma-3-12b-it}]",
            {"type": "array", "items": {"$ref": "#/$defs/pass"}},
        ),
        "review": KeyDescription(
            "Which answers get the status `review`.",
            "review: {confidence_below: 0.5}",
            {"$ref": "#/$defs/review"},
        ),
        "tuning_rows": KeyDescription(
            "A file with hashes of the rows that `medtask tune` used. It writes this key.",
            "tuning_rows: task.tuned.rows.json",
        ),
    },
    "review": {
        "confidence_below": KeyDescription(
            "Answers with a lower confidence are for review.", "confidence_below: 0.5"
        ),
        "off_set_above": KeyDescription(
            "So are answers for which the model gave a higher probability to anything outside of "
            "the allowed answers.",
            "off_set_above: 0.9",
        ),
    },
    "reasoning": {
        "budget": KeyDescription("The maximum number of tokens of thoughts.", "budget: 512"),
        "deadline_s": KeyDescription("The maximum time for a row, in seconds.", "deadline_s: 30"),
    },
    "gate": {
        "min_words": KeyDescription(
            "Rows with fewer words are not asked: `too_short`.", "min_words: 3"
        ),
        "novelty": KeyDescription(
            "Rows whose similarity to all examples is lower are not asked: `novel`.", "novelty: 0.1"
        ),
        "too_long": KeyDescription(
            "What happens to a text that the model cannot read: no answer, both ends are read, or "
            "overlapping parts are read.",
            "too_long: chunk",
        ),
        "combine": KeyDescription("How the answers of parts are combined.", "combine: vote"),
    },
    "examples": {
        "file": KeyDescription("A table with solved rows.", "file: gold.csv"),
        "select": KeyDescription(
            "Show the first rows, or to each row its most similar ones.", "select: nearest"
        ),
        "k": KeyDescription("How many rows are shown.", "k: 8"),
        "by": KeyDescription("How similarity is measured.", "by: minilm"),
        "encoding": KeyDescription("The encoding of the table.", "encoding: cp1252"),
    },
    "baselines": {
        "keywords": KeyDescription(
            "Words or patterns of each label.",
            'keywords: {infection: [abscess, "infect*"]}',
            {"type": "object", "additionalProperties": NAMES},
        ),
    },
    "cascade": {
        "alpha": KeyDescription(
            "The share of all rows that may have another answer than the model's.", "alpha: 0.02"
        ),
    },
    "pass": {
        "name": KeyDescription("The name, in the column `pass` of the answers.", "name: refine"),
        "when": KeyDescription(
            "Which answers are asked again: those that meet any of the conditions.",
            "when: {status: [abstained], confidence_below: 0.6}",
            {"$ref": "#/$defs/when"},
        ),
        "instruction": KeyDescription("Another instruction.", "instruction: Look again."),
        "labels": KeyDescription("Some of the labels only.", "labels: [curative, other]", NAMES),
        "model": KeyDescription("Another model.", "model: google/gemma-3-12b-it"),
        "reasoning": KeyDescription(
            "As in the task.", "reasoning: {budget: 512}", {"$ref": "#/$defs/reasoning"}
        ),
        "examples": KeyDescription(
            "As in the task.",
            "examples: more_examples.csv",
            {"$ref": "#/properties/examples"},
        ),
    },
    "when": {
        "confidence_below": KeyDescription(
            "Answers with a lower confidence.", "confidence_below: 0.6"
        ),
        "status": KeyDescription("Rows with one of these statuses.", "status: [abstained]", NAMES),
        "answer_in": KeyDescription("Rows with one of these answers.", "answer_in: other", NAMES),
    },
}

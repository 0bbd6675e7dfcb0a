"""Tasks of every kind: texts of task files, and tasks that are made directly."""

from __future__ import annotations

from collections.abc import Sequence

from medtask.records import Prompt, Record
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import AnswerSpec, Label, Task

HEAD = 'instruction: Decide.\ninput: "{{ text }}"\n'
LABELS_LINE = "labels: [heart, liver, brain]"
LABELS_YAML = """\
instruction: Decide which domains the paper is about.
input: "{{ title }}"
answer:
  kind: labels
  labels: {cardiovascular: "heart and vessels", neurological: , "kidney, bladder": "and what joins them"}
examples:
  - {title: Stroke after dialysis, answer: "neurological; kidney, bladder"}
  - {title: Sales in the last quarter, answer: []}
"""  # noqa: E501 - data as it is read
CHOICE_YAML = """\
instruction: Answer the exam question.
input: "{{ question }}"
answer: {kind: choice, options: options}
examples: [{question: Which gas do we breathe out?, options: [O2, CO2], answer: CO2}]
"""
ANSWER_YAML = """\
instruction: Answer in plain words.
input: "{{ question }}"
answer: {kind: answer}
examples: [{question: What is asthma?, answer: Narrow airways.}]
"""
SECTIONS_YAML = """\
instruction: Answer from the abstract.
input: "{{ question }}"
answer: {kind: answer, sections: true, context: abstract}
examples: [{question: Does it help?, abstract: " It did\\nnot. ", answer: "No."}]
"""
FIELDS_YAML = """\
instruction: Fill in the registry.
input: "{{ report }}"
answer:
  kind: fields
  schema:
    type: object
    properties:
      stage: {enum: [I, II], nullable: true, quote: true, description: as the surgeon wrote it}
      size: {type: number, unit: mm, minimum: 0, maximum: 300, nullable: true}
      dose: {type: number, unit: [Gy, cGy]}
      seen: {type: string, format: date}
      clear: {type: boolean}
      nodes:
        type: array
        maxItems: 4
        items: {type: object, properties: {side: {enum: [left, right]}, removed: {type: integer, minimum: 1}}}
      notes: {type: array, items: {type: string, maxLength: 60}}
examples:
  - report: "Stage II, 50 Gy given. Two nodes left. 3 May 2024"
    answer: {stage: II, stage_quote: Stage II, dose: 50 Gy, seen: 2024-05-03, clear: yes, nodes: [{side: left, removed: 2}], notes: []}
"""  # noqa: E501 - data as it is read
LABEL_NAMES = ["heart", "brain, nerves", "kidney; bladder", "kidney"]
_SIDE = {"enum": ["left", "right"]}
FIELDS_SCHEMA = {
    "type": "object",
    "properties": {
        "side": _SIDE,
        "size": {"type": ["number", "null"]},
        "dose": {
            "type": "object",
            "properties": {"value": {"type": "number"}, "unit": {"enum": ["Gy", "cGy"]}},
        },
        "nodes": {"type": "array", "items": {"type": "object", "properties": {"side": _SIDE}}},
    },
}


def make_task_yaml(answer: str, rest: str = "") -> str:
    """The text of a task file with these keys of its answer."""
    return f"{HEAD}answer: {{{answer}}}\n{rest}"


def make_task(spec: AnswerSpec, names: Sequence[str] = ()) -> Task:
    """A task with this specification and these labels."""
    return Task("t", "Decide.", "{{ text }}", spec, tuple(Label(name, "", name) for name in names))


def build_row_prompt(task: Task, row: dict[str, object]) -> Prompt:
    """The prompt of a row that can be asked."""
    prompt = build_prompt(task, Record("7", row))
    assert isinstance(prompt, Prompt), prompt
    return prompt


def make_labels_yaml(labels: str, rest: str = "") -> str:
    return (
        'instruction: Decide.\ninput: "{{ text }}"\nanswer:\n  kind: label\n  labels: '
        f"{labels}\n{rest}"
    )

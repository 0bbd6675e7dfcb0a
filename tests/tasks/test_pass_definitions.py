"""Further passes: what each changes, what it keeps, and what cannot be."""

from __future__ import annotations

import pytest

from medtask.records import Prompt, Record, Status
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Gate, Label, PassCondition, Reasoning

TASK = """\
instruction: Decide the purpose.
input: "{{ text }}"
answer:
  kind: label
  readout: code
  labels: {curative: removes, palliative: relieves, other: anything else}
  abstain: unsure
examples:
  - {text: hemicolectomy, answer: curative}
  - {text: cataract, answer: other}
  - {text: see above, answer: unsure}
reasoning: {budget: 64}
gate: {min_words: 1}
model: smollm2-135m
passes:
"""


def make_pass_yaml(line: str) -> str:
    return f"{TASK}  - {{name: refine, {line}}}\n"


def test_a_pass_is_the_whole_question_with_what_it_changes(load_text):
    task = load_text(
        TASK
        + """\
  - name: refine
    when: {confidence_below: 0.6, status: [abstained, review], answer_in: [other]}
    instruction: Look again.
    labels: [palliative, curative]
    model: org/larger
    reasoning: {budget: 512}
    examples: [{text: stent, answer: palliative}]
  - name: last
    when: {status: failed}
"""
    )
    refine, last = task.passes
    assert refine.when == PassCondition(0.6, (Status.ABSTAINED, Status.REVIEW), ("other",))
    assert (refine.name, refine.model, refine.task.model) == ("refine", "org/larger", "org/larger")
    assert refine.task.instruction == "Look again."
    assert refine.task.labels == (
        Label("curative", "removes", "A"),
        Label("palliative", "relieves", "B"),
    )
    assert refine.task.abstain == Label("unsure", "", "C")
    assert refine.task.reasoning == Reasoning(512)
    assert [example.answer for example in refine.task.examples] == ["palliative"]
    assert (refine.task.kind, refine.task.passes, refine.task.gate, refine.task.input) == (
        "label",
        (),
        task.gate,
        task.input,
    )
    assert last.when == PassCondition(status=(Status.FAILED,))
    assert last.model is None
    assert (last.task.instruction, last.task.labels, last.task.reasoning) == (
        task.instruction,
        task.labels,
        task.reasoning,
    )
    assert len({task.fingerprint, refine.task.fingerprint, last.task.fingerprint}) == 3
    prompt = build_prompt(refine.task, Record("1", {"text": "stenting"}))
    assert prompt.branches[0].candidates == ("A", "B", "C")


def test_a_pass_with_fewer_labels_keeps_the_examples_that_fit(load_text):
    (refine,) = load_text(
        make_pass_yaml("when: {confidence_below: 0.5}, labels: [curative, palliative]")
    ).passes
    assert [example.answer for example in refine.task.examples] == ["curative", "unsure"]
    (plain,) = load_text(
        make_pass_yaml("when: {confidence_below: 0.5}, reasoning: ~, examples: ~")
    ).passes
    assert (plain.task.examples, plain.task.reasoning) == ((), None)


def test_a_row_that_passed_the_gate_passes_it_again(load_text):
    text = make_pass_yaml("when: {status: review}, examples: ~").replace(
        "min_words: 1", "min_words: 2, novelty: 0.1"
    )
    (again,) = load_text(text).passes
    assert again.task.gate == Gate(min_words=2)
    assert isinstance(build_prompt(again.task, Record("1", {"text": "left hemicolectomy"})), Prompt)


def test_thresholds_follow_their_labels(load_text):
    task = load_text(
        """\
instruction: Decide.
input: "{{ text }}"
answer: {kind: labels, labels: [a, b, c], thresholds: {a: 0.2, c: 0.7}}
passes: [{name: again, when: {answer_in: c}, labels: [b, c]}]
"""
    )
    assert task.passes[0].task.answer_spec.thresholds == {"c": 0.7}


def test_letters_are_the_answers_of_a_choice(load_text, load_faults):
    text = (
        'instruction: x\ninput: "{{ q }}"\nanswer: {kind: choice, options: o}\npasses: '
        "[{name: again, when: {answer_in: [A, %s]}}]\n"
    )
    assert load_text(text % "E").passes[0].when.answer_in == ("A", "E")
    assert load_faults(text % "five") == [(4, 'answer_in names "five", which is not a letter')]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("when: {}", '"when" selects the rows of a pass: confidence_below, status or answer_in'),
        (
            "when: always",
            '"when" must be a mapping with the keys confidence_below, status, answer_in',
        ),
        ("instruction: x", 'pass 1 has no "when"'),
        (
            "when: {pass: first}",
            'unknown key "pass" - "passes" belongs beside instruction, at the left',
        ),
        ("when: {confidence: 0.5}", 'unknown key "confidence" - did you mean "confidence_below"?'),
        ("when: {confidence_below: 60}", '"confidence_below" must be a number from 0 to 1'),
        ("when: {status: unsure}", f'unknown status "unsure" - there are {", ".join(Status)}'),
        ("when: {status: [abstaned]}", 'unknown status "abstaned" - did you mean "abstained"?'),
        ("when: {status: [too_short]}", "rows with the status too_short are asked in no pass"),
        (
            "when: {answer_in: [othr]}",
            'answer_in names "othr", which is not a label - did you mean "other"?',
        ),
        (
            "when: {answer_in: unsure}",
            (
                'answer_in names "unsure", which is not a label - rows that abstained are asked by '
                '"status: abstained"'
            ),
        ),
        ("when: {answer_in: []}", '"answer_in" is a name, or a list of names'),
        (
            "when: {status: review}, labels: [curativ]",
            '"curativ" is not a label of the task - did you mean "curative"?',
        ),
        ("when: {status: review}, labels: {curative: x}", '"labels" is a name, or a list of names'),
        (
            "when: {status: review}, reasoning: {budget: none}",
            '"budget" must be a whole number from 1 to 1,000,000',
        ),
        (
            "when: {status: review}, examples: [{text: a, answer: b}]",
            'example 1 answers "b", which is not a label',
        ),
        (
            "when: {status: review}, abstain: x",
            'unknown key "abstain" - "abstain" belongs under "answer"',
        ),
        (
            "when: {status: review}, instuction: x",
            'unknown key "instuction" - did you mean "instruction"?',
        ),
    ],
)
def test_what_is_wrong_with_a_pass(load_faults, line, message):
    found = load_faults(make_pass_yaml(line))
    assert found[0] == (16, message) or (16, message) in found


def test_passes_have_names_of_their_own(load_faults):
    again = "  - {name: again, when: {status: review}}\n"
    assert load_faults(TASK + again + again) == [
        (17, '"again" is the name of an earlier pass: give this one another name')
    ]
    assert load_faults(TASK + "  - {name: first, when: {status: review}}\n") == [
        (16, '"first" is the name of the first pass: give this one another name')
    ]
    assert load_faults(TASK + "  - {when: {status: review}}\n") == [(16, 'pass 1 has no "name"')]
    assert load_faults(TASK.replace("passes:\n", "passes: {name: x}\n")) == [
        (15, '"passes" is a list, and every pass begins with "- name:"')
    ]


@pytest.mark.parametrize(
    ("answer", "when", "message"),
    [
        (
            "{kind: answer}",
            "{confidence_below: 0.5}",
            "free text has no confidence: remove confidence_below",
        ),
        (
            "{kind: answer}",
            "{answer_in: [a]}",
            "answer_in is about labels and letters, and this task is of the kind answer",
        ),
        (
            "{kind: fields, schema: {properties: {a: {type: string}}}}",
            "{confidence_below: 0.5}",
            "only enum and boolean fields have a confidence: remove confidence_below",
        ),
    ],
)
def test_what_has_no_confidence_cannot_be_below_one(load_faults, answer, when, message):
    text = (
        f'instruction: x\ninput: "{{{{ q }}}}"\nanswer: {answer}\npasses:\n  - name: again\n  '
        f"  when: {when}\n"
    )
    assert load_faults(text) == [(6, message)]


def test_a_pass_of_free_text_may_ask_truncated_rows_again(load_text):
    text = (
        'instruction: x\ninput: "{{ q }}"\nanswer: {kind: answer}\npasses: [{name: again, '
        "when: {status: truncated}, labels: [a]}]\n"
    )
    task = load_text(text.replace(", labels: [a]", ""))
    assert task.passes[0].when.status == (Status.TRUNCATED,)


def test_labels_belong_to_tasks_of_labels(load_faults):
    text = (
        'instruction: x\ninput: "{{ q }}"\nanswer: {kind: answer}\npasses: [{name: again, '
        "when: {status: truncated}, labels: [a]}]\n"
    )
    assert load_faults(text) == [
        (4, '"labels" belongs to tasks with labels, and this one is of the kind answer')
    ]


CHOICE = """\
instruction: Choose.
input: "{{ text }}"
answer: {kind: choice, options: o, debias: permute}
"""
PERMUTE_FAULT = (
    '"debias: permute" shows the options in several orders, and thoughts name them by the '
    "letters of one order: remove one of the two"
)


def test_options_cannot_be_permuted_after_thoughts(load_faults, load_text):
    assert load_faults(CHOICE + "reasoning: {budget: 64}\n") == [(4, PERMUTE_FAULT)]
    assert load_faults(
        CHOICE
        + "passes:\n  - {name: think, when: {confidence_below: 0.5}, reasoning: {budget: 64}}\n"
    ) == [(5, PERMUTE_FAULT)]
    assert (
        load_text(CHOICE + "passes:\n  - {name: again, when: {confidence_below: 0.5}}\n")
        .passes[0]
        .task.reasoning
        is None
    )

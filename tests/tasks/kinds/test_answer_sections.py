"""The kinds of question: what their keys mean, and what is wrong with them, each with its line."""

from __future__ import annotations

import pytest

from medtask.tasks.task import FreeText, Gate, MultiLabel, MultipleChoice, Reasoning

HEAD = 'instruction: Decide.\ninput: "{{ text }}"\n'
LABELS = "labels: [heart, liver, brain]"


def make_task_yaml(answer: str, rest: str = "") -> str:
    return f"{HEAD}answer: {{{answer}}}\n{rest}"


# labels


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ("", MultiLabel()),
        (", at_least_one: true, at_most: 2", MultiLabel(True, 2)),
        (", thresholds: 0.4", MultiLabel(thresholds={"heart": 0.4, "liver": 0.4, "brain": 0.4})),
        (
            ", thresholds: {liver: 0.3, heart: 1}",
            MultiLabel(thresholds={"liver": 0.3, "heart": 1.0}),
        ),
        (", thresholds: {fit: f1}", MultiLabel(fit="f1")),
        (", thresholds: {fit: recall, floor: 0.95}", MultiLabel(fit="recall", recall_floor=0.95)),
        (", thresholds: ~, at_most: ~", MultiLabel()),
    ],
)
def test_the_keys_of_labels(load_text, keys, form):
    task = load_text(make_task_yaml(f"kind: labels, {LABELS}{keys}"))
    assert (task.kind, task.answer_spec) == ("labels", form)
    assert [label.name for label in task.labels] == ["heart", "liver", "brain"]


def test_a_label_called_fit_may_have_a_threshold(load_text):
    assert load_text(
        make_task_yaml("kind: labels, labels: [fit, ill], thresholds: {fit: 0.2}")
    ).answer_spec == MultiLabel(thresholds={"fit": 0.2})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("thresholds: {hart: 0.3}", '"hart" is not a label - did you mean "heart"?'),
        ("thresholds: {heart: 1.3}", 'the threshold of "heart" must be a number from 0 to 1'),
        ("thresholds: high", 'the threshold of "heart" must be a number from 0 to 1'),
        ("thresholds: [0.3]", '"thresholds" is a number, or one for each label, or {fit: f1}'),
        ("thresholds: {fit: f2}", '"fit" is "f2" - it can be f1 or recall'),
        ("thresholds: {fit: f1, floor: 0.9}", '"floor" belongs to {fit: recall, floor: 0.95}'),
        ("thresholds: {fit: recall, floor: 2}", '"floor" must be a number from 0 to 1'),
        ("thresholds: {fit: f1, flor: 2}", 'unknown key "flor" - there are fit, floor'),
        ("at_most: 0", '"at_most" must be a whole number from 1 to 1,000,000'),
        ("at_least_one: maybe", '"at_least_one" must be true or false'),
        (
            "abstain: unsure",
            '"abstain" belongs to the kind label, and this task is of the kind labels',
        ),
        (
            "readout: code",
            '"readout" belongs to the kinds label and choice, and this task is of the kind labels',
        ),
        ("at_mots: 2", 'unknown key "at_mots" - did you mean "at_most"?'),
    ],
)
def test_what_is_wrong_with_labels(load_faults, keys, message):
    assert load_faults(f"{HEAD}answer:\n  kind: labels\n  {LABELS}\n  {keys}\n") == [(6, message)]


def test_labels_without_labels(load_faults):
    assert load_faults(make_task_yaml("kind: labels")) == [(3, '"answer" has no "labels"')]


# choice


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ("options: options", MultipleChoice(("options",))),
        ("options: [opa, opb, opc]", MultipleChoice(("opa", "opb", "opc"))),
        ("options: o, several: true", MultipleChoice(("o",), several=True)),
        (
            "options: o, readout: text, normalise: false",
            MultipleChoice(("o",), readout="text", normalise=False),
        ),
        ("options: o, debias: permute", MultipleChoice(("o",), debias="permute")),
    ],
)
def test_the_keys_of_a_choice(load_text, keys, form):
    task = load_text(make_task_yaml(f"kind: choice, {keys}"))
    assert (task.kind, task.answer_spec, task.labels) == ("choice", form, ())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "options: []",
            '"options" is the column that holds them, or a list of columns with one option each',
        ),
        (
            "options: {a: b}",
            '"options" is the column that holds them, or a list of columns with one option each',
        ),
        (
            "options: [a, ' ']",
            '"options" is the column that holds them, or a list of columns with one option each',
        ),
        ("options: [a, b, a]", 'the column "a" is named twice'),
        (
            f"options: [{', '.join(f'o{number}' for number in range(40))}]",
            "40 columns of options, but there are only 26 letters",
        ),
        (
            "options: o, several: true, readout: text",
            '"several" asks about every option by itself: remove "readout: text"',
        ),
        (
            "options: o, several: true, debias: permute",
            '"several" asks about every option by itself: remove "debias: permute"',
        ),
        (
            "options: o, readout: text, debias: permute",
            '"debias: permute" is about letters: remove it, or "readout: text"',
        ),
        (
            "options: o, normalise: false",
            '"normalise" is about the length of texts: it belongs to "readout: text"',
        ),
        ("options: o, readout: name", '"readout" is "name" - it can be letter or text'),
        ("options: o, debias: shuffle", '"debias" is "shuffle" - it can be none or permute'),
        (
            "options: o, labels: [a]",
            '"labels" belongs to the kinds label and labels, and this task is of the kind choice',
        ),
    ],
)
def test_what_is_wrong_with_a_choice(load_faults, keys, message):
    assert load_faults(make_task_yaml(f"kind: choice, {keys}")) == [(3, message)]


def test_a_choice_without_options(load_faults):
    assert load_faults(make_task_yaml("kind: choice")) == [(3, '"answer" has no "options"')]


# answer


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ("", FreeText()),
        (', max_tokens: 64, stop: "\\n\\n"', FreeText(64, ("\n\n",))),
        (", stop: [END, ' stop ']", FreeText(stop=("END", " stop "))),
        (", sections: true", FreeText(sections=("analysis", "answer"))),
        (", sections: no", FreeText()),
        (", sections: [findings, impression]", FreeText(sections=("findings", "impression"))),
        (", context: abstract", FreeText(context="abstract")),
        (", temperature: 0.7, top_p: 0.9, seed: 7", FreeText(temperature=0.7, top_p=0.9, seed=7)),
    ],
)
def test_the_keys_of_an_answer(load_text, keys, form):
    task = load_text(make_task_yaml(f"kind: answer{keys}"))
    assert (task.kind, task.answer_spec) == ("answer", form)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("max_tokens: 0", '"max_tokens" must be a whole number from 1 to 1,000,000'),
        ("max_tokens: many", '"max_tokens" must be a whole number from 1 to 1,000,000'),
        ("stop: ['']", '"stop" is a text, or a list of up to 16 texts'),
        ("stop: {a: b}", '"stop" is a text, or a list of up to 16 texts'),
        (
            "sections: 3",
            (
                '"sections" is true, or a list of up to 8 different names, the last of which is '
                "the "
                "answer"
            ),
        ),
        (
            "sections: [a, a]",
            (
                '"sections" is true, or a list of up to 8 different names, the last of which is '
                "the "
                "answer"
            ),
        ),
        (
            "sections: [a, My answer]",
            (
                'the section "My answer" cannot be a tag - use small letters, digits, - and _, '
                "as in "
                "<analysis>"
            ),
        ),
        ("temperature: -1", '"temperature" must be a number from 0 to 5'),
        ("top_p: 0", '"top_p" must be a number above 0, up to 1'),
        ("seed: -3", '"seed" must be a whole number, 0 or more'),
        ("schema: {}", '"schema" belongs to the kind fields, and this task is of the kind answer'),
    ],
)
def test_what_is_wrong_with_an_answer(load_faults, keys, message):
    assert load_faults(make_task_yaml(f"kind: answer, {keys}")) == [(3, message)]


# reasoning and gate, which all kinds share


def test_reasoning_and_gate_are_read(load_text):
    task = load_text(
        make_task_yaml(
            f"kind: labels, {LABELS}",
            "reasoning: {budget: 256, deadline_s: 2.5}\ngate: {min_words: 3, novelty: 0.1, "
            "too_long: chunk, combine: vote}\n"
            "examples: [{text: chest pain, answer: heart}]\n",
        )
    )
    assert task.reasoning == Reasoning(256, 2.5)
    assert task.gate == Gate(3, 0.1, "chunk", "vote")
    plain = load_text(make_task_yaml(f"kind: labels, {LABELS}", "reasoning: ~\ngate: ~\n"))
    assert (plain.reasoning, plain.gate) == (None, Gate())


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("reasoning: {}", '"reasoning" has no "budget"'),
        ("reasoning: 512", '"reasoning" must be a mapping with the keys budget, deadline_s'),
        ("reasoning: {budget: 0}", '"budget" must be a whole number from 1 to 1,000,000'),
        (
            "reasoning: {budget: 9, deadline_s: 0}",
            '"deadline_s" must be a number of seconds above 0',
        ),
        ("reasoning: {budjet: 9}", 'unknown key "budjet" - did you mean "budget"?'),
        ("gate: {min_words: -1}", '"min_words" must be a whole number of words'),
        ("gate: {novelty: 1.5}", '"novelty" must be a number from 0 to 1'),
        (
            "gate: {novelty: 0.1}",
            '"novelty" compares rows with the examples, and the task has none',
        ),
        ("gate: {too_long: cut}", '"too_long" is "cut" - it can be error, head_tail or chunk'),
        ("gate: {combine: mean}", '"combine" belongs to "too_long: chunk"'),
        ("gate: {budget: 3}", 'unknown key "budget" - "budget" belongs under "reasoning"'),
        ("min_words: 3", 'unknown key "min_words" - "min_words" belongs under "gate"'),
    ],
)
def test_what_is_wrong_with_reasoning_and_gate(load_faults, rest, message):
    assert load_faults(make_task_yaml(f"kind: labels, {LABELS}", f"{rest}\n")) == [(4, message)]


@pytest.mark.parametrize(
    "answer", ["kind: answer", "kind: fields, schema: {properties: {a: {type: boolean}}}"]
)
def test_what_is_written_cannot_be_combined_from_parts(load_faults, answer):
    ((line, message),) = load_faults(make_task_yaml(answer, "gate: {too_long: chunk}\n"))
    assert (line, message.partition(",")[0]) == (4, "chunk combines scores")


def test_a_gold_column_that_is_shown_is_warned_of(load_text):
    assert load_text(make_task_yaml("kind: choice, options: [a, b]", "gold: b\n")).warnings == (
        'task.yaml:3: the gold column "b" is shown to the model',
    )

"""Kind `choice`: the keys of a task file, prompts, and gold."""

from __future__ import annotations

import pytest

from medtask.errors import InputError
from medtask.records import Branch, Description, Fault, Option, Record, Status
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import Example, MultipleChoice, Task
from support.task_texts import CHOICE_YAML, build_row_prompt, make_task, make_task_yaml


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ("options: options", MultipleChoice(("options",))),
        ("options: [opa, opb, opc]", MultipleChoice(("opa", "opb", "opc"))),
        ("options: o, several: true", MultipleChoice(("o",), several=True, at_least_one=True)),
        ("options: o, several: true, at_least_one: false", MultipleChoice(("o",), several=True)),
        ("options: o, gold_is: index1", MultipleChoice(("o",), gold_is="index1")),
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
        ("options: o, at_least_one: true", '"at_least_one" belongs to "several: true"'),
        (
            "options: o, gold_is: number",
            '"gold_is" is "number" - it can be letter, text, index0 or index1',
        ),
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


@pytest.mark.parametrize(
    ("several", "cell", "value", "invalid"),
    [
        (False, "b", "B", ()),
        (False, "five", "A", ()),
        (False, ["B"], "B", ()),
        (False, "C", "C", ("C",)),
        (False, "A, B", "A, B", ("A, B",)),
        (True, "BA", ("A", "B"), ()),
        (True, "A", ("A",), ()),
        (True, "A, C", "A, C", ("A, C",)),
    ],
)
def test_options(several, cell, value, invalid):
    task, row = make_task(MultipleChoice(("o",), several)), {"o": "['five', 'six']"}
    assert read_gold(task, row, cell) == value
    assert find_invalid_gold(task, row, value) == invalid


@pytest.mark.parametrize(
    ("gold_is", "cell", "letter"),
    [
        ("letter", "A", "A"),
        ("text", "A", "C"),
        ("index0", 1, "B"),
        ("index1", 1, "A"),
        ("letter", "AB", None),
        ("text", "C", None),
        ("index0", 3, None),
        ("index1", 0, None),
        (None, "A", None),
        (None, 1, None),
        (None, "AB", "B"),
    ],
)
def test_gold_is_read_in_the_form_of_the_task(gold_is, cell, letter):
    task, row = make_task(MultipleChoice(("o",), gold_is=gold_is)), {"o": ["B", "AB", "A"]}
    gold = read_gold(task, row, cell)
    if letter:
        assert gold == letter
    else:
        assert find_invalid_gold(task, row, gold)
        assert gold not in ("A", "B", "C"), "evaluation would count it"


def test_no_option_can_be_gold_only_if_none_may_apply():
    optional = make_task(MultipleChoice(("o",), several=True))
    needed = make_task(MultipleChoice(("o",), several=True, at_least_one=True))
    row = {"o": ["five", "six"]}
    assert read_gold(optional, row, "[]") == ()
    assert find_invalid_gold(optional, row, ()) == ()
    assert find_invalid_gold(needed, row, read_gold(needed, row, [])) == ("[]",)


def test_an_example_can_have_another_form_than_the_gold_column(load_text):
    task = load_text(CHOICE_YAML.replace("options: options}", "options: options, gold_is: index0}"))
    assert task.examples[0].answer == "B"


def test_an_example_with_two_meanings_is_a_fault(load_faults):
    text = CHOICE_YAML.replace("[O2, CO2], answer: CO2", "[B, A], answer: A")
    ((_, message),) = load_faults(text)
    assert message == 'example 1 answers "A", a letter and the text of another of its options'


def test_gold_of_a_row_without_options_is_its_text():
    task = make_task(MultipleChoice(("o",)))
    assert read_gold(task, {"o": None}, "A") == "A"
    assert find_invalid_gold(task, {"o": None}, "A") == ()


def test_orders_of_options_share_everything_but_the_options(load_text):
    task = load_text(CHOICE_YAML.replace("options: options}", "options: options, debias: permute}"))
    prompt = build_row_prompt(
        task, {"question": "Which?", "options": {"A": "one", "C": "three", "D": "four"}}
    )
    assert prompt.options == (Option("A", "one"), Option("C", "three"), Option("D", "four"))
    orders = ["A. one\nC. three\nD. four", "A. three\nC. four\nD. one", "A. four\nC. one\nD. three"]
    shown = [f"\n\nOptions:\n{order}" for order in orders]
    texts = [("one", "three", "four"), ("three", "four", "one"), ("four", "one", "three")]
    assert prompt.branches == tuple(
        Branch("", ("A", "C", "D"), ask, "text", tuple(map(Description, order)))
        for ask, order in zip(shown, texts, strict=True)
    )
    assert "one" not in prompt.messages[-1].content


@pytest.mark.parametrize(
    "options", [None, [], ["one"], ["one", "one "], [f"option {n}" for n in range(40)]]
)
def test_a_row_without_usable_options_fails_without_its_text_in_the_reason(load_text, options):
    fault = build_prompt(
        load_text(CHOICE_YAML), Record("7", {"question": "Which?", "options": options})
    )
    assert isinstance(fault, Fault)
    assert fault.status is Status.FAILED
    assert "one" not in fault.reason


def test_an_example_whose_letter_the_row_lacks_stops_the_task_and_not_the_row():
    task = Task(
        "t",
        "x",
        "{{ q }}",
        MultipleChoice(("o",)),
        examples=(Example({"q": "a", "o": ["b", "c"]}, "D"),),
    )
    with pytest.raises(InputError, match="example 1"):
        build_prompt(task, Record("7", {"q": "a", "o": ["b", "c"]}))

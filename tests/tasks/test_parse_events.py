"""Characters that have a meaning in YAML: the fault names the line and asks for quotes."""

from __future__ import annotations

import pytest

from support.task_texts import make_labels_yaml

FIRST_LABEL_LINE = 6


def write_label(label: str) -> str:
    return make_labels_yaml(f"\n    {label}\n")


@pytest.mark.parametrize(
    ("label", "named"),
    [
        (">3 cm: big", '">3 cm"'),
        ("- >3 cm", '">3 cm"'),
        ("- >3", '">3"'),
        ("- |3", '"|3"'),
        ("a: >3 cm", '">3 cm"'),
        ("- @ward", '"@ward"'),
        ("@ward: x", '"@ward"'),
        ("- `x`", '"`x`"'),
        ("- %O2", '"%O2"'),
        ("- * 3", '"* 3"'),
        ("- *3 allele", '"*3"'),
        ("*: star", '"*"'),
        ("- &beta", '"&beta"'),
        ("- & more", '"& more"'),
        ("- !urgent", '"!"'),
        ("- #1", '"#1"'),
        ("- , then", '", then"'),
    ],
)
def test_a_text_that_begins_with_a_character_of_yaml_needs_quotes(load_faults, label, named):
    line, message = load_faults(write_label(label))[0]
    assert line == FIRST_LABEL_LINE
    assert "quotes" in message and named in message


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ("[<3 cm, >3 cm]", '">3 cm"'),
        ("{>3 cm: big, x: y}", '">3 cm"'),
        ("[ward, @home]", '"@home"'),
        ("[*1 allele, x]", '"*1'),
    ],
)
def test_the_same_holds_inside_brackets(load_faults, labels, named):
    (_, message) = load_faults(make_labels_yaml(labels))[0]
    assert "quotes" in message and named in message


@pytest.mark.parametrize(
    "label", ['- "a" b', "- 'a' (b)", "- 't Hooft", "tibia # left: x", "- Stage: II", "- ? x"]
)
def test_other_mistakes_with_quotes_and_comments_name_the_remedy(load_faults, label):
    assert any("put quotes" in message for _, message in load_faults(write_label(label)))


@pytest.mark.parametrize("label", ["- tibia # left", "tibia: leg # left", "- tibia\t# left"])
def test_a_comment_that_cuts_a_text_is_a_warning(load_text, label):
    (warning,) = [
        one
        for one in load_text(write_label(label)).warnings
        if "definition" not in one and "only label" not in one
    ]
    assert warning.startswith("task.yaml:6: ") and 'ends before " #"' in warning


def test_a_comment_that_cuts_the_instruction_is_a_warning(load_text):
    text = make_labels_yaml("[a, b]").replace("Decide.", "Is there a # of the hip?")
    task = load_text(text)
    assert task.warnings[0].startswith('task.yaml:1: "Is there a" ends before " #"')
    assert task.cut_texts == task.warnings[:1]


@pytest.mark.parametrize("label", ["- tibia  # of the leg", '- "tibia # left"', "- tibia#left"])
def test_usual_comments_and_quoted_texts_need_no_warning(load_text, label):
    assert not any("comment" in one for one in load_text(write_label(label)).warnings)


@pytest.mark.parametrize(
    "label", ["no", "Yes", "on", "~", "null", "012", "1e3", "0x1F", "1:30", "2024-05-03", ".inf"]
)
def test_a_label_is_the_text_as_it_is_typed(load_text, label):
    task = load_text(write_label(f"- {label}\n    - other"))
    assert [one.name for one in task.labels] == [label, "other"]

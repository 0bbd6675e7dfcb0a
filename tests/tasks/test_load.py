"""Task files: which ones load, and that all faults of a file are reported at once."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.errors import InputError, TaskFaults
from medtask.names import normalize_spelling
from medtask.tasks.load import load_task
from medtask.tasks.serialization import task_from_dict, task_to_dict
from medtask.tasks.task import Review
from medtask.tasks.text_cleaning import is_clean_line
from support.task_texts import make_labels_yaml

GOOD = """\
instruction: Decide the main purpose of the cancer operation.
input: "{{ procedure }}"
answer:
  kind: label
  labels:
    curative: removes the tumour with intent to cure
    palliative: relieves without intent to cure
"""

WITH_LABELS = """instruction: Which?
input: "{{ text }}"
answer: {kind: label, labels: [stone, clot]}
# keywords follow
"""


def test_a_full_task_is_loaded_as_it_was_written(load_text, tmp_path):
    task = load_text(
        GOOD
        + """\
  abstain: not enough information
  readout: code
name: surgery-purpose
id: case_id
gold: purpose
data: notes/procedures.csv
model: smollm2-135m
review: {confidence_below: 0.6, off_set_above: 1}
examples:
  - {procedure: Left hemicolectomy, answer: curative}
"""
    )
    assert [(label.name, label.definition, label.verbalizer) for label in task.candidates] == [
        ("curative", "removes the tumour with intent to cure", "A"),
        ("palliative", "relieves without intent to cure", "B"),
        ("not enough information", "", "C"),
    ]
    assert (task.name, task.id_column, task.gold_column, task.model) == (
        "surgery-purpose",
        "case_id",
        "purpose",
        "smollm2-135m",
    )
    assert task.data == tmp_path / "notes/procedures.csv"
    assert task.review == Review(confidence_below=0.6, off_set_above=1.0)
    assert task.examples[0].fields == {"procedure": "Left hemicolectomy"}
    assert task.examples[0].answer == "curative"
    assert task.source == tmp_path / "task.yaml"
    assert task.warnings == ()


def test_a_folder_represents_its_task_file_and_names_the_task(tmp_path):
    folder = tmp_path / "surgery-purpose"
    folder.mkdir()
    (folder / "task.yml").write_text(GOOD)
    assert load_task(str(folder)).name == "surgery-purpose"


def test_a_file_of_any_other_name_names_the_task(load_text):
    assert load_text(GOOD, "radiation_site.yaml").name == "radiation_site"


def test_json_and_yaml_give_the_same_task(load_text):
    as_json = {
        "instruction": "Decide the main purpose of the cancer operation.",
        "input": "{{ procedure }}",
        "answer": {
            "kind": "label",
            "labels": {
                "curative": "removes the tumour with intent to cure",
                "palliative": "relieves without intent to cure",
            },
        },
    }
    assert (
        load_text(json.dumps(as_json, indent=2), "task.json").fingerprint
        == load_text(GOOD).fingerprint
    )


def test_a_byte_order_mark_is_not_part_of_the_first_key(load_text):
    assert load_text("\ufeff" + GOOD).instruction.startswith("Decide")


def test_a_missing_path_explains_how_to_begin(tmp_path):
    with pytest.raises(InputError, match="no task") as caught:
        load_task(tmp_path / "nowhere")
    assert "medtask init" in caught.value.fix
    with pytest.raises(InputError, match="holds no task") as caught:
        load_task(tmp_path)
    assert "medtask init" in caught.value.fix


def test_a_folder_with_two_task_files_is_ambiguous(tmp_path):
    (tmp_path / "task.yaml").write_text(GOOD)
    (tmp_path / "task.json").write_text("{}")
    with pytest.raises(InputError, match=r"task.yaml and task.json"):
        load_task(tmp_path)


def test_a_table_is_not_taken_for_a_task(tmp_path):
    (tmp_path / "notes.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="not a task file"):
        load_task(tmp_path / "notes.csv")


def test_all_faults_come_at_once_with_their_lines(load_faults):
    assert load_faults(
        """\
nme: surgery
instruction: Decide.
input: "{{ procedure }}"
answer:
  kind: label
  lables:
    curative: removes the tumour
    curative: a second time
    palliative: relieves
examples:
  - {procedure: Left hemicolectomy, answer: curative}
  - {procedure: Biliary stent, answer: paliative}
  - {procedre: Biliary stent, answer: palliative}
review:
  confidence_below: 60
"""
    ) == [
        (1, 'unknown key "nme" - did you mean "name"?'),
        (6, 'unknown key "lables" - did you mean "labels"?'),
        (8, 'the key "curative" is used twice, first in line 7'),
        (12, 'example 2 answers "paliative", which is not a label - did you mean "palliative"?'),
        (13, 'unknown key "procedre" - did you mean "procedure"?'),
        (13, 'example 3 lacks "procedure", which input uses'),
        (15, '"confidence_below" must be a number from 0 to 1'),
    ]


def test_a_key_at_the_wrong_level_is_shown_its_place(load_faults):
    assert (8, 'unknown key "readout" - "readout" belongs under "answer"') in load_faults(
        GOOD + "readout: code\n"
    )
    assert (
        8,
        'unknown key "model" - "model" belongs beside instruction, at the left',
    ) in load_faults(GOOD + "  model: fake\n")


def test_an_empty_mapping_lacks_its_three_parts(load_faults):
    assert load_faults("{}") == [
        (None, f'"{key}" is missing') for key in ("instruction", "input", "answer")
    ]


@pytest.mark.parametrize("blank", ["", '""', "'  '", "~", "null"])
def test_a_blank_instruction_is_a_fault(load_faults, blank):
    assert load_faults(GOOD.replace("Decide the main purpose of the cancer operation.", blank)) == [
        (1, '"instruction" is blank')
    ]


def test_a_value_of_the_wrong_shape_is_a_fault(load_faults):
    assert load_faults(GOOD.replace('"{{ procedure }}"', "[a]")) == [
        (2, '"input" must be a text - put " around it')
    ]
    assert load_faults(GOOD + "review: high\n") == [
        (8, '"review" must be a mapping with the keys confidence_below, off_set_above')
    ]
    text = "instruction: x\ninput: '{{ a }}'\nanswer: label\n"
    message = (
        '"answer" must be a mapping: a kind, and the keys of that kind, as in '
        "{kind: label, labels: [yes, no]}"
    )
    assert load_faults(text) == [(3, message)]


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "inf", "high", "[1]", "{}"])
def test_a_bound_that_is_no_probability_is_a_fault(load_faults, value):
    assert load_faults(f"{GOOD}review:\n  off_set_above: {value}\n") == [
        (9, '"off_set_above" must be a number from 0 to 1')
    ]


def test_an_unknown_kind_or_readout_reports_what_there_is(load_faults):
    kinds = "label, labels, choice, answer, fields"
    assert load_faults(GOOD.replace("kind: label", "kind: lable")) == [
        (4, 'unknown kind "lable" - did you mean "label"?')
    ]
    assert load_faults(GOOD.replace("kind: label", "kind: essay")) == [
        (4, f'unknown kind "essay" - there are {kinds}')
    ]
    for kind in ("", "[label]"):
        assert load_faults(GOOD.replace("kind: label", f"kind: {kind}")) == [
            (4, f'"kind" is one name - there are {kinds}')
        ]
    assert load_faults(GOOD.replace("  kind: label\n", "")) == [
        (3, f'"answer" has no "kind" - there are {kinds}')
    ]
    assert load_faults(GOOD + "  readout: codes\n") == [
        (8, '"readout" is "codes" - it can be name or code')
    ]


# Labels


@pytest.mark.parametrize("empty", ["", "[]", "{}"])
def test_an_empty_label_set_is_a_fault(load_faults, empty):
    assert load_faults(make_labels_yaml(empty)) == [(5, '"labels" is empty - name the answers')]


def test_the_words_that_yaml_changes_stay_as_they_were_typed(load_text):
    typed = [
        "no",
        "yes",
        "on",
        "off",
        "null",
        "~",
        "1e3",
        "0x1F",
        "012",
        "2024-01-01",
        "1_000",
        "12:30:45",
        "true",
        ".5",
        "=",
    ]
    rest = "examples:\n  - {text: 2024-01-01, answer: null}\n  - {text: 012, answer: off}\n"
    task = load_text(make_labels_yaml(f"[{', '.join(typed)}]", rest))
    assert [label.name for label in task.labels] == typed
    assert [(example.fields["text"], example.answer) for example in task.examples] == [
        ("2024-01-01", "null"),
        ("012", "off"),
    ]
    assert [
        label.name
        for label in load_text(
            make_labels_yaml("{" + ", ".join(f"{word}: x" for word in typed) + "}")
        ).labels
    ] == typed
    assert load_text(GOOD + "  abstain: no\n").abstain.name == "no"
    as_json = (
        '{"instruction": "x", "input": "{{ t }}", "answer": {"kind": "label", "labels": '
        "[1.0, true, 1e3]}}"
    )
    assert [label.name for label in load_text(as_json, "task.json").labels] == [
        "1.0",
        "true",
        "1e3",
    ]


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Zl", "Zp", "Zs", "Cn", "Co"))
    ).filter(lambda name: is_clean_line(name) and bool(normalize_spelling(name) or not name))
)
def test_a_quoted_label_of_any_letters_keeps_its_name(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("task") / "task.json"
    labels = {name or "x": "first", "the other": "second"}
    path.write_text(
        json.dumps(
            {"instruction": "x", "input": "{{ t }}", "answer": {"kind": "label", "labels": labels}}
        ),
        encoding="utf-8",
    )
    assert [label.name for label in load_task(path).labels] == list(labels)


def test_labels_that_a_reader_cannot_distinguish_are_a_fault(load_faults):
    assert load_faults(make_labels_yaml("\n    - CT head\n    - MR head\n    - CT  head\n")) == [
        (8, 'the labels "CT head" (line 6) and "CT  head" cannot be told apart')
    ]


@pytest.mark.parametrize(
    "labels", ['["x-y", "x\u2011y"]', '["caf\u00e9", "cafe\u0301"]', '["a b", "a\u00a0b"]']
)
def test_labels_that_look_the_same_are_a_fault(load_faults, labels):
    ((line, message),) = load_faults(make_labels_yaml(labels))
    assert line and "cannot be told apart" in message


def test_labels_that_differ_in_capital_letters_are_different_labels_and_a_warning(load_text):
    task = load_text(
        make_labels_yaml("\n    BB: x\n    Bb: y\n    bb: z\n    10\u00b2: v\n    102: w\n")
    )
    assert [label.name for label in task.labels] == ["BB", "Bb", "bb", "10\u00b2", "102"]
    (warning,) = task.warnings
    assert '"BB", "Bb", "bb" differ in capital letters' in warning


def test_a_label_without_a_name_is_a_fault(load_faults):
    assert load_faults(make_labels_yaml('["a", " ", "b", ""]')) == [(5, "a label has no name")] * 2


@pytest.mark.parametrize(
    ("name", "character"),
    [
        (r"a\nb", "U+000A"),
        (r"a\tb", "U+0009"),
        (r"a\x07b", "U+0007"),
        (r"a\u200bb", "U+200B (ZERO WIDTH SPACE)"),
        (r"a\u202eb", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
        (r"a\u2028b", "U+2028 (LINE SEPARATOR)"),
        (r"a\u200db", "U+200D (ZERO WIDTH JOINER)"),
    ],
)
def test_a_label_with_an_invisible_character_is_a_fault(load_faults, name, character):
    ((line, message),) = load_faults(make_labels_yaml(f'["{name}", "c"]'))
    assert line == 5
    assert message.endswith(f"has a line break or an invisible character: {character}")
    assert not set(message) & set("\n\t\x07\u200b\u202e\u2028")


def test_definitions_in_a_list_of_names_are_a_fault_with_the_way_out(load_faults):
    ((line, message),) = load_faults(
        make_labels_yaml("\n    - curative: removes\n    - palliative\n")
    )
    assert line == 6
    assert 'leave out the "-"' in message


def test_a_semicolon_is_part_of_a_label(load_text):
    assert (
        load_text(make_labels_yaml('["CT; with contrast", "CT"]')).labels[0].name
        == "CT; with contrast"
    )


def test_a_definition_of_several_lines_becomes_one(load_text):
    task = load_text(
        make_labels_yaml(
            "\n    curative: |\n      removes the tumour\n      with intent to cure\n    "
            "palliative: 5\n"
        )
    )
    assert [label.definition for label in task.labels] == [
        "removes the tumour with intent to cure",
        "5",
    ]


def test_one_label_is_allowed_with_a_warning(load_text):
    (warning,) = load_text(make_labels_yaml("{curative: removes}")).warnings
    assert warning == 'task.yaml:5: "curative" is the only label - its confidence will always be 1'


def test_labels_without_a_definition_are_warned_of_five_by_name(load_text):
    assert load_text(make_labels_yaml("\n    curative: removes\n    palliative:\n")).warnings == (
        'task.yaml:7: "palliative" has no definition - the model sees the bare word',
    )
    warnings = load_text(
        make_labels_yaml("\n" + "".join(f"    - label {number}\n" for number in range(9)))
    ).warnings
    assert len(warnings) == 6
    assert warnings[5] == "task.yaml:11: 4 more labels have no definition"


def test_two_thousand_labels_load_at_once(load_text):
    text = make_labels_yaml(
        "\n"
        + "".join(
            f"    protocol {number}: what belongs to protocol {number}\n" for number in range(2000)
        )
    )
    begin = time.perf_counter()
    assert len(load_text(text).labels) == 2000
    assert time.perf_counter() - begin < 1


def test_codes_are_letters_up_to_26_candidates_and_numbers_beyond(load_text):
    def list_verbalizers(count: int) -> list[str]:
        names = ", ".join(f"label {number}" for number in range(count))
        return [
            label.verbalizer
            for label in load_text(
                make_labels_yaml(f"[{names}]", "  abstain: unsure\n  readout: code\n")
            ).candidates
        ]

    assert list_verbalizers(25)[0] == "A"
    assert list_verbalizers(25)[-1] == "Z"
    assert list_verbalizers(26) == [str(number) for number in range(1, 28)]


def test_the_abstention_may_have_a_definition_but_no_labels_name(load_text, load_faults):
    abstain = load_text(GOOD + "  abstain: {unsure: the text names no operation}\n").abstain
    assert (abstain.name, abstain.definition, abstain.verbalizer) == (
        "unsure",
        "the text names no operation",
        "unsure",
    )
    assert load_text(GOOD + "  abstain: ~\n").abstain is None
    assert load_faults(GOOD + "  abstain: Curative\n") == [
        (8, '"Curative" cannot be both a label and the abstention')
    ]
    assert load_faults(GOOD + "  abstain: [a, b]\n") == [
        (8, '"abstain" is one name, or one name with its definition')
    ]


def test_keywords_of_labels_are_read(load_text):
    task = load_text(
        WITH_LABELS + "baselines:\n  keywords:\n    stone: [loin, '/hydro\\w+/']\n    clot: calf\n"
    )
    assert task.keywords == {"stone": ("loin", "/hydro\\w+/"), "clot": ("calf",)}
    assert task.fingerprint == load_text(WITH_LABELS).fingerprint
    assert task_from_dict("t", task_to_dict(task)).keywords == task.keywords


def test_faults_of_keywords_have_their_lines(load_faults):
    faults = load_faults(
        WITH_LABELS
        + "baselines:\n  keywords:\n    stones: [loin]\n    clot:\n      - '/(/'\n      - '-'\n"
    )
    assert [(line, message.split(" (")[0]) for line, message in faults] == [
        (7, '"stones" is not a label of the task - did you mean "stone"?'),
        (9, 'the keyword "/(/" is not a valid regular expression'),
        (10, 'the keyword "-" has no word'),
    ]


def test_a_cascade_changes_which_model_answers_but_not_the_question(load_text):
    task = load_text(WITH_LABELS + "cascade: {alpha: 0.05}\n")
    assert task.cascade_alpha == 0.05
    assert task.fingerprint == load_text(WITH_LABELS).fingerprint
    assert load_text(WITH_LABELS + "cascade: {}\n").cascade_alpha == 0.02
    assert load_text(WITH_LABELS).cascade_alpha is None


def test_faults_of_a_cascade_have_their_lines(load_faults):
    assert load_faults(WITH_LABELS + "cascade:\n  alpha: 2\n") == [
        (6, '"alpha" must be a number between 0 and 1, such as 0.02')
    ]
    ((line, message),) = load_faults(
        "instruction: Answer.\ninput: '{{ a }}'\nanswer: {kind: answer}\ncascade: {alpha: 0.02}\n"
    )
    assert line == 4
    assert message.startswith("a cascade needs a task with labels")


def test_no_pass_has_the_name_of_the_student_of_a_cascade(load_faults):
    passes = "passes:\n  - {name: student, when: {confidence_below: 0.5}}\n"
    ((line, message),) = load_faults(WITH_LABELS + "cascade: {}\n" + passes)
    assert (line, message.split(":")[0]) == (7, '"student" is the pass of the cascade')


def test_the_labels_of_a_draft_must_be_filled_in(load_faults):
    ((line, message),) = load_faults(GOOD.replace("curative:", "<first label>:", 1))
    assert line == 5
    assert message.startswith("fill in the labels")


# The input


def test_a_template_fault_has_the_line_of_the_block_it_is_in(load_faults):
    text = GOOD.replace('"{{ procedure }}"', "|\n  Title:\n\n  {{ procedure }\n")
    assert load_faults(text) == [(5, "the template is not Jinja: unexpected '}'")]


def test_an_input_that_uses_no_column_is_a_fault(load_faults):
    ((line, message),) = load_faults(GOOD.replace("{{ procedure }}", "procedure"))
    assert (line, message) == (
        2,
        'input uses no column of the table - write one as in "{{ procedure }}"',
    )


def test_an_input_that_shows_the_truth_is_warned_of(load_text):
    warning = 'task.yaml:2: input shows the gold column "purpose" to the model'
    assert load_text(
        GOOD.replace("{{ procedure }}", "{{ procedure }} {{ purpose }}") + "gold: purpose\n"
    ).warnings == (warning,)
    assert load_text(GOOD.replace("{{ procedure }}", "{{ row }}") + "gold: purpose\n").warnings == (
        warning,
    )
    assert load_text(GOOD + "gold: purpose\n").warnings == ()


@pytest.mark.parametrize("value", ["{{ procedure }}", "{{ procedure }} and more"])
def test_a_template_without_quotes_reports_what_is_missing(load_faults, value):
    ((line, message),) = load_faults(GOOD.replace('"{{ procedure }}"', value))
    assert line == 2
    assert 'put " around' in message


# Files that are no task files


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "empty"),
        ("# nothing\n", None, "empty"),
        ("- a\n- b\n", 1, "a mapping"),
        ("just words\n", 1, "a mapping"),
        ("a: 1\n---\nb: 2\n", None, "more than one document"),
        ("instruction: Decide: which\n", 1, "holds a colon"),
        ("answer:\n\tkind: label\n", 2, "not with tabs"),
        ("a: [1, 2\nb: 3\n", 2, "not YAML: column"),
        ("a: \x07\n", 1, "U+0007"),
        ("? [a]\n: b\n", 1, "a key must be plain text"),
        ("a: *b\n", 1, "not defined before it"),
        ("a: &a [*a]\n", 1, "not defined before it"),
    ],
)
def test_what_is_no_yaml_is_reported_with_its_line(load_faults, text, line, words):
    ((at_line, message),) = load_faults(text)
    assert at_line == line
    assert words in message


def test_what_is_no_json_is_reported_with_its_line_and_column(load_faults):
    assert load_faults('{"instruction": "x",\n  "input" "y"}', "task.json") == [
        (2, "not JSON: column 11: Expecting ':' delimiter")
    ]


def test_json_faults_have_lines_too(load_faults):
    text = (
        '{\n  "instruction": "x",\n  "input": "{{ t }}",\n  "anser": {\n    "kind": '
        '"label",\n    "labels": ["a",\n      "a "]}}'
    )
    assert load_faults(text, "task.json") == [
        (4, 'unknown key "anser" - did you mean "answer"?'),
        (7, 'the labels "a" (line 6) and "a" cannot be told apart'),
    ]


def test_half_a_character_is_a_fault(load_faults):
    text = (
        '{"instruction": "\\ud800", "input": "{{ t }}", "answer": {"kind": "label", "labels": '
        '{"a": "x", "b": "y"}}}'
    )
    assert load_faults(text, "task.json") == [
        (1, "half a character (a lone surrogate) - write the character itself")
    ]


def test_a_file_that_is_not_utf8_or_too_large_is_refused(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_bytes("instruction: x\ninput: Größe\n".encode("latin-1"))
    with pytest.raises(TaskFaults, match="line   2  not UTF-8"):
        load_task(path)
    path.write_text("# " + "x" * 1_000_000)
    with pytest.raises(TaskFaults, match="larger than 1,000,000 bytes"):
        load_task(path)


def test_an_alias_repeats_a_value(load_text):
    task = load_text(make_labels_yaml("{a: &same both mean this, b: *same}"))
    assert [label.definition for label in task.labels] == ["both mean this", "both mean this"]

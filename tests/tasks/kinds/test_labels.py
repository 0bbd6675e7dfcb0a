"""Kind `labels`: the keys of a task file, and gold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.tables.missing import mark_missing
from medtask.tasks.rows import read_gold
from medtask.tasks.task import MultiLabel
from support.task_texts import HEAD, LABEL_NAMES, LABELS_LINE, make_task, make_task_yaml


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
    task = load_text(make_task_yaml(f"kind: labels, {LABELS_LINE}{keys}"))
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
    assert load_faults(f"{HEAD}answer:\n  kind: labels\n  {LABELS_LINE}\n  {keys}\n") == [
        (6, message)
    ]


def test_labels_without_labels(load_faults):
    assert load_faults(make_task_yaml("kind: labels")) == [(3, '"answer" has no "labels"')]


LABELS = make_task(MultiLabel(), LABEL_NAMES)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (["kidney", "heart"], ("heart", "kidney")),
        ('["heart", "kidney"]', ("heart", "kidney")),
        ("['heart']", ("heart",)),
        ([], ()),
        ("[]", ()),
        ("heart", ("heart",)),
        ("brain, nerves", ("brain, nerves",)),
        ("kidney; bladder", ("kidney; bladder",)),
        ("heart; kidney", ("heart", "kidney")),
        ("kidney;heart;", ("heart", "kidney")),
        ("heart|brain, nerves", ("heart", "brain, nerves")),
        ("heart, brain,nerves, kidney", ("heart", "brain, nerves", "kidney")),
        ("heart; kidney; bladder", ("heart", "kidney; bladder")),
        ("kidney; kidney; bladder", ("kidney; bladder", "kidney")),
        ("heart, spleen", ("heart", "spleen")),
        ("spleen; liver", ("spleen", "liver")),
        ("Heart", ("heart",)),
        ("HEART; Brain, nerves", ("heart", "brain, nerves")),
    ],
)
def test_several_labels(cell, value):
    assert read_gold(LABELS, {}, cell) == value


@given(
    st.lists(st.sampled_from(LABEL_NAMES), min_size=1, unique=True), st.sampled_from(["; ", "|"])
)
def test_labels_that_were_joined_come_apart_again(names, separator):
    assert set(read_gold(LABELS, {}, separator.join(sorted(names, reverse=True)))) == set(names)
    assert read_gold(LABELS, {}, repr(names)) == tuple(
        name for name in LABEL_NAMES if name in names
    )


def test_a_blank_cell_of_gold_is_unlabelled_or_no_label(load_text):
    unlabelled = load_text(make_task_yaml("kind: labels, labels: [a, b]"))
    none = load_text(make_task_yaml("kind: labels, labels: [a, b], blank_gold: none"))
    rows = [mark_missing({"gold": cell}) for cell in (None, " ", "NA", "[]", "b")]
    assert [read_gold(unlabelled, row, row["gold"]) for row in rows] == [
        None,
        None,
        None,
        (),
        ("b",),
    ]
    assert [read_gold(none, row, row["gold"]) for row in rows] == [(), (), None, (), ("b",)]
    assert unlabelled.fingerprint == none.fingerprint  # how gold is read changes no answer

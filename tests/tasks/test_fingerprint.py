"""Fingerprints: what changes an answer changes them, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.records import Status
from medtask.tasks.fingerprint import describe_task, fingerprint_task
from medtask.tasks.task import (
    Example,
    ExamplePool,
    Fields,
    FreeText,
    Gate,
    Label,
    MultiLabel,
    MultipleChoice,
    Pass,
    PassCondition,
    Reasoning,
    Review,
    SingleLabel,
    Task,
)

TASK = Task(
    "surgery",
    "Decide.",
    "{{ a }}",
    labels=(Label("curative", "removes", "curative"), Label("palliative", "", "palliative")),
    examples=(Example({"a": "a patient's text"}, "curative"),),
)

POOL = ExamplePool((Example({"a": "a patient's text"}, "curative"),), ("a patient's text",), 8)


def make_schema(*names: str) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": list(names),
    }


def list_differences(one: Task, other: Task) -> set[str]:
    """The facts in which two tasks differ; where there are any, the fingerprints do, too."""
    before, after = describe_task(one), describe_task(other)
    found = {name for name in before | after if before.get(name) != after.get(name)}
    assert bool(found) == (fingerprint_task(one) != fingerprint_task(other))
    return found


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"instruction": "Decide well."}, {"instruction"}),
        ({"instruction": "Decide. " * 100}, {"instruction"}),
        ({"input": "{{ a }} {{ b }}"}, {"input"}),
        ({"labels": TASK.labels[::-1]}, {"labels"}),
        (
            {"labels": (TASK.labels[0], Label("palliative", "relieves", "palliative"))},
            {"labels.palliative"},
        ),
        ({"abstain": Label("unsure", "", "unsure")}, {"abstain"}),
        ({"answer_spec": SingleLabel("code")}, {"readout"}),
        ({"examples": (Example({"a": "another text"}, "curative"),)}, {"examples"}),
        ({"review": Review(0.6, 0.9)}, {"review.confidence_below"}),
        ({"reasoning": Reasoning(64)}, {"reasoning"}),
        ({"gate": Gate(min_words=2)}, {"gate.min_words"}),
        ({"gate": Gate(too_long="chunk", combine="max")}, {"gate.too_long", "gate.combine"}),
        ({"pool": POOL}, {"pool"}),
    ],
)
def test_a_change_shows_in_the_fingerprint_and_under_its_name(change, names):
    changed = replace(TASK, **change)
    assert fingerprint_task(changed) != fingerprint_task(TASK)
    before, after = describe_task(TASK), describe_task(changed)
    assert {name for name in before | after if before.get(name) != after.get(name)} == names


@pytest.mark.parametrize(
    ("answer_spec", "other", "names"),
    [
        (MultiLabel(), MultiLabel(at_most=2), {"at_most"}),
        (MultiLabel(), MultiLabel(thresholds={"curative": 0.4}), {"thresholds"}),
        (MultiLabel(fit="recall"), MultiLabel(fit="recall", recall_floor=0.95), {"recall_floor"}),
        (MultipleChoice(("o",)), MultipleChoice(("p",)), {"columns"}),
        (MultipleChoice(("o",)), MultipleChoice(("o",), debias="permute"), {"debias"}),
        (
            MultipleChoice(("o",), several=True),
            MultipleChoice(("o",), several=True, at_least_one=True),
            {"at_least_one"},
        ),
        (MultipleChoice(("o",)), MultipleChoice(("o",), gold_is="text"), set()),
        (MultiLabel(), MultiLabel(blank_gold="none"), set()),
        (FreeText(), FreeText(seed=1), {"seed"}),
        (FreeText(), FreeText(stop=("END",)), {"stop"}),
        (FreeText(), FreeText(sections=("analysis", "answer")), {"sections"}),
        (Fields(make_schema("a", "b")), Fields(make_schema("b", "a")), {"schema"}),
        (
            SingleLabel(),
            MultiLabel(),
            {"kind", "readout", "at_least_one", "at_most", "thresholds", "fit", "recall_floor"},
        ),
    ],
)
def test_every_key_of_a_kind_is_in_the_fingerprint(answer_spec, other, names):
    assert (
        list_differences(replace(TASK, answer_spec=answer_spec), replace(TASK, answer_spec=other))
        == names
    )


def test_a_pool_changes_with_its_examples_and_how_they_are_chosen():
    task = replace(TASK, pool=POOL)
    more = ExamplePool(POOL.examples * 2, POOL.texts * 2, 8)
    for pool in (
        ExamplePool(POOL.examples, POOL.texts, 4),
        ExamplePool(POOL.examples, POOL.texts, 8, "minilm"),
        more,
    ):
        assert list_differences(task, replace(TASK, pool=pool)) == {"pool"}
    assert fingerprint_task(
        replace(TASK, pool=ExamplePool(POOL.examples, POOL.texts, 8))
    ) == fingerprint_task(task)
    assert "patient" not in str(describe_task(task))


def test_a_pass_is_reported_by_what_it_changes():
    def make_task_with_pass(
        when: PassCondition | None = None,
        model: str | None = None,
        name: str = "refine",
        **changes: object,
    ) -> Task:
        return replace(
            TASK, passes=(Pass(name, when or PassCondition(0.5), replace(TASK, **changes), model),)
        )

    plain = make_task_with_pass()
    assert list_differences(TASK, plain) == {"passes", "passes.refine.when", "passes.refine.model"}
    assert list_differences(plain, make_task_with_pass(PassCondition(0.6))) == {
        "passes.refine.when"
    }
    assert list_differences(
        plain, make_task_with_pass(PassCondition(0.5, (Status.ABSTAINED,)))
    ) == {"passes.refine.when"}
    assert list_differences(plain, make_task_with_pass(model="org/larger")) == {
        "passes.refine.model"
    }
    assert list_differences(plain, make_task_with_pass(instruction="Look again.")) == {
        "passes.refine.instruction"
    }
    assert list_differences(plain, make_task_with_pass(labels=TASK.labels[:1])) == {
        "passes.refine.labels"
    }
    assert list_differences(plain, make_task_with_pass(reasoning=Reasoning(9))) == {
        "passes.refine.reasoning"
    }
    assert list_differences(plain, make_task_with_pass(model=None, name="again")) > {"passes"}


def test_name_columns_table_and_model_change_no_answer():
    changed = replace(
        TASK,
        name="x",
        id_column="i",
        gold_column="g",
        data=Path("d"),
        model="m",
        source=Path("s"),
        warnings=("w",),
    )
    assert fingerprint_task(changed) == fingerprint_task(TASK)


def test_a_description_holds_no_text_of_examples_and_stays_short():
    described = describe_task(replace(TASK, instruction="word " * 1000))
    assert "patient" not in str(described)
    assert described["examples"].startswith("1 (sha256 ")
    assert max(map(len, described.values())) < 120


def test_tasks_can_be_kept_in_a_cache():
    assert hash(TASK) == hash(replace(TASK))

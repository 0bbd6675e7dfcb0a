"""Fingerprints: what changes an answer changes them, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.records import Status
from medtask.tasks.identity import describe, fingerprint_task
from medtask.tasks.task import (
    AnyLabels,
    Choice,
    Example,
    Fields,
    FreeText,
    Gate,
    Label,
    OneLabel,
    Pass,
    Pool,
    Reasoning,
    Review,
    Task,
    When,
)

TASK = Task(
    "surgery",
    "Decide.",
    "{{ a }}",
    labels=(Label("curative", "removes", "curative"), Label("palliative", "", "palliative")),
    examples=(Example({"a": "a patient's text"}, "curative"),),
)


POOL = Pool((Example({"a": "a patient's text"}, "curative"),), ("a patient's text",), 8)


def make_schema(*names: str) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": list(names),
    }


def differences(one: Task, other: Task) -> set[str]:
    """The facts in which two tasks differ; where there are any, the fingerprints do, too."""
    before, after = describe(one), describe(other)
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
        ({"form": OneLabel("code")}, {"readout"}),
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
    before, after = describe(TASK), describe(changed)
    assert {name for name in before | after if before.get(name) != after.get(name)} == names


@pytest.mark.parametrize(
    ("form", "other", "names"),
    [
        (AnyLabels(), AnyLabels(at_most=2), {"at_most"}),
        (AnyLabels(), AnyLabels(thresholds={"curative": 0.4}), {"thresholds"}),
        (AnyLabels(fit="recall"), AnyLabels(fit="recall", recall_floor=0.95), {"recall_floor"}),
        (Choice(("o",)), Choice(("p",)), {"columns"}),
        (Choice(("o",)), Choice(("o",), debias="permute"), {"debias"}),
        (FreeText(), FreeText(seed=1), {"seed"}),
        (FreeText(), FreeText(stop=("END",)), {"stop"}),
        (FreeText(), FreeText(sections=("analysis", "answer")), {"sections"}),
        (Fields(make_schema("a", "b")), Fields(make_schema("b", "a")), {"schema"}),
        (
            OneLabel(),
            AnyLabels(),
            {"kind", "readout", "at_least_one", "at_most", "thresholds", "fit", "recall_floor"},
        ),
    ],
)
def test_every_key_of_a_kind_is_in_the_fingerprint(form, other, names):
    assert differences(replace(TASK, form=form), replace(TASK, form=other)) == names


def test_a_pool_changes_with_its_examples_and_how_they_are_chosen():
    task = replace(TASK, pool=POOL)
    more = Pool(POOL.examples * 2, POOL.texts * 2, 8)
    for pool in (
        Pool(POOL.examples, POOL.texts, 4),
        Pool(POOL.examples, POOL.texts, 8, "minilm"),
        more,
    ):
        assert differences(task, replace(TASK, pool=pool)) == {"pool"}
    assert fingerprint_task(
        replace(TASK, pool=Pool(POOL.examples, POOL.texts, 8))
    ) == fingerprint_task(task)
    assert "patient" not in str(describe(task))


def test_a_pass_is_told_by_what_it_changes():
    def with_pass(
        when: When | None = None, model: str | None = None, name: str = "refine", **changes: object
    ) -> Task:
        return replace(
            TASK, passes=(Pass(name, when or When(0.5), replace(TASK, **changes), model),)
        )

    plain = with_pass()
    assert differences(TASK, plain) == {"passes", "passes.refine.when", "passes.refine.model"}
    assert differences(plain, with_pass(When(0.6))) == {"passes.refine.when"}
    assert differences(plain, with_pass(When(0.5, (Status.ABSTAINED,)))) == {"passes.refine.when"}
    assert differences(plain, with_pass(model="org/larger")) == {"passes.refine.model"}
    assert differences(plain, with_pass(instruction="Look again.")) == {"passes.refine.instruction"}
    assert differences(plain, with_pass(labels=TASK.labels[:1])) == {"passes.refine.labels"}
    assert differences(plain, with_pass(reasoning=Reasoning(9))) == {"passes.refine.reasoning"}
    assert differences(plain, with_pass(model=None, name="again")) > {"passes"}


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
    described = describe(replace(TASK, instruction="word " * 1000))
    assert "patient" not in str(described)
    assert described["examples"].startswith("1 (sha256 ")
    assert max(map(len, described.values())) < 120


def test_tasks_can_be_kept_in_a_cache():
    assert hash(TASK) == hash(replace(TASK))

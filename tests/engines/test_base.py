"""Identities of models are compared fact by fact."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medtask.engines.base import FILE_FACT, list_changed_facts

WEIGHTS = {"model.weights": "1" * 64}
TEMPLATE = f"model.{FILE_FACT}chat_template.jinja"
facts = st.dictionaries(st.text(max_size=8), st.text(min_size=1, max_size=4), max_size=5)


@given(facts)
def test_an_identity_equals_itself(identity: dict[str, str]) -> None:
    assert list_changed_facts(identity, identity) == []


@given(facts, facts)
def test_facts_other_than_files_differ_in_both_directions(
    one: dict[str, str], other: dict[str, str]
) -> None:
    one = {name: fact for name, fact in one.items() if FILE_FACT not in name}
    other = {name: fact for name, fact in other.items() if FILE_FACT not in name}
    changed = list_changed_facts(one, other)
    assert set(changed) == {name for name in one | other if one.get(name) != other.get(name)}
    assert set(changed) == set(list_changed_facts(other, one))


def test_files_are_compared_where_both_sides_have_recorded_some() -> None:
    old, new = {**WEIGHTS, TEMPLATE: "a"}, {**WEIGHTS, TEMPLATE: "b"}
    assert list_changed_facts(old, new) == [TEMPLATE]
    assert list_changed_facts(old, WEIGHTS) == [TEMPLATE]
    merges = f"model.{FILE_FACT}merges.txt"
    assert list_changed_facts(old, {**old, merges: "c"}) == [merges]


def test_an_identity_of_an_earlier_version_has_no_files_to_compare() -> None:
    assert list_changed_facts(WEIGHTS, {**WEIGHTS, TEMPLATE: "a"}) == []
    other = f"model.a/b.{FILE_FACT}merges.txt"  # a model of a further pass
    assert (
        list_changed_facts({**WEIGHTS, TEMPLATE: "a"}, {**WEIGHTS, TEMPLATE: "a", other: "c"}) == []
    )

"""Every key of a task file has a description, for its schema and its documentation."""

from __future__ import annotations

import pytest

from medtask.kinds import KINDS
from medtask.tasks.json_schema import SECTIONS, list_section_keys
from medtask.tasks.key_reference import KEY_DESCRIPTIONS
from medtask.tasks.kinds import TASK_KINDS


@pytest.mark.parametrize("section", ["", *KINDS, *SECTIONS])
def test_every_key_has_a_description_and_every_description_a_key(section: str) -> None:
    # Raises if a description is missing: add it to tasks/key_reference.py, or to the kind.
    keys = list_section_keys(section)
    kind = TASK_KINDS.get(section)
    described = kind.key_descriptions if kind else KEY_DESCRIPTIONS[section]
    assert set(described) == {key.name for key in keys}
    assert all(key.description.example.startswith(key.name) for key in keys)

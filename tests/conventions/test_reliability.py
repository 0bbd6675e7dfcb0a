"""RELIABILITY.md: every goal has a row, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATES = ("tested", "in part", "not proven")
GOALS = [*(f"R{number}" for number in range(1, 37)), *(f"S{number}" for number in range(1, 29))]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "RELIABILITY.md").read_text("utf-8").splitlines()
    if re.match(r"\| [RS]\d", line)
]


def test_every_goal_has_one_row() -> None:
    assert [row[0] for row in ROWS] == GOALS


def test_every_row_has_a_state_and_only_unproven_goals_have_no_test() -> None:
    for goal, _, state, tests, _ in ROWS:
        assert state.startswith(STATES), goal
        assert tests or not state.startswith("tested"), goal
        # What is missing is said.
        assert (
            state in ("tested", "not proven")
            or ":" in state
            or " for " in state
            or (" with " in state)
        ), goal


def test_every_named_test_exists() -> None:
    named = [name for row in ROWS for name in re.findall(r"`(.+?::.+?)`", row[3])]
    assert len(named) > 60
    for name in named:
        file, _, function = name.partition("::")
        text = (ROOT / "tests" / file).read_text("utf-8")
        assert re.search(rf"^(?:async )?def {function}\b", text, re.MULTILINE), name

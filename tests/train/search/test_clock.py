from __future__ import annotations

import pytest

from medtask.errors import UsageError
from medtask.train.search.clock import Clock, Halt, parse_budget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("2h", 7200),
        ("1.5h", 5400),
        ("2h30m", 9000),
        ("1d", 86400),
        (" 2 H ", 7200),
    ],
)
def test_a_budget_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "two hours", "2h!", "0s", "-5m", "2w"])
def test_anything_else_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError):
        parse_budget(text)


def test_a_search_may_use_what_is_not_kept_for_its_end() -> None:
    now = [100.0]
    clock = Clock(60, now=lambda: now[0])
    clock.kept_s = 20
    now[0] += 30
    assert (clock.spent(), clock.left()) == (30, 10)
    clock.check(10)
    with pytest.raises(Halt):
        clock.check(11)
    with clock.share(0.5):
        assert clock.left() == 5
    assert clock.left() == 10
    now[0] += 10
    with pytest.raises(Halt):
        clock.check()


def test_a_halt_is_no_exception_that_a_library_would_survive() -> None:
    assert not issubclass(Halt, Exception)

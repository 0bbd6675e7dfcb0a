from __future__ import annotations

import pytest

from medtask.errors import UsageError
from medtask.training.search.search_budget import SearchBudget, SearchStopped, parse_duration


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
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "two hours", "2h!", "0s", "-5m", "2w"])
def test_anything_else_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_a_search_may_use_what_is_not_kept_for_its_end() -> None:
    now = [100.0]
    clock = SearchBudget(60, now=lambda: now[0])
    clock.reserved_s = 20
    now[0] += 30
    assert (clock.elapsed_s(), clock.remaining_s()) == (30, 10)
    clock.check_time_left(10)
    with pytest.raises(SearchStopped):
        clock.check_time_left(11)
    with clock.limit_to_share(0.5):
        assert clock.remaining_s() == 5
    assert clock.remaining_s() == 10
    now[0] += 10
    with pytest.raises(SearchStopped):
        clock.check_time_left()


def test_a_halt_is_no_exception_that_a_library_would_survive() -> None:
    assert not issubclass(SearchStopped, Exception)

"""A time left that is shown is right to a factor of 2, where the speed does not change later."""

from __future__ import annotations

from itertools import pairwise

import pytest

from medtask.cli.remaining_time import RemainingTime, SteadyEstimate


def replay(times: list[float], *, every: float = 1.0) -> list[tuple[float, float | None]]:
    """The estimates at all times of a run whose rows are done at ``times``."""
    remaining = RemainingTime(len(times), 0, 0.0)
    shown: list[tuple[float, float | None]] = []
    done, now = 0, 0.0
    while done < len(times):
        while done < len(times) and times[done] <= now:
            done += 1
            remaining.add(done, times[done - 1])
        shown.append((now, remaining.estimate(now)))
        now += every
    return shown


def test_at_a_constant_speed_it_is_shown_soon_and_right():
    shown = replay([0.5 * row for row in range(1, 201)])
    first = next(now for now, left in shown if left is not None)
    assert first <= 4
    assert all(left == pytest.approx(100 - now, rel=0.25, abs=1.5) for now, left in shown[5:99])


def test_it_never_stays_while_nothing_happens():
    times = [0.5 * row for row in range(1, 41)] + [140.0 + row for row in range(10)]
    stalled = [left for now, left in replay(times) if 60 < now < 139]
    assert stalled and set(stalled) == {None}


def test_a_change_of_speed_hides_it_within_seconds():
    fast_then_slow = [0.02 * row for row in range(1, 101)]
    fast_then_slow += [2 + 2.0 * row for row in range(1, 101)]
    shown = [now for now, left in replay(fast_then_slow) if left is not None]
    assert all(now < 6 or now > 190 for now in shown)


def test_a_speed_that_grows_slowly_does_not_make_it_jump():
    times = [0.0]
    for row in range(300):
        times.append(times[-1] + 0.3 + 0.002 * row)
    shown = [left for _, left in replay(times[1:]) if left is not None]
    assert len(shown) > 100
    assert all(0.5 < after / before < 2 for before, after in pairwise(shown) if before > 5)


def test_estimates_that_contradict_each_other_are_not_shown():
    steady = SteadyEstimate(0.0)
    contradictory = ((462, 1), (836, 2), (31, 3), (30, 4))
    assert [steady.check(left, now) for left, now in contradictory] == [None] * 4
    assert steady.check(95.0, 5.0) is None
    assert [steady.check(100.0 - now, now) for now in (9.0, 10.0, 11.0, 12.0)][-1] == 88
    assert steady.check(None, 13.0) is None

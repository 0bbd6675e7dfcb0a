from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.errors import UsageError
from medtask.prediction.predictor import WINDOW
from medtask.scaling.shards import split_rows


@given(st.integers(1, 300_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, min(n, 99)))))
def test_shards_cover_every_row_once_and_have_about_the_same_size(case: tuple[int, int]) -> None:
    rows, count = case
    shards = split_rows(rows, count)
    assert len(shards) == count
    assert [shard.first for shard in shards] == [1, *(shard.last + 1 for shard in shards[:-1])]
    assert shards[-1].last == rows
    sizes = [shard.rows for shard in shards]
    assert min(sizes) > 0
    assert max(sizes) <= 2 * min(sizes)


def test_long_shards_begin_where_a_window_of_the_run_begins() -> None:
    shards = split_rows(100_000, 8)
    assert all((shard.first - 1) % WINDOW == 0 for shard in shards)


@pytest.mark.parametrize(("rows", "shards"), [(3, 4), (20_000, 10_000)])
def test_more_shards_than_rows_or_folders_are_refused(rows: int, shards: int) -> None:
    with pytest.raises(UsageError, match="cannot be split") as refused:
        split_rows(rows, shards)
    assert "--shards" in refused.value.fix

"""The simulation of clusters agrees with arithmetic where arithmetic has an answer."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "scale_model.py"


def load_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale_model", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale_model"] = module
    spec.loader.exec_module(module)
    return module


model = load_module()
WORK = model.Workload(rows=1e6, own_tokens=50)
COSTS = model.Costs(tokens_per_s=1000, start_s=30)
IDEAL = {"speed_spread": 0.0, "hours_between_failures": 1e12}


def test_equal_workers_without_failures_share_the_work_exactly() -> None:
    found = model.simulate(WORK, COSTS, model.Cluster(8, 80, **IDEAL))
    expected = 30 + 1e6 * (50 / 1000 + COSTS.row_s) / 8
    assert found.answer_h * 3600 == pytest.approx(expected)
    assert found.useful == pytest.approx(1 - 30 / expected)
    assert found.failures == 0


def test_jobs_that_load_the_model_for_each_shard_pay_for_each_start() -> None:
    kept = model.simulate(WORK, COSTS, model.Cluster(8, 80, **IDEAL))
    jobs = model.simulate(WORK, COSTS, model.Cluster(8, 80, one_job_per_shard=True, **IDEAL))
    assert (jobs.answer_h - kept.answer_h) * 3600 == pytest.approx(9 * 30)


def test_more_shards_even_out_slow_workers() -> None:
    few, many = (
        model.simulate(WORK, COSTS, model.Cluster(16, shards, speed_spread=0.3))
        for shards in (16, 320)
    )
    assert many.answer_h < 0.8 * few.answer_h
    assert many.useful > few.useful


def test_failures_cost_a_start_and_not_a_shard() -> None:
    calm = model.simulate(WORK, COSTS, model.Cluster(8, 8, **IDEAL))
    cluster = model.Cluster(8, 8, speed_spread=0.0, hours_between_failures=0.5)
    rough = model.simulate(WORK, COSTS, cluster)
    assert rough.failures > 8
    lost = (rough.answer_h - calm.answer_h) * 3600
    assert 0 < lost <= rough.failures * (cluster.requeue_s + COSTS.start_s)


def test_equal_texts_are_asked_once_in_each_shard() -> None:
    work = model.Workload(rows=1e6, distinct_texts=1e5)
    assert work.count_asked(1e6) == pytest.approx(1e5 * (1 - math.exp(-10)))
    assert 100 * work.count_asked(1e4) > 9 * work.count_asked(1e6)
    assert model.Workload(rows=10).count_asked(10) == 10


def test_loading_over_a_shared_disk_takes_longer_with_each_worker() -> None:
    times = [
        model.simulate(WORK, COSTS, model.Cluster(n, 64, model_gb=54, **IDEAL)).first_done_h
        for n in (1, 64)
    ]
    assert (times[1] - times[0]) * 3600 == pytest.approx(63 * 54 / 2)


def test_a_line_is_fitted() -> None:
    row_s, rate = model.fit_line([10, 20, 40], [0.002 + one / 500 for one in (10, 20, 40)])
    assert (row_s, rate) == (pytest.approx(0.002), pytest.approx(500))

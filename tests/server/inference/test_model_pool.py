from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from medtask.engines.fake import FakeEngine
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.errors import EngineError, ModelTooLarge
from medtask.server.inference import model_pool
from medtask.server.inference.model_pool import ModelPool


class SizedLoader:
    """Loads fake engines; each adds ``sizes[reference]`` bytes to the memory of the process."""

    def __init__(self, sizes: dict[str, int], capacity: int = 10**9) -> None:
        self.sizes = sizes
        self.capacity = capacity
        self.used = 0
        self.loads: list[str] = []
        self.open: list[str] = []
        self.options: list[LoadOptions] = []

    def __call__(self, reference: str, options: LoadOptions) -> FakeEngine:
        self.options.append(options)
        size = self.sizes[reference]
        if self.used + size > self.capacity:
            raise ModelTooLarge("the model does not fit", fix="choose a smaller one")
        self.loads.append(reference)
        self.open.append(reference)
        self.used += size
        engine = FakeEngine()

        def close() -> None:
            self.open.remove(reference)
            self.used -= size

        engine.close = close  # type: ignore[method-assign]
        return engine


@pytest.fixture
def make_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[SizedLoader, int | None], ModelPool]]:
    pools = []

    def make(loader: SizedLoader, limit: int | None) -> ModelPool:
        monkeypatch.setattr(model_pool, "measure_used_memory", lambda: loader.used)
        pool = ModelPool(limit, loader)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


PoolMaker = Callable[[SizedLoader, int | None], ModelPool]


def test_a_model_is_loaded_once_for_all_requests(make_pool: PoolMaker) -> None:
    loader = SizedLoader({"fake:seed=1": 10, "fake:seed=2": 10})
    pool = make_pool(loader, None)
    together = threading.Barrier(8)

    def use(number: int) -> object:
        together.wait(30)
        with pool.use(f"fake:seed={number % 2 + 1}") as worker:
            return worker

    with ThreadPoolExecutor(8) as threads:
        workers = list(threads.map(use, range(8)))
    assert sorted(loader.loads) == ["fake:seed=1", "fake:seed=2"]
    assert len(set(map(id, workers))) == 2


def test_the_least_recently_used_model_goes_when_the_limit_is_reached(
    make_pool: PoolMaker,
) -> None:
    names = ["fake:seed=1", "fake:seed=2", "fake:seed=3"]
    loader = SizedLoader(dict.fromkeys(names, 10))
    pool = make_pool(loader, 25)
    for name in (names[0], names[1], names[0], names[2]):
        with pool.use(name):
            pass
    assert loader.open == [names[0], names[2]]
    assert [model.reference for model in pool.list_models()] == [names[2], names[0]]


def test_a_model_in_use_stays(make_pool: PoolMaker) -> None:
    loader = SizedLoader({"fake:seed=1": 10, "fake:seed=2": 10})
    pool = make_pool(loader, 15)
    with pool.use("fake:seed=1"):
        with pool.use("fake:seed=2"):
            assert loader.open == ["fake:seed=1", "fake:seed=2"]
        assert loader.open == ["fake:seed=1"]


def test_a_model_that_does_not_fit_beside_others_replaces_them(make_pool: PoolMaker) -> None:
    loader = SizedLoader({"fake:seed=1": 10, "fake:seed=2": 15}, capacity=20)
    pool = make_pool(loader, None)
    with pool.use("fake:seed=1"):
        pass
    with pool.use("fake:seed=2"):
        assert loader.open == ["fake:seed=2"]
        with pytest.raises(ModelTooLarge), pool.use("fake:seed=1"):
            pass


def test_a_model_that_could_not_be_loaded_is_tried_again(make_pool: PoolMaker) -> None:
    attempts = 0

    def load(reference: str, options: LoadOptions) -> FakeEngine:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise EngineError("the server does not answer", fix="start it")
        return FakeEngine()

    pool = ModelPool(None, load)
    with pytest.raises(EngineError), pool.use("fake:"):
        pass
    with pool.use("fake:") as worker:
        assert worker.engine.info.name == "fake"
    pool.close()


def test_a_model_is_loaded_with_the_same_options_whatever_is_loaded_beside_it(
    make_pool: PoolMaker,
) -> None:
    loader = SizedLoader({"fake:seed=1": 10, "fake:seed=2": 10})
    pool = make_pool(loader, 100)
    for name in loader.sizes:
        with pool.use(name, DEFAULT_OPTIONS):
            pass
    assert {options.memory for options in loader.options} == {100}

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, MedtaskError
from medtask.records import Branch, Message, Prompt, Scores
from medtask.server.inference import engine_worker
from medtask.server.inference.engine_worker import EngineWorker
from medtask.server.inference.requests import (
    DeadlineExceeded,
    ModelBusy,
    ModelRequest,
    RequestCancelled,
)
from medtask.server.inference.shared_engine import SharedEngine

BRANCH = Branch("", ("left", "right"))


class GatedEngine(FakeEngine):
    """Records the texts of each call, and waits in each call until ``gate`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.calls: list[list[str]] = []

    def score(self, prompts: Sequence[Prompt], cached: object = ()) -> Iterator[Scores]:  # type: ignore[override]
        self.calls.append([prompt.text for prompt in prompts])
        self.entered.set()
        assert self.gate.wait(30)
        if any("broken" in prompt.text for prompt in prompts):
            raise ValueError("a record's text")
        yield from super().score(prompts)  # type: ignore[misc]


def make_prompts(*texts: str) -> list[Prompt]:
    return [
        Prompt(str(number), (Message("user", text),), (BRANCH,), text)
        for number, text in enumerate(texts, 1)
    ]


@contextmanager
def run_worker(engine: FakeEngine, **options: int) -> Iterator[EngineWorker]:
    worker = EngineWorker(engine, **options)
    try:
        yield worker
    finally:
        if isinstance(engine, GatedEngine):
            engine.gate.set()
        worker.close()


def score(
    worker: EngineWorker, *texts: str, request: ModelRequest | None = None, task: str = "task"
) -> list[Scores]:
    engine = SharedEngine(worker, request or ModelRequest(), task)
    return list(engine.score(make_prompts(*texts)))  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_calls_that_wait_together_are_read_in_one_pass() -> None:
    engine = GatedEngine()
    with run_worker(engine) as worker, ThreadPoolExecutor(8) as threads:
        first = threads.submit(score, worker, "first")
        assert engine.entered.wait(30)
        others = [threads.submit(score, worker, f"text {number}") for number in range(5)]
        wait_until(lambda: worker.waiting_rows == 5)
        engine.gate.set()
        results = [first.result(30), *(other.result(30) for other in others)]
    assert engine.calls[0] == ["first"]
    assert sorted(engine.calls[1]) == [f"text {number}" for number in range(5)]
    assert [[one.record_id for one in result] for result in results] == [["1"]] * 6


def test_joined_calls_get_the_scores_of_their_own_texts() -> None:
    engine = GatedEngine()
    texts = [f"text {number}" for number in range(20)]
    with run_worker(engine) as worker, ThreadPoolExecutor(20) as threads:
        futures = [threads.submit(score, worker, text, f"{text} again") for text in texts]
        wait_until(lambda: worker.waiting_rows > 30)
        engine.gate.set()
        found = [future.result(30) for future in futures]
    for text, result in zip(texts, found, strict=True):
        expected = list(FakeEngine().score(make_prompts(text, f"{text} again")))
        assert {one.record_id: one.branches for one in result} == {
            one.record_id: one.branches for one in expected if isinstance(one, Scores)
        }


def test_calls_of_different_tasks_are_not_joined() -> None:
    engine = GatedEngine()
    with run_worker(engine) as worker, ThreadPoolExecutor(8) as threads:
        futures = [
            threads.submit(score, worker, f"text {number}", task=f"task {number % 2}")
            for number in range(6)
        ]
        wait_until(lambda: worker.waiting_rows == 5)
        engine.gate.set()
        for future in futures:
            future.result(30)
    assert all(len({int(text[-1]) % 2 for text in call}) == 1 for call in engine.calls)


def test_a_short_call_does_not_wait_for_all_of_a_long_one() -> None:
    engine = GatedEngine()
    engine.ms_per_row = 5
    with run_worker(engine) as worker, ThreadPoolExecutor(2) as threads:
        long = threads.submit(score, worker, *(f"long {number}" for number in range(1000)))
        assert engine.entered.wait(30)
        short = threads.submit(score, worker, "short")
        wait_until(lambda: worker.waiting_rows == 1)
        engine.gate.set()
        short.result(30)
        assert not long.done()
        assert len(long.result(30)) == 1000
    assert ["short" in call for call in engine.calls].index(True) <= 2


def test_a_long_call_is_read_beside_any_number_of_short_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_worker, "PASS_S", 1e-9)  # a slow engine: eight rows in a pass
    engine = GatedEngine()
    with run_worker(engine) as worker, ThreadPoolExecutor(20) as threads:
        futures = [threads.submit(score, worker, "first")]
        assert engine.entered.wait(30)
        futures.append(threads.submit(score, worker, *(f"long {number}" for number in range(20))))
        wait_until(lambda: worker.waiting_rows == 20)
        futures += [threads.submit(score, worker, f"short {number}") for number in range(16)]
        wait_until(lambda: worker.waiting_rows == 36)
        engine.gate.set()
        for future in futures:
            future.result(30)
    assert sorted(text.split()[0] for text in engine.calls[1]) == ["long", *["short"] * 7]


def test_a_text_that_breaks_the_engine_fails_its_own_request_only() -> None:
    engine = GatedEngine()
    with run_worker(engine) as worker, ThreadPoolExecutor(8) as threads:
        first = threads.submit(score, worker, "first")
        assert engine.entered.wait(30)
        texts = ["one", "broken", "two"]
        others = [threads.submit(score, worker, text) for text in texts]
        wait_until(lambda: worker.waiting_rows == 3)
        engine.gate.set()
        assert len(first.result(30)) == len(others[0].result(30)) == len(others[2].result(30)) == 1
        with pytest.raises(EngineError, match=r"the model failed \(ValueError\)$"):
            others[1].result(30)
        assert len(score(worker, "later")) == 1


def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    engine = GatedEngine()
    with run_worker(engine, max_waiting_rows=3) as worker, ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(score, worker, "first")]
        assert engine.entered.wait(30)
        futures += [threads.submit(score, worker, f"text {number}") for number in range(3)]
        wait_until(lambda: worker.waiting_rows == 3)
        with pytest.raises(ModelBusy, match="too many texts wait") as caught:
            score(worker, "one more")
        assert int(caught.value.headers["Retry-After"]) >= 1
        engine.gate.set()
        assert [len(future.result(30)) for future in futures] == [1] * 4


def test_an_empty_queue_takes_a_call_of_any_size() -> None:
    with run_worker(FakeEngine(), max_waiting_rows=3) as worker:
        assert len(score(worker, *"abcdefgh")) == 8


def test_a_cancelled_request_never_reaches_the_engine() -> None:
    engine = GatedEngine()
    with run_worker(engine) as worker, ThreadPoolExecutor(8) as threads:
        first = threads.submit(score, worker, "first")
        assert engine.entered.wait(30)
        request = ModelRequest()
        cancelled = threads.submit(score, worker, "cancelled", request=request)
        other = threads.submit(score, worker, "other")
        wait_until(lambda: worker.waiting_rows == 2)
        request.cancel()
        engine.gate.set()
        with pytest.raises(RequestCancelled):
            cancelled.result(30)
        assert len(first.result(30)) == len(other.result(30)) == 1
    assert engine.calls == [["first"], ["other"]]


def test_a_request_ends_at_its_deadline() -> None:
    engine = GatedEngine()
    with run_worker(engine) as worker, ThreadPoolExecutor(8) as threads:
        first = threads.submit(score, worker, "first")
        assert engine.entered.wait(30)
        request = ModelRequest(deadline=time.monotonic() + 0.05)
        late = threads.submit(score, worker, "late", request=request)
        wait_until(lambda: worker.waiting_rows == 1)
        time.sleep(0.06)
        engine.gate.set()
        with pytest.raises(DeadlineExceeded, match="within its time limit"):
            late.result(30)
        first.result(30)
    assert engine.calls == [["first"]]


def test_closing_ends_the_calls_that_wait() -> None:
    engine = GatedEngine()
    worker = EngineWorker(engine)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(score, worker, "first")
        assert engine.entered.wait(30)
        waiting = threads.submit(score, worker, "waiting")
        wait_until(lambda: worker.waiting_rows == 1)
        closing = threads.submit(worker.close)
        wait_until(lambda: worker._closed)
        engine.gate.set()
        closing.result(30)
        assert len(first.result(30)) == 1
        with pytest.raises(RequestCancelled):
            waiting.result(30)
    with pytest.raises(MedtaskError):
        score(worker, "late")

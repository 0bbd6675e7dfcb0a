"""The thread that calls one engine: it joins the waiting calls of many requests into passes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition, Thread

from medtask.engines.base import Engine
from medtask.errors import EngineError, MedtaskError
from medtask.server.inference.engine_call import CallPart, EngineCall, EnginePass
from medtask.server.inference.requests import ModelBusy, RequestCancelled

MAX_WAITING_ROWS = 4096  # texts that wait for one engine
MAX_PASS_ROWS = 1024
FIRST_PASS_ROWS = 8  # before the engine's speed is known
# How long a pass should take: a request with one text waits for it behind one with thousands.
PASS_S = 0.5
# After a joined pass its clients send their next texts almost together. A pass that starts with the
# first one of them would make all others wait for a pass with a single row.
MAX_GATHER_S = 0.02
GATHER_SHARE = 0.1  # of the last pass's time


@dataclass(slots=True)
class WorkerCounts:
    """What a worker has done: passes, the rows and calls in them, and its busy seconds."""

    passes: int = 0
    rows: int = 0
    calls: int = 0
    busy_s: float = 0.0


class EngineWorker:
    """Calls one engine from one thread.

    Calls with equal keys are joined. Every pass reads a part of each of them, so that a call with
    few prompts is not delayed by one with many. A call that fails together with others is repeated
    alone.

    Args:
        engine: The engine; it is closed with the worker.
        max_waiting_rows: The largest number of prompts that may wait.
    """

    def __init__(self, engine: Engine, max_waiting_rows: int = MAX_WAITING_ROWS) -> None:
        self.engine = engine
        self.counts = WorkerCounts()
        self._max_waiting_rows = max_waiting_rows
        self._calls: deque[EngineCall] = deque()
        self._condition = Condition()
        self._running: set[EngineCall] = set()
        self._closed = False
        self._seconds_per_row: dict[str, float] = {}  # by method
        self._last_calls = 0
        self._last_pass_s = 0.0
        self._next_scoring = 0.0  # between steps, by time.monotonic()
        self._thread = Thread(target=self._run, name="medtask-engine", daemon=True)
        self._thread.start()

    @property
    def waiting_rows(self) -> int:
        """The number of prompts that wait."""
        with self._condition:
            return self._count_waiting()

    def submit(self, call: EngineCall) -> None:
        """Add a call to those that wait.

        Raises:
            ModelBusy: Too many prompts wait already.
            RequestCancelled: The worker is closed.
        """
        with self._condition:
            if self._closed:
                raise RequestCancelled
            waiting = self._count_waiting()
            # An empty queue takes a call of any size: it could never be made otherwise.
            if waiting and waiting + call.pending_rows > self._max_waiting_rows:
                raise ModelBusy(self._estimate_waiting_s())
            self._calls.append(call)
            self._condition.notify_all()

    def close(self) -> None:
        """End all calls, wait for the step that runs, and close the engine."""
        with self._condition:
            self._closed = True
            for call in self._running:
                call.request.cancel()
            self._condition.notify_all()
        self._thread.join()

    def _count_waiting(self) -> int:
        return sum(call.pending_rows for call in self._calls)

    def _estimate_waiting_s(self) -> float:
        return sum(
            call.pending_rows * self._get_seconds_per_row(call.key.method)
            for call in self._calls
            if call.key
        )

    def _get_seconds_per_row(self, method: str) -> float:
        return self._seconds_per_row.get(method, PASS_S / FIRST_PASS_ROWS)

    def _run(self) -> None:
        while engine_pass := self._wait_for_pass():
            self._run_pass(engine_pass)
        for call in self._calls:
            call.finish(RequestCancelled())
        self.engine.close()

    def _wait_for_pass(self) -> EnginePass | None:
        """Wait for calls and join the next ones; None once the worker is closed."""
        with self._condition:
            while not self._closed:
                self._drop_ended_calls()
                if self._calls:
                    self._gather_calls()
                    self._drop_ended_calls()
                if self._calls:
                    return EnginePass(self._select_parts(self._calls))
                self._condition.wait()
            return None

    def _gather_calls(self) -> None:
        """Wait a moment for as many calls as the last pass had."""
        until = time.monotonic() + min(MAX_GATHER_S, GATHER_SHARE * self._last_pass_s)
        while len(self._calls) < self._last_calls and not self._closed:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._condition.wait(left)

    def _drop_ended_calls(self) -> None:
        for call in list(self._calls):
            error = call.request.find_end()
            if error:
                self._calls.remove(call)
                call.finish(error)

    def _select_parts(self, candidates: Sequence[EngineCall]) -> list[CallPart]:
        """The parts of a pass, whose calls leave the queue; the longest waiting is among them."""
        first = candidates[0]
        if first.key is None:
            self._calls.remove(first)
            return [CallPart(first, first.list_pending())]
        in_time = int(PASS_S / self._get_seconds_per_row(first.key.method))
        left = min(MAX_PASS_ROWS, max(first.key.min_rows, in_time))
        joined = [call for call in candidates if call.key == first.key][:left]
        parts = []
        # Short calls first: what they leave of their share goes to the longer ones.
        for number, call in enumerate(sorted(joined, key=lambda call: call.pending_rows)):
            prompts = call.list_pending(left // (len(joined) - number))
            parts.append(CallPart(call, prompts))
            left -= len(prompts)
        for part in parts:
            self._calls.remove(part.call)
        return parts

    def _run_pass(self, engine_pass: EnginePass) -> None:
        start = time.monotonic()
        calls = [part.call for part in engine_pass.parts]
        with self._condition:
            self._running.update(calls)
        try:
            engine_pass.run(self.engine, self._score_between_steps)
        except Exception as error:  # another engine's code can fail in any way; the thread goes on
            self._handle_failure(calls, error)
            return
        finally:
            self._measure(engine_pass, time.monotonic() - start)
            with self._condition:
                self._running.difference_update(calls)
        with self._condition:
            for call in calls:
                ended = call.request.find_end()
                if ended or not call.pending_rows:
                    call.finish(ended if call.pending_rows else None)
                else:
                    self._calls.append(call)

    def _score_between_steps(self) -> None:
        """Score texts that wait while text is generated, at most half of the time."""
        if not self._calls or not self.engine.scores_while_generating:
            return
        if time.monotonic() < self._next_scoring:
            return
        with self._condition:
            self._drop_ended_calls()
            scoring = [call for call in self._calls if call.key and call.key.method == "score"]
            parts = self._select_parts(scoring) if scoring else []
        if parts:
            start = time.monotonic()
            self._run_pass(EnginePass(parts))
            self._next_scoring = 2 * time.monotonic() - start

    def _handle_failure(self, calls: Sequence[EngineCall], error: Exception) -> None:
        """Let a call that was made alone fail; calls that were joined are repeated alone."""
        if len(calls) == 1:
            calls[0].finish(error if isinstance(error, MedtaskError) else _wrap_error(error))
            return
        with self._condition:
            for call in reversed(calls):
                call.key = None
                self._calls.appendleft(call)

    def _measure(self, engine_pass: EnginePass, seconds: float) -> None:
        self.counts.passes += 1
        self.counts.rows += engine_pass.rows
        self.counts.calls += len(engine_pass.parts)
        self.counts.busy_s += seconds
        self._last_calls = len(engine_pass.parts)
        self._last_pass_s = seconds
        key = engine_pass.parts[0].call.key
        if key:
            earlier = self._get_seconds_per_row(key.method)
            own = seconds / engine_pass.rows
            self._seconds_per_row[key.method] = (earlier + own) / 2


def _wrap_error(error: Exception) -> EngineError:
    """An error for the client, without the text of a record that a library's error may contain."""
    return EngineError(
        f"the model failed ({type(error).__name__})",
        fix="send the texts one at a time to find the one that fails",
    )

"""An engine that many requests use at once: `medtask.predict` runs on it unchanged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

from medtask.engines.base import (
    Engine,
    PromptPlan,
    Rendering,
    TextCallbacks,
    list_text_callbacks,
)
from medtask.prediction.asking import GENERATION_BATCH
from medtask.records import Fault, Generated, Limits, Prompt, Scores
from medtask.server.inference.engine_call import CallKey, EngineCall
from medtask.server.inference.engine_worker import EngineWorker
from medtask.server.inference.requests import ModelRequest


class SharedEngine(Engine):
    """The engine of one request: its calls wait for the worker, which joins those of all requests.

    Args:
        worker: The worker of the loaded engine.
        request: The request.
        task_key: Only prompts of the same task are read together, because they share a prefix.
    """

    def __init__(self, worker: EngineWorker, request: ModelRequest, task_key: Hashable) -> None:
        self._worker = worker
        self._request = request
        self._task_key = task_key
        self.caps = worker.engine.caps
        self.info = worker.engine.info
        self.context_tokens = worker.engine.context_tokens

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        asked = [prompt for prompt in prompts if prompt.record_id not in cached]
        key = CallKey("score", self._task_key)
        yield from self._submit(EngineCall(self._request, asked, _score, key))

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: TextCallbacks | None = None,
    ) -> Iterator[Generated | Fault]:
        asked = [prompt for prompt in prompts if prompt.record_id not in cached]
        callbacks = list_text_callbacks(on_text, asked, several=False)
        callback = next(iter(callbacks.values()), None)
        if callback is None and self._request.on_text and len(asked) == 1:
            callback = partial(_send_text, self._request.on_text, limits.think)
        # Sampling depends on the ids of records, which a joined pass replaces.
        alone = limits.temperature > 0 or (callback and not self._worker.engine.streams_several)
        key = CallKey("generate", self._task_key, repr(limits), min_rows=GENERATION_BATCH)
        method = partial(_generate, limits=limits)
        yield from self._submit(
            EngineCall(self._request, asked, method, None if alone else key, callback)
        )

    def render(self, prompt: Prompt) -> Rendering | None:
        rendering: Rendering | None = self._compute(
            [prompt], lambda engine, prompts: engine.render(prompts[0])
        )
        return rendering

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan | None:
        plan: PromptPlan | None = self._compute(
            prompts, lambda engine, prompts: engine.plan(prompts)
        )
        return plan

    def _compute(
        self, prompts: Sequence[Prompt], function: Callable[[Engine, Sequence[Prompt]], Any]
    ) -> Any:
        """The result of a function of the engine, called in its thread."""

        def compute(
            engine: Engine, given: Sequence[Prompt], on_text: TextCallbacks | None
        ) -> Iterator[Any]:
            yield function(engine, given)

        (result,) = self._submit(EngineCall(self._request, prompts, compute))
        return result

    def _submit(self, call: EngineCall) -> Iterator[Any]:
        if call.pending_rows:
            self._worker.submit(call)
            yield from call.iterate_results()


def _score(
    engine: Engine, prompts: Sequence[Prompt], on_text: TextCallbacks | None
) -> Iterator[Scores | Fault]:
    return engine.score(prompts)


def _generate(
    engine: Engine, prompts: Sequence[Prompt], on_text: TextCallbacks | None, limits: Limits
) -> Iterator[Generated | Fault]:
    return engine.generate(prompts, limits, on_text=on_text)


def _send_text(send: Callable[[str, bool], None], is_thought: bool, piece: str) -> None:
    send(piece, is_thought)

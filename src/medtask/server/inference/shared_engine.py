"""An engine that many requests use at once: `medtask.predict` runs on it unchanged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

from medtask.engines.base import Engine, PromptPlan, Rendering
from medtask.prediction.asking import GENERATION_BATCH
from medtask.records import Fault, Generated, Limits, Prompt, Scores
from medtask.server.inference.engine_call import CallKey, EngineCall, EngineMethod
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
        yield from self._call(asked, _score, CallKey("score", self._task_key))

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated | Fault]:
        asked = [prompt for prompt in prompts if prompt.record_id not in cached]
        if on_text is None and self._request.on_text:
            on_text = partial(_send_text, self._request, is_thought=limits.think)
        # Sampling depends on the ids of records, which a joined pass replaces.
        alone = on_text is not None or limits.temperature > 0
        key = CallKey("generate", self._task_key, repr(limits), min_rows=GENERATION_BATCH)
        method = partial(_generate, limits=limits, on_text=on_text)
        yield from self._call(asked, method, None if alone else key)

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
        (result,) = self._call(prompts, lambda engine, given: iter([function(engine, given)]), None)
        return result

    def _call(
        self, prompts: Sequence[Prompt], method: EngineMethod, key: CallKey | None
    ) -> Iterator[Any]:
        if not prompts:
            return
        call = EngineCall(self._request, prompts, method, key)
        self._worker.submit(call)
        yield from call.iterate_results()


def _score(engine: Engine, prompts: Sequence[Prompt]) -> Iterator[Scores | Fault]:
    return engine.score(prompts)


def _generate(
    engine: Engine,
    prompts: Sequence[Prompt],
    limits: Limits,
    on_text: Callable[[str], None] | None,
) -> Iterator[Generated | Fault]:
    return engine.generate(prompts, limits, on_text=on_text)


def _send_text(request: ModelRequest, piece: str, *, is_thought: bool) -> None:
    """Pass a piece of text on; raises the reason if the request has ended."""
    if ended := request.find_end():
        raise ended
    if request.on_text:
        request.on_text(piece, is_thought)

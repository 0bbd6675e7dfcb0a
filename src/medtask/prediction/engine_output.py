"""The output of an engine for one prompt, and the steps that all kinds share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from medtask.engines.base import Engine
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Prompt, Scores, Status
from medtask.tasks.task import ScoredField

OutputT = TypeVar("OutputT", Scores | Fault, Generated | Fault)
_PROTOCOL_FIX = "report this: an engine must give exactly one result per prompt"


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The output of an engine for one prompt.

    Attributes:
        prompt: The prompt as asked last, with thoughts and branches.
        scores: The scores of the prompt's branches.
        text: The generated text.
        last_section: The last section of the generated text.
        finish_reason: Why generation ended (see `Generated`).
        fields: For kind ``fields``, the fields of the prompt's branches.
        notes: Deviations from the task, such as missing thoughts.
        suspicion: Why the text reads like an instruction to the model; None if it does not.
        ms: Time, in milliseconds.
        tokens_read: Tokens that the model processed.
        tokens_reused: Tokens taken from a cache.
    """

    prompt: Prompt
    scores: Scores | None = None
    text: str | None = None
    last_section: str | None = None
    finish_reason: str = "stop"
    fields: tuple[ScoredField, ...] = ()
    notes: tuple[str, ...] = ()
    suspicion: str | None = None
    ms: float = 0.0
    tokens_read: int = 0
    tokens_reused: int = 0

    def add_output(self, result: Scores | Generated) -> EngineOutput:
        """A copy with one more result of the engine; costs are summed."""
        return replace(
            self,
            scores=result if isinstance(result, Scores) else self.scores,
            ms=self.ms + result.ms,
            tokens_read=self.tokens_read + result.tokens_read,
            tokens_reused=self.tokens_reused + result.tokens_reused,
        )

    def add_note(self, text: str) -> EngineOutput:
        """A copy with one more note."""
        return replace(self, notes=(*self.notes, text))


def list_prompts(outputs: dict[str, EngineOutput]) -> list[Prompt]:
    """The prompts of the outputs, in order."""
    return [output.prompt for output in outputs.values()]


def score_prompts(
    engine: Engine, outputs: dict[str, EngineOutput]
) -> Iterator[EngineOutput | Fault]:
    """Score the outputs' prompts; those too long with thoughts are scored without them."""
    retried: dict[str, EngineOutput] = {}
    for result in require_one_each(engine.score(list_prompts(outputs)), list_prompts(outputs)):
        before = outputs[result.record_id]
        if (
            isinstance(result, Fault)
            and result.status is Status.TOO_LONG
            and before.prompt.thoughts is not None
        ):
            retried[result.record_id] = replace(
                before, prompt=replace(before.prompt, thoughts=None)
            ).add_note(f"answered without its thoughts: {result.reason}")
        else:
            yield result if isinstance(result, Fault) else before.add_output(result)
    if retried:
        yield from score_prompts(engine, retried)


def require_one_each(
    results: Iterator[OutputT], prompts: Sequence[Prompt], cached: Collection[str] = ()
) -> Iterator[OutputT]:
    """Yield the results of uncached prompts. Raises EngineError unless each has exactly one."""
    missing = {prompt.record_id for prompt in prompts} - set(cached)
    for result in results:
        if result.record_id in missing:
            missing.remove(result.record_id)
            yield result
        elif result.record_id not in cached:
            raise EngineError(
                "the engine answered a record that it was not asked, or one record twice",
                fix=_PROTOCOL_FIX,
            )
    if missing:
        raise EngineError(
            f"the engine returned nothing for {len(missing)} of {len(prompts)} records",
            fix=_PROTOCOL_FIX,
        )

"""A fake engine that records its prompts, and the answers that it gives to some texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from medtask.engines.fake import FakeEngine
from medtask.prediction.asking import ask_prompts
from medtask.prediction.deciding import decide_answer
from medtask.records import Answer, Branch, Fault, Generated, Limits, Message, Prompt, Scores
from medtask.tasks.task import Fields, ScoredField, Task

SCHEMA = {
    "type": "object",
    "properties": {"side": {"enum": ["left", "right"]}, "size": {"type": "number"}},
}
FIELDS = Task(
    "registry",
    "Fill in.",
    "{{ text }}",
    Fields(SCHEMA, (ScoredField(("side",), ("left", "right")),)),
)


class RecordingEngine(FakeEngine):
    """Records the prompts that it scores and generates for.

    ``finish_reasons`` replaces the finish reason of some records, or the text by a fault.
    """

    def __init__(self, finish_reasons: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.scored: list[list[Prompt]] = []
        self.generated: list[tuple[list[Prompt], Limits]] = []
        self.finish_reasons = finish_reasons or {}

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.scored.append(list(batch))
        return super().score_batch(batch)

    def generate(
        self, prompts: Sequence[Prompt], limits: Limits, *args: Any, **options: Any
    ) -> Iterator[Generated | Fault]:
        self.generated.append((list(prompts), limits))
        for result in super().generate(prompts, limits, *args, **options):
            reason = self.finish_reasons.get(result.record_id)
            if isinstance(reason, Fault):
                yield reason
            elif reason and isinstance(result, Generated):
                yield Generated(result.record_id, result.text, reason)
            else:
                yield result


def make_text_prompts(task: Task, *texts: str) -> list[Prompt]:
    """Prompts ``r0``, ``r1``, ... of these texts, with a branch over the task's labels."""
    names = tuple(label.name for label in task.labels)
    branches = (Branch("", names),) if names else ()
    return [
        Prompt(f"r{index}", (Message("user", text),), branches, text)
        for index, text in enumerate(texts)
    ]


def answer_texts(task: Task, engine: FakeEngine, *texts: str) -> dict[str, Answer]:
    """The engine's answers to the prompts of `make_text_prompts`, by record id."""
    outputs = list(ask_prompts(task, engine, make_text_prompts(task, *texts)))
    ids = [one.record_id if isinstance(one, Fault) else one.prompt.record_id for one in outputs]
    return {
        record_id: decide_answer(task, record_id, output)
        for record_id, output in zip(ids, outputs, strict=True)
    }

"""A model that writes what is tried next: any engine that can write, asked one thing at a time."""

from __future__ import annotations

from medtask.engines.base import Engine
from medtask.errors import EngineError, MedtaskError, UsageError
from medtask.records import Fault, Limits, Message, Prompt
from medtask.tasks.task import Task
from medtask.training.search.search_budget import SearchBudget, SearchStopped

_MAX_NEW_TOKENS = 700  # for an instruction of four paragraphs, or the definitions of twenty labels
_TEMPERATURE = 0.9  # the same question is asked many times, and a new answer is wanted each time


class Proposer:
    """Writes; repeatable, as every question is drawn from a seed of its own. ``call_count`` counts
    them.
    """

    def __init__(self, engine: Engine, budget: SearchBudget, *, seed: int = 0) -> None:
        self.engine, self.clock, self.seed = engine, budget, seed
        self.call_count = 0

    def generate_text(self, prompt_text: str) -> str:
        """What the model says to a user's turn. Halt where there is no time left, and where the
        model cannot be asked any more: libraries would count that as one more bad proposal, and go
        on asking.
        """
        self.clock.check_time_left()
        self.call_count += 1
        prompt = Prompt(
            f"proposal {self.call_count}", (Message("user", prompt_text),), (), prompt_text
        )
        room = (self.engine.context_tokens or 4 * _MAX_NEW_TOKENS) // 2
        limits = Limits(
            min(_MAX_NEW_TOKENS, room),
            temperature=_TEMPERATURE,
            top_p=0.95,
            seed=self.seed + self.call_count,
        )
        try:
            output = next(iter(self.engine.generate([prompt], limits)))
        except MedtaskError as error:
            raise SearchStopped(f"{self.engine.info.title} writes no more: {error}") from error
        return "" if isinstance(output, Fault) else output.text


def check_proposer(task: Task, engine: Engine) -> None:
    """EngineError where the engine cannot write; UsageError where it may not read the rows: it is
    shown some of them.
    """
    if task.phi and engine.info.remote:
        fix = (
            "choose a --proposer on this machine, or take `phi: true` out if the table holds "
            "no patient's data"
        )
        raise UsageError(
            f"the task says `phi: true`, and {engine.info.title} is not on this machine", fix=fix
        )
    if not engine.caps.generate:
        fix = "name a model that can with --proposer, or search for examples alone: --what examples"
        raise EngineError(f"{engine.info.title} cannot write instructions", fix=fix)

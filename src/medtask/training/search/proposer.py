"""A model that writes new instructions: any engine that generates text."""

from __future__ import annotations

from medtask.engines.base import Engine
from medtask.errors import EngineError, MedtaskError, UsageError
from medtask.records import Fault, Limits, Message, Prompt
from medtask.tasks.task import Task
from medtask.training.search.search_budget import SearchBudget, SearchStopped

# enough for an instruction of four paragraphs, or the definitions of twenty labels
_MAX_NEW_TOKENS = 700
_TEMPERATURE = 0.9  # not 0, because the same prompt is sent many times and needs different answers


class Proposer:
    """Generates text reproducibly; every call has a separate seed, counted by ``call_count``."""

    def __init__(self, engine: Engine, budget: SearchBudget, *, seed: int = 0) -> None:
        self.engine, self.budget, self.seed = engine, budget, seed
        self.call_count = 0

    def generate_text(self, prompt_text: str) -> str:
        """The model's answer to a user turn.

        Raises:
            SearchStopped: No time is left, or the model fails. Libraries would count an ordinary
                exception as a bad proposal and continue.
        """
        self.budget.check_time_left()
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
            raise SearchStopped(f"{self.engine.info.title} failed: {error}") from error
        return "" if isinstance(output, Fault) else output.text


def check_proposer(task: Task, engine: Engine) -> None:
    """Raise EngineError if the engine cannot generate text, and UsageError if it may not receive
    rows.

    Proposers receive some rows of the table.
    """
    if task.phi and engine.info.remote:
        fix = (
            "choose a --proposer on this machine, or remove `phi: true` if the table has no "
            "patients' data"
        )
        raise UsageError(
            f"the task says `phi: true`, and {engine.info.title} is not on this machine", fix=fix
        )
    if not engine.caps.generate:
        fix = "name a model that can with --proposer, or search for examples alone: --what examples"
        raise EngineError(f"{engine.info.title} cannot write instructions", fix=fix)

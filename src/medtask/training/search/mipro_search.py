"""Search for instructions and examples together by DSPy's MIPROv2.

Opsahl-Ong et al. 2024, "Optimizing Instructions and Demonstrations for Multi-Stage Language Model
Programs" (arXiv 2406.11695). DSPy calls no model itself: candidates are answered by the evaluator
with the prompts of a run, and its language model is a medtask engine. Its caches, which store
prompts as pickles, are disabled, and litellm is not imported.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from medtask.errors import MissingExtra
from medtask.tasks.task import Example
from medtask.training.search.candidate_evaluator import CandidateEvaluator
from medtask.training.search.prompt_candidate import (
    PromptCandidate,
    check_examples_allowed,
    clean_instruction,
    make_example,
)
from medtask.training.search.proposer import Proposer
from medtask.training.search.search_budget import SearchStopped
from medtask.training.training_data import TrainingExample

_EXAMPLES_PER_SET = 4
_TRIAL_RANGE = (6, 40)  # minimum and maximum number of trials
_MAX_TRAINING_ROWS = 60  # training rows that are used for summaries and as possible examples


def check_dspy() -> None:
    """Raise MissingExtra if dspy, or optuna, which it uses, is not installed."""
    if not (find_spec("dspy") and find_spec("optuna")):
        raise MissingExtra(
            "DSPy, which MIPROv2 is part of, is not installed", fix="pip install 'medtask[dspy]'"
        )


def search_mipro(evaluator: CandidateEvaluator, proposer: Proposer, *, seed: int = 0) -> None:
    """Search for a better instruction and examples; the evaluator keeps the best.

    The number of trials depends on the remaining time.

    Raises:
        MissingExtra: dspy is not installed.
        SearchStopped: The time is used up, or the proposer's output is not valid.
    """
    check_dspy()
    check_examples_allowed(evaluator.task)
    import dspy

    shown, train = _choose_examples(evaluator)
    room = int(
        0.8
        * evaluator.budget.remaining_s()
        / max(1e-9, len(evaluator.validation) * evaluator.seconds_per_row)
    )
    trials = max(_TRIAL_RANGE[0], min(_TRIAL_RANGE[1], room))
    rows = [
        _build_dspy_example(dspy, row, index)
        for index, row in enumerate([*train, *evaluator.validation])
    ]
    with _silence_dspy(dspy), dspy.context(disable_history=True, adapter=dspy.ChatAdapter()):
        model = dspy.LM(
            "medtask/proposer", engine=_make_engine(dspy, proposer), cache=False, num_retries=0
        )
        optimizer = dspy.MIPROv2(
            metric=lambda example, prediction, trace=None: prediction.score,
            prompt_model=model,
            task_model=model,
            auto=None,
            num_candidates=max(4, min(10, trials // 2)),
            num_threads=1,
            max_bootstrapped_demos=min(_EXAMPLES_PER_SET, len(train)),
            max_labeled_demos=min(_EXAMPLES_PER_SET, len(train)),
            max_errors=1,
            # a training row becomes an example if it is answered correctly
            metric_threshold=0.999,
            seed=seed,
        )
        program = _make_program(dspy, evaluator, shown, train)
        split = {"trainset": rows[: len(train)], "valset": rows[len(train) :]}
        try:
            # The program's source would describe these classes instead of the task.
            optimizer.compile(
                program, **split, num_trials=trials, minibatch=False, program_aware_proposer=False
            )
        except Exception as error:
            raise SearchStopped(
                f"MIPROv2 failed ({type(error).__name__}): the proposer's output may not have the "
                "format that it requires"
            ) from error


def _choose_examples(evaluator: CandidateEvaluator) -> tuple[list[Example], list[TrainingExample]]:
    """Training rows that can be examples, and their examples."""
    found = [
        (example, row)
        for row in evaluator.train
        if (example := make_example(evaluator.task, row.record)) is not None
    ]
    return [example for example, _ in found[:_MAX_TRAINING_ROWS]], [
        row for _, row in found[:_MAX_TRAINING_ROWS]
    ]


def _build_dspy_example(dspy: Any, row: TrainingExample, index: int) -> Any:
    """A row as a DSPy example; its field ``row`` is ``index``."""
    gold = row.record.gold
    answer = "; ".join(gold) if isinstance(gold, tuple) else str(gold)
    return dspy.Example(text=row.prompt.text, row=str(index), answer=answer).with_inputs(
        "text", "row"
    )


def _make_program(
    dspy: Any,
    evaluator: CandidateEvaluator,
    examples_pool: Sequence[Example],
    train: Sequence[TrainingExample],
) -> Any:
    """A program of one step that is answered by the evaluator.

    Its classes use closures, because DSPy deep-copies programs and would also copy the engine.
    """
    indices = {str(len(train) + index): index for index in range(len(evaluator.validation))}
    start = evaluator.best

    def to_candidate(instruction: str, demos: Sequence[Any]) -> PromptCandidate:
        examples = tuple(dict.fromkeys(int(demo["row"]) for demo in demos))
        words = clean_instruction(instruction) or start.instruction
        return replace(
            start,
            instruction=words,
            examples=tuple(examples_pool[index] for index in examples)
            if examples
            else start.examples,
        )

    def answer(candidate: PromptCandidate, row: str) -> Any:
        if row in indices:
            # All validation rows are answered at once and cached, so that they share prefixes.
            evaluation = evaluator.evaluate(
                candidate, evaluator.validation, "instruction and examples"
            )
            index = indices[row]
        else:
            evaluation, index = evaluator.evaluate(candidate, [train[int(row)]]), 0
        return dspy.Prediction(
            answer=str(evaluation.answers[index].value), score=evaluation.scores[index]
        )

    class _CandidatePredict(dspy.Predict):
        def forward(self, **inputs: Any) -> Any:
            output = answer(to_candidate(self.signature.instructions, self.demos), inputs["row"])
            if dspy.settings.trace is not None:
                dspy.settings.trace.append((self, {**inputs}, output))
            return output

    class _CandidateProgram(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = _CandidatePredict(dspy.Signature("text -> answer", start.instruction))

        def forward(self, text: str, row: str) -> Any:
            return self.ask(text=text, row=row)

    return _CandidateProgram()


def _make_engine(dspy: Any, proposer: Proposer) -> Any:
    """The proposer as DSPy's language model."""
    from dspy.lm15 import Message, Response, TextPart, Usage, response_to_events

    class _ProposerEngine:
        def complete(self, request: Any) -> Any:
            system = request.system
            turns = (
                []
                if system is None
                else [system if isinstance(system, str) else "".join(part.text for part in system)]
            )
            turns += [message.text or "" for message in request.messages]
            output = proposer.generate_text("\n\n".join(turns))
            usage = Usage(input_tokens=0, output_tokens=0, total_tokens=0)
            message = Message.assistant([TextPart(output or "nothing")])
            return Response(
                id=None, model="medtask", message=message, finish_reason="stop", usage=usage
            )

        def stream(self, request: Any) -> Any:
            return response_to_events(self.complete(request))

        def close(self) -> None: ...

    return _ProposerEngine()


@contextmanager
def _silence_dspy(dspy: Any) -> Iterator[None]:
    """Suppress DSPy's output and logs, which quote rows, and disable its caches."""
    from dspy.teleprompt import bootstrap

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    logger = logging.getLogger("dspy")
    level, bars = logger.level, bootstrap.tqdm
    logger.setLevel(logging.CRITICAL + 1)
    # There is no setting to hide its progress bars.
    bootstrap.tqdm = SimpleNamespace(tqdm=lambda rows: rows)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        bootstrap.tqdm = bars

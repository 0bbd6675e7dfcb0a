"""Search for instructions and definitions by GEPA, where a model reflects on answers.

Agrawal et al. 2025, "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning"
(arXiv 2507.19457), by its authors' library. Its run folder is not used, because it would contain
rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medtask.errors import MissingExtra
from medtask.records import comparable_value
from medtask.training.search.candidate_evaluator import CandidateEvaluation, CandidateEvaluator
from medtask.training.search.prompt_candidate import (
    PromptCandidate,
    clean_instruction,
    read_definitions,
    write_definitions,
)
from medtask.training.search.proposer import Proposer
from medtask.training.training_data import TrainingExample

if TYPE_CHECKING:
    from gepa.core.adapter import EvaluationBatch

PATIENCE = 40  # proposals without a gain that end the search
_REFLECTION_ROWS = 8  # enough mistakes to learn from, and few enough for a small context
_CHARACTERS = 600  # maximum characters of a row's text in a reflection

_INSTRUCTION = """\
A model is given this instruction, and then a text, which it has to answer as the instruction says:
```
<curr_param>
```
These are some of the texts, what it answered, and what is right:

<side_info>

Find out what it misunderstands. Then write a better instruction: say what matters, how to \
decide where answers \
are easily taken for one \
another, and what does not count. \
Speak of texts in general and repeat none of them. Use no more than 150 words.
Write the new instruction between ``` and ```, and nothing else."""

_DEFINITIONS = """\
A model chooses from labels that are defined like this, one a line:
```
<curr_param>
```
These are some texts, what it answered, and what is right:

<side_info>

Find out which labels it takes for one another. Then write better definitions: what belongs to \
a label, and \
what belongs elsewhere, in one \
short line each. \
Speak of texts in general and repeat none of them. Keep every label's name letter by letter.
Write all lines between ``` and ```, as `name: definition`, and nothing else."""


def search_with_gepa(evaluator: CandidateEvaluator, proposer: Proposer, *, seed: int = 0) -> None:
    """Search for a better instruction and, if the task has labels, better definitions.

    The evaluator keeps the best.

    Raises:
        MissingExtra: gepa is not installed.
        SearchStopped: The proposer fails, or the time is used up.
    """
    try:
        from gepa.api import optimize
    except ImportError as error:
        raise MissingExtra("gepa is not installed", fix="pip install 'medtask[tune]'") from error
    start = evaluator.best
    adapter = _GepaAdapter(evaluator, start)
    seed_texts = {"instruction": start.instruction}
    if start.definitions is not None:
        seed_texts["definitions"] = write_definitions(start.definitions)
    run: Any = optimize  # its annotations require classes, but it accepts functions
    run(
        seed_candidate=seed_texts,
        trainset=list(evaluator.train),
        valset=list(evaluator.validation),
        adapter=adapter,
        reflection_lm=proposer.generate_text,
        reflection_prompt_template={"instruction": _INSTRUCTION, "definitions": _DEFINITIONS},
        reflection_minibatch_size=min(_REFLECTION_ROWS, len(evaluator.train)),
        stop_callbacks=adapter.should_stop,
        logger=_NullLogger(),
        track_best_outputs=False,
        seed=seed,
    )


class _NullLogger:
    """Discards GEPA's messages, because proposals may repeat texts of rows."""

    def log(self, message: str) -> None: ...


@dataclass
class _GepaAdapter:
    """GEPA's interface to a system: evaluates candidates, and selects rows for reflection."""

    evaluator: CandidateEvaluator
    base_candidate: PromptCandidate
    propose_new_texts: None = None
    _best_value: float = -1.0
    _best_iteration: int = 0

    def evaluate(
        self, batch: list[TrainingExample], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        from gepa.core.adapter import EvaluationBatch

        # GEPA fills short batches with repeated rows.
        rows = list({row.record.id: row for row in batch}.values())
        evaluation = self.evaluator.evaluate(self.to_candidate(candidate), rows, "instruction")
        formatted_answers = _format_answers(self.evaluator, evaluation)
        traces_by_id = {
            trace.row.record.id: trace
            for trace in map(_Trajectory, rows, evaluation.scores, formatted_answers)
        }
        traces = [traces_by_id[row.record.id] for row in batch]
        return EvaluationBatch(
            outputs=[None] * len(batch),
            scores=[trace.score for trace in traces],
            trajectories=traces,
        )

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],
        eval_batch: EvaluationBatch[Any, Any],
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        rows = [
            {
                "Text": _cut(trace.row.prompt.text),
                "Answered": trace.answered,
                "Right": _write(trace.row.record.gold),
                "Score": f"{trace.score:.2f}",
            }
            for trace in eval_batch.trajectories or ()
        ]
        return dict.fromkeys(components_to_update, rows)

    def to_candidate(self, texts: Mapping[str, str]) -> PromptCandidate:
        """The candidate of GEPA's texts; texts that are not valid in a task file are ignored."""
        found = replace(
            self.base_candidate,
            instruction=clean_instruction(texts["instruction"]) or self.base_candidate.instruction,
        )
        if self.base_candidate.definitions is None:
            return found
        return replace(
            found,
            definitions=read_definitions(texts["definitions"], self.base_candidate.definitions),
        )

    def should_stop(self, state: Any) -> bool:
        self.evaluator.signals.raise_if_caught()
        if self.evaluator.value > self._best_value:
            self._best_value, self._best_iteration = self.evaluator.value, state.i
        return (
            self.evaluator.budget.remaining_s() <= 0
            or state.i - self._best_iteration >= PATIENCE
            or self.evaluator.value >= 1.0
        )


@dataclass(frozen=True, slots=True)
class _Trajectory:
    row: TrainingExample
    score: float
    answered: str


def _format_answers(evaluator: CandidateEvaluator, evaluation: CandidateEvaluation) -> list[str]:
    values = [
        comparable_value(answer.status, answer.value, evaluator.task.abstain_name)
        for answer in evaluation.answers
    ]
    return ["no answer" if value is None else _write(value) for value in values]


def _write(value: object) -> str:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, tuple | list):
        return "; ".join(map(str, value)) or "none"
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}…"

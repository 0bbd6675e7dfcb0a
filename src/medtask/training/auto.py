"""Training by several methods within a time budget; the best on the validation rows is kept."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from medtask.atomic_files import make_private_folder, replace_text
from medtask.display import format_duration, format_name, format_path
from medtask.engines.files.model_files import MINILM
from medtask.engines.hybrid import MEMBERS_FOLDER, read_members, save_hybrid
from medtask.engines.model_metadata import (
    METADATA_FILE,
    ModelMetadata,
    read_model_metadata,
    write_model_metadata,
)
from medtask.engines.registry import choose_engine, load_model
from medtask.errors import InputError, MedtaskError, StorageError
from medtask.hardware import inspect_machine
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.runs.signals import Interrupted, SignalState
from medtask.training.attempts import (
    MODEL_FOLDER,
    Attempt,
    Candidate,
    attempt_to_json,
    describe_attempts,
)
from medtask.training.encoder.frozen import fit_frozen
from medtask.training.model_validation import evaluate_with_thresholds
from medtask.training.recipe import Recipe
from medtask.training.targets import build_label_targets
from medtask.training.training_context import MethodResult, TrainingContext, load_fit_function
from medtask.training.training_data import TrainingData
from medtask.training.training_log import TrainingLog

DEFAULT_BUDGET_S = 600.0
_VECTORS_SHARE = 0.4  # of the budget, for reading the rows once
_BLEND_SHARE = 0.1  # of the budget, for the validation rows with the blend
# Training all weights takes this many times as long in each epoch as reading the rows.
_EPOCH_FACTOR = 3.5
_ENCODER, _LANGUAGE, _BLEND = "encoder", "language", "blend"
_RESULT_FILE, _CHECKPOINT_FOLDER = "result.json", "checkpoints"


class BudgetSignals(SignalState):
    """Asks a method to stop after a signal, and when the time is over."""

    __slots__ = ("_deadline", "_outer")

    def __init__(self, outer: SignalState, deadline: float) -> None:
        self._outer = outer
        self._deadline = deadline

    @property
    def number(self) -> int | None:  # type: ignore[override]
        if self._outer.number is not None:
            return self._outer.number
        return 0 if time.monotonic() > self._deadline else None


@dataclass(slots=True)
class _Search:
    """The state of a training by several methods."""

    data: TrainingData
    recipe: Recipe
    context: TrainingContext
    deadline: float
    attempts: list[Attempt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def remaining_s(self) -> float:
        return self.deadline - time.monotonic()

    def try_candidate(self, candidate: Candidate) -> None:
        """Train and evaluate a candidate, or note why not. Raises Interrupted after a signal."""
        self.context.signals.raise_if_caught()
        started = time.monotonic()
        if self.attempts and (reason := self._find_time_problem(candidate)):
            self.notes.append(f"{candidate.name} was not tried: {reason}")
            return
        folder = self.context.work_folder / candidate.name
        try:
            result = self._train(candidate, folder)
        except Interrupted:
            self.context.signals.raise_if_caught()
            self.notes.append(f"{candidate.name} was not tried: the time budget is used up")
            return
        except MedtaskError as error:
            self.notes.append(f"{candidate.name} was not tried: {error}")
            return
        self.context.signals.raise_if_caught()
        run_folder = self.context.work_folder / "runs" / candidate.name
        make_private_folder(run_folder.parent)
        with closing(load_model(str(folder / MODEL_FOLDER))) as engine:
            evaluation, _ = evaluate_with_thresholds(
                engine, run_folder, self.data, result.thresholds
            )
        seconds = time.monotonic() - started
        attempt = Attempt(candidate, folder, result, evaluation, run_folder, seconds)
        self.attempts.append(attempt)

    def _find_time_problem(self, candidate: Candidate) -> str:
        """Why there is not enough time for a candidate; "" if there is."""
        if candidate.name == _BLEND:
            return ""
        if self.remaining_s <= 0:
            return "the time budget is used up (--budget)"
        if candidate.name != _ENCODER:
            return ""
        vectors = [one for one in self.attempts if "reading_s" in one.result.facts]
        if not vectors:
            return "it reads the same rows as vectors"
        recipe = candidate.recipe
        epochs = recipe.count_epochs(math.ceil(len(self.data.train) / recipe.batch))
        facts: Mapping[str, Any] = vectors[0].result.facts
        needed_s = _EPOCH_FACTOR * epochs * facts["reading_s"]
        if needed_s <= self.remaining_s:
            return ""
        return (
            f"it takes about {format_duration(needed_s)}, and {format_duration(self.remaining_s)} "
            "of the time budget are left (--budget)"
        )

    def _train(self, candidate: Candidate, folder: Path) -> MethodResult:
        """Train a candidate, or read the result of an earlier session."""
        if (finished := _read_result(folder)) is not None:
            return finished
        self.context.observer.on_note(f"trying {candidate.name}: {candidate.description}")
        context = self._make_context(candidate, folder)
        fit = candidate.fit or load_fit_function(candidate.recipe)
        result = fit([self.data], candidate.recipe, context)
        self.context.signals.raise_if_caught()
        if result.interrupted:
            self.notes.append(f"{candidate.name} was stopped by the time budget")
        write_model_metadata(context.draft_folder, result.trained_model)
        _write_result(folder, result)
        return result

    def _make_context(self, candidate: Candidate, folder: Path) -> TrainingContext:
        from medtask.training.checkpoints import find_resume_step

        model, work = folder / MODEL_FOLDER, folder / _CHECKPOINT_FOLDER
        shutil.rmtree(model, ignore_errors=True)
        for path in (folder, model, work):
            make_private_folder(path)
        observer = self.context.observer
        log = TrainingLog(folder / "loss.csv", observer, find_resume_step(work))
        # A blend only reads the validation rows, for which a part of the budget is kept.
        deadline = math.inf if candidate.name == _BLEND else self.deadline
        signals = BudgetSignals(self.context.signals, deadline)
        return TrainingContext(model, work, log, observer, signals)


def fit_auto(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train by several methods, and save the model that is best on the validation rows.

    Candidates: a linear model on words and letters, a linear head on the vectors of MiniLM, MiniLM
    trained as a whole, the language model in ``recipe.bases`` if there is a GPU, and the weighted
    mean of their probabilities. ``recipe.budget`` limits the time. After a signal, the best
    candidate so far is kept.

    Raises:
        UsageError, InputError: See `build_label_targets`, or there are no validation rows.
        Interrupted: A signal was received before the first candidate was trained.
    """
    build_label_targets(training_data, "auto")
    (data,) = training_data
    if not data.validation:
        raise InputError(
            "--method auto chooses by validation rows, and there are none",
            fix="give more rows with gold, or choose --method linear",
        )
    if data.task.tuning_rows is not None:
        # They can be all validation rows; that they chose the words is the same for all candidates.
        data = replace(data, task=replace(data.task, tuning_rows=None))
    budget_s = DEFAULT_BUDGET_S if recipe.budget is None else recipe.budget
    deadline = time.monotonic() + (1 - _BLEND_SHARE) * budget_s
    search = _Search(data, recipe, context, deadline)
    interrupted = False
    candidates = _list_candidates(recipe, budget_s)
    if recipe.bases and _LANGUAGE not in [one.name for one in candidates]:
        search.notes.append(
            f"{format_name(recipe.base)} was not tried: that needs a CUDA GPU and a model that can "
            "be trained (--method rslora trains it without one)"
        )
    try:
        for candidate in candidates:
            search.try_candidate(candidate)
        if len(search.attempts) > 1:
            search.try_candidate(_make_blend(recipe, search.attempts))
    except Interrupted:
        interrupted = True
        if not search.attempts:
            raise
    if not search.attempts:
        raise InputError("; ".join(search.notes), fix="choose --method linear")
    chosen = _choose(search.attempts)
    notes = (*describe_attempts(search.attempts, chosen, data), *search.notes)
    for note in notes:
        context.observer.on_note(note)
    trained = _copy_model(chosen, context.draft_folder)
    facts = {
        **chosen.result.facts,
        "chosen": chosen.candidate.name,
        "candidates": [attempt_to_json(one) for one in search.attempts],
    }
    return MethodResult(
        trained, interrupted, (*notes, *chosen.result.notes), facts, chosen.result.thresholds
    )


def _list_candidates(recipe: Recipe, budget_s: float) -> list[Candidate]:
    def use(method: str, *bases: str) -> Recipe:
        return replace(recipe, method=method, bases=bases)  # type: ignore[arg-type]

    frozen = partial(fit_frozen, time_limit_s=_VECTORS_SHARE * budget_s)
    candidates = [
        Candidate("linear", "TF-IDF and logistic regression", use("linear")),
        Candidate(
            "vectors", "logistic regression on MiniLM vectors", use("encoder", MINILM), frozen
        ),
        Candidate(_ENCODER, "MiniLM trained as a whole", use("encoder", MINILM)),
    ]
    if recipe.bases and inspect_machine().accelerator == "cuda":
        name = recipe.base
        if choose_engine(name).spec.traits.trainable:
            candidates.append(Candidate(_LANGUAGE, f"rslora on {name}", use("rslora", name)))
    return candidates


def _make_blend(recipe: Recipe, attempts: Sequence[Attempt]) -> Candidate:
    bases = tuple(str(one.model_folder) for one in attempts)
    names = " and ".join(one.candidate.name for one in attempts)
    blend_recipe = replace(recipe, method="hybrid", bases=bases)
    return Candidate(_BLEND, f"weighted mean of {names}", blend_recipe)


def _choose(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt with the highest headline metric; of equal ones, the first.

    The weights of the blend were fitted on the same rows. It is chosen only if its log loss on rows
    that its weights were not fitted on is lower than that of each member.
    """

    def is_eligible(attempt: Attempt) -> bool:
        facts: Mapping[str, Any] = attempt.result.facts
        if attempt.candidate.name != _BLEND:
            return True
        held_out = facts["held_out_loss"]
        return held_out is not None and held_out < min(facts["validation_losses"])

    def get_score(attempt: Attempt) -> float:
        return attempt.score.value if attempt.score else 0.0

    return max(filter(is_eligible, attempts), key=get_score)


def _copy_model(chosen: Attempt, draft: Path) -> ModelMetadata:
    """Copy the model into the draft folder, with the members of a blend in subfolders."""
    folder = chosen.model_folder
    metadata = read_model_metadata(folder)
    if chosen.candidate.name != _BLEND:
        ignore: Callable[..., Any] = shutil.ignore_patterns(METADATA_FILE)
        shutil.copytree(folder, draft, dirs_exist_ok=True, ignore=ignore)
        return chosen.result.trained_model
    members = []
    for member in read_members(folder, metadata):
        source = Path(member.reference)
        reference = f"{MEMBERS_FOLDER}/{source.parent.name}"
        shutil.copytree(source, draft / reference)
        members.append(replace(member, reference=reference))
    base = ", ".join(member.reference for member in members)
    return save_hybrid(draft, members, replace(chosen.result.trained_model, base=base))


class _ResultFile(JsonContent):
    notes: list[str]
    facts: dict[str, Any]
    thresholds: dict[str, float]


def _read_result(folder: Path) -> MethodResult | None:
    """The result of a candidate that was trained in an earlier session."""
    path = folder / _RESULT_FILE
    if not path.is_file():
        return None
    try:
        found = load_checked(path, _ResultFile)
    except InvalidJsonFile as error:
        raise StorageError(
            f"{format_path(path)} cannot be read: {error}",
            fix=f"remove {format_path(folder)}: this candidate is then trained again",
        ) from None
    return MethodResult(
        read_model_metadata(folder / MODEL_FOLDER),
        notes=tuple(found.notes),
        facts=found.facts,
        thresholds=found.thresholds,
    )


def _write_result(folder: Path, result: MethodResult) -> None:
    content = {
        "notes": list(result.notes),
        "facts": dict(result.facts),
        "thresholds": dict(result.thresholds),
    }
    replace_text(folder / _RESULT_FILE, json.dumps(content, default=str) + "\n")

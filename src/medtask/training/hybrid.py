"""Training a hybrid: how much weight each of several models gets, by what they say of the
validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtask.display import format_name
from medtask.engines.base import Engine
from medtask.engines.hybrid import (
    HybridMember,
    get_member_identity,
    normalise_member_reference,
    save_hybrid,
)
from medtask.engines.model_metadata import ModelMetadata
from medtask.engines.registry import load_model
from medtask.errors import EngineError, InputError, StorageError, UsageError
from medtask.prediction.asking import ask_prompts, check_engine
from medtask.prediction.deciding import to_probabilities
from medtask.prediction.engine_output import EngineOutput
from medtask.prediction.probabilities import OutcomeProbabilities
from medtask.records import Prompt, Scores, Value
from medtask.tasks.task import MultiLabel, MultipleChoice, SingleLabel, Task
from medtask.training.recipe import Recipe
from medtask.training.training_context import MethodResult, TrainingContext
from medtask.training.training_data import TrainingData, TrainingExample, determine_phi
from medtask.training.training_log import TrainingPoint
from medtask.training.training_manifest import has_same_split, read_training_manifest
from medtask.training.validation_metrics import MIN_PROBABILITY

# a model with less weight is left out: what it says changes nothing that anybody would see
MIN_WEIGHT = 0.005
FOLDS = 5
MAX_ITERATIONS = 20_000
CONVERGENCE_TOLERANCE = 1e-9  # weights that move by less have come to rest


def fit_hybrid(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Weigh the models that ``recipe.bases`` names, each asked the validation rows once, and save
    the hybrid in the draft.

    The weights are those with the lowest mean log loss of the weighted probabilities. UsageError
    for fewer than two models, several tasks, or a kind whose answers are written; EngineError for a
    model that tells no exact probabilities; InputError where there are no validation rows that all
    of them can answer. What loading a model raises comes as it is.
    """
    task, examples = _check_inputs(training_data, recipe)
    members, predictions = _predict_with_members(task, examples, recipe, context)
    gold_probabilities = _collect_gold_probabilities(task, examples, predictions)
    weights = fit_weights(gold_probabilities.probabilities)
    kept = [index for index, weight in enumerate(weights) if weight >= MIN_WEIGHT]
    if len(kept) < len(members):
        weights = np.zeros(len(members))
        weights[kept] = fit_weights(gold_probabilities.probabilities[:, kept])
    weighted_members = [replace(members[index], weight=float(weights[index])) for index in kept]
    notes = (
        *_list_notes(members, weights, gold_probabilities, len(examples)),
        *_list_leakage_notes(weighted_members, training_data[0]),
    )
    trained = save_hybrid(
        context.draft_folder, weighted_members, _describe_model(task, weighted_members)
    )
    facts = {
        "members": [member.reference for member in members],
        "weights": [round(weight, 4) for weight in weights.tolist()],
        "validation_losses": [
            round(loss, 4) for loss in _compute_log_loss(gold_probabilities.probabilities).tolist()
        ],
        "validation_loss": round(
            float(_compute_log_loss(gold_probabilities.probabilities @ weights[:, None])[0]), 4
        ),
        "rows": len(set(gold_probabilities.rows.tolist())),
    }
    return MethodResult(trained, notes=notes, facts=facts)


def _predict_with_members(
    task: Task, examples: Sequence[TrainingExample], recipe: Recipe, context: TrainingContext
) -> tuple[list[HybridMember], list[dict[int, OutcomeProbabilities]]]:
    """Each member, and what it says of the rows; one after the other, since together they may not
    fit into memory.
    """
    members, predictions = [], []
    references = list(dict.fromkeys(map(normalise_member_reference, recipe.bases)))
    context.observer.on_start(len(references), 0)
    for turn, reference in enumerate(references, 1):
        context.observer.on_load(reference)
        engine = load_model(reference)
        try:
            check_engine(task, engine)
            _check_member(engine, reference)
            predictions.append(_predict_examples(task, engine, examples))
            members.append(HybridMember(reference, get_member_identity(engine, reference), 0.0))
        finally:
            engine.close()
        loss, score = _compute_loss_and_score(task, examples, predictions[-1])
        context.log.add(
            TrainingPoint(
                turn, len(references), turn / len(references), validation_loss=loss, score=score
            )
        )
        context.signals.raise_if_caught()
    return members, predictions


def fit_weights(gold_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights, at least 0 and of sum 1, with the lowest mean of ``-log(given @ weights)``;
    ``gold_probabilities``: [observations, models], each the probability that a model gave to what
    was true.

    By expectation maximisation, as Smyth and Wolpert weigh density estimators ("Linearly combining
    density estimators via stacking", Machine Learning 36, 1999): the loss is convex in the weights,
    every round lowers it, the weights stay what they must be without constraints, and there is no
    rate to choose.
    """
    gold_probabilities = np.maximum(gold_probabilities, MIN_PROBABILITY)
    weights = np.full(gold_probabilities.shape[1], 1 / gold_probabilities.shape[1])
    for _ in range(MAX_ITERATIONS):
        search_data = gold_probabilities * weights
        better = (search_data / search_data.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(better - weights).max())
        weights = better
        if moved < CONVERGENCE_TOLERANCE:
            break
    fitted: NDArray[np.float64] = weights / weights.sum()
    return fitted


@dataclass(frozen=True, slots=True)
class _GoldProbabilities:
    """``probabilities`` [observations, models]: the probability that each model gave to what
    was true: one observation a row, of several labels one for each. ``rows``: which row each is
    of.
    """

    probabilities: NDArray[np.float64]
    rows: NDArray[np.int64]


def _check_inputs(
    training_data: Sequence[TrainingData], recipe: Recipe
) -> tuple[Task, tuple[TrainingExample, ...]]:
    if len(training_data) != 1:
        raise UsageError(
            f"{len(training_data)} tasks were given, and --method hybrid learns one",
            fix="train a hybrid for each",
        )
    if len(dict.fromkeys(recipe.bases)) < 2:
        raise UsageError(
            "a hybrid is made of two models or more", fix="name each of them with --base"
        )
    task, examples = training_data[0].task, training_data[0].validation
    if (
        not isinstance(task.answer_spec, SingleLabel | MultiLabel | MultipleChoice)
        or task.reasoning is not None
    ):
        what = "is answered behind thoughts" if task.reasoning else f"is a task of kind {task.kind}"
        raise UsageError(
            f"{task.name} {what}, and a hybrid weighs probabilities only",
            fix="train one model: --method lora",
        )
    if isinstance(task.answer_spec, MultipleChoice) and task.answer_spec.readout == "text":
        raise UsageError(
            "a hybrid weighs probabilities, and `readout: text` compares likelihoods",
            fix="set `readout: letter`",
        )
    if not examples:
        raise InputError(
            "a hybrid's weights are fitted on validation rows, and there are none",
            fix="give more rows with gold",
        )
    return task, examples


def _check_member(engine: Engine, reference: str) -> None:
    if engine.caps.score != "exact":
        description = (
            "the likeliest tokens only"
            if engine.caps.score == "first_token"
            else "no probabilities"
        )
        raise EngineError(
            f"{format_name(reference)} tells {description}, which cannot be weighed against others",
            fix=(
                "choose models in this process (hf, llamacpp, encoder, linear) or a vLLM server, "
                "which tell exact probabilities"
            ),
        )


def _predict_examples(
    task: Task, engine: Engine, examples: Sequence[TrainingExample]
) -> dict[int, OutcomeProbabilities]:
    """The probabilities of each row's outcomes, by its place; rows that the model cannot answer are
    left out.
    """
    # Ids may repeat where validation has a table of its own.
    prompts: list[Prompt] = [
        replace(example.prompt, record_id=str(index)) for index, example in enumerate(examples)
    ]
    found = {}
    for output in ask_prompts(task, engine, prompts):
        scores: Scores | None = output.scores if isinstance(output, EngineOutput) else None
        weighed = (
            to_probabilities(task, output.prompt, scores)
            if isinstance(output, EngineOutput) and scores is not None
            else None
        )
        if weighed is not None and scores is not None:
            found[int(scores.record_id)] = weighed.by_outcome
    return found


def _collect_gold_probabilities(
    task: Task,
    examples: Sequence[TrainingExample],
    predictions: Sequence[Mapping[int, OutcomeProbabilities]],
) -> _GoldProbabilities:
    rows = [index for index in range(len(examples)) if all(index in one for one in predictions)]
    if not rows:
        raise InputError(
            f"none of the {len(examples):,} validation rows could be answered by all models",
            fix="ask each model by itself: medtask run",
        )
    columns = [
        [_get_gold_probabilities(task, one[index], examples[index].record.gold) for index in rows]
        for one in predictions
    ]
    counts = [len(given) for given in columns[0]]
    return _GoldProbabilities(
        np.array([np.concatenate(column) for column in columns]).T,
        np.repeat(np.asarray(rows), counts),
    )


def _get_gold_probabilities(
    task: Task, probabilities: OutcomeProbabilities, gold: Value | None
) -> list[float]:
    """The probability of what is true of a row: of its gold, or for each name that it applies or
    does not.
    """
    if not task.several:
        return [probabilities.get(str(gold), 0.0)]
    right = gold if isinstance(gold, tuple) else ()
    return [share if name in right else 1.0 - share for name, share in probabilities.items()]


def _compute_loss_and_score(
    task: Task, examples: Sequence[TrainingExample], predictions: Mapping[int, OutcomeProbabilities]
) -> tuple[float | None, float | None]:
    """Mean loss in nats and share of right decisions over the rows that one model has answered."""
    given = [
        np.asarray(_get_gold_probabilities(task, probabilities, examples[index].record.gold))
        for index, probabilities in predictions.items()
    ]
    if not given:
        return None, None
    each = np.concatenate(given)
    best = [
        max(probabilities, key=probabilities.__getitem__) == examples[index].record.gold
        for index, probabilities in predictions.items()
    ]
    return float(_compute_log_loss(each[:, None])[0]), float(
        np.mean(each >= 0.5 if task.several else best)
    )


def _compute_log_loss(gold_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean log loss of each column."""
    losses: NDArray[np.float64] = -np.log(np.maximum(gold_probabilities, MIN_PROBABILITY)).mean(
        axis=0
    )
    return losses


def _cross_validate_loss(gold_probabilities: _GoldProbabilities) -> float:
    """The mixture's loss on rows that its weights were not fitted on."""
    folds = gold_probabilities.rows % FOLDS
    if len(set(folds.tolist())) < 2:
        return math.inf
    search_data = [
        gold_probabilities.probabilities[folds == fold]
        @ fit_weights(gold_probabilities.probabilities[folds != fold])[:, None]
        for fold in sorted(set(folds.tolist()))
    ]
    return float(_compute_log_loss(np.concatenate(search_data))[0])


def _list_notes(
    members: Sequence[HybridMember],
    weights: NDArray[np.float64],
    gold_probabilities: _GoldProbabilities,
    example_count: int,
) -> tuple[str, ...]:
    names = [format_name(member.reference) for member in members]
    notes = [
        f"{name} was left out: it would get less than {MIN_WEIGHT:.1%} of the weight"
        for name, weight in zip(names, weights, strict=True)
        if weight == 0
    ]
    alone = _compute_log_loss(gold_probabilities.probabilities)
    best, mixed = int(alone.argmin()), _cross_validate_loss(gold_probabilities)
    if not mixed < alone[best]:
        notes.append(
            f"the hybrid does not beat {names[best]} alone on the validation rows (log loss "
            f"{mixed:.3f}, weights fitted on other rows, "
            f"against {alone[best]:.3f}): take that model"
        )
    left = example_count - len(set(gold_probabilities.rows.tolist()))
    if left:
        notes.append(
            f"{left:,} of {example_count:,} validation rows were not used: a model could not "
            "answer them"
        )
    return tuple(notes)


def _list_leakage_notes(members: Sequence[HybridMember], data: TrainingData) -> Iterator[str]:
    """Weights are fair where no model has learnt from the rows that they are fitted on: the models
    that may have.
    """
    for member in members:
        manifest = None
        with suppress(StorageError):  # damaged notes are no reason to throw fitted weights away
            manifest = read_training_manifest(Path(member.reference))
        if manifest and not has_same_split(manifest, data):
            yield (
                f"{format_name(member.reference)} was trained on another table, or on one that was "
                "divided otherwise: if validation rows "
                "were among those that it learnt from, its weight is too high (train all models "
                "with the same table, --share and --seed)"
            )


def _describe_model(task: Task, members: Sequence[HybridMember]) -> ModelMetadata:
    return ModelMetadata(
        "hybrid",
        task.kind,
        tuple(label.name for label in task.labels),
        abstain=task.abstain_name,
        base=", ".join(member.reference for member in members),
        task_fingerprint=task.fingerprint,
        phi=determine_phi(task),
    )

"""Training of a hybrid: weights of several models, fitted on the validation rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
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
from medtask.engines.registry import find_trained_folders, load_model
from medtask.errors import EngineError, InputError, StorageError, UsageError
from medtask.prediction.asking import check_engine
from medtask.prediction.probabilities import OutcomeProbabilities
from medtask.records import PROMPT_VERSION
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.row_fingerprints import read_training_rows
from medtask.tasks.task import Task
from medtask.training.recipe import Recipe
from medtask.training.training_context import MethodResult, TrainingContext
from medtask.training.training_data import TrainingData, TrainingExample, determine_model_phi
from medtask.training.training_log import TrainingPoint
from medtask.training.training_manifest import has_same_split, read_training_manifest
from medtask.training.validation_metrics import (
    MIN_PROBABILITY,
    average_results,
    get_gold_probabilities,
    predict_examples,
    score_row,
)

MIN_WEIGHT = 0.005  # models with a lower weight are left out
FOLDS = 5
MAX_ITERATIONS = 20_000
CONVERGENCE_TOLERANCE = 1e-9  # the iteration stops if no weight changes by more


def fit_hybrid(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Fit the weights of the models in ``recipe.bases``, and save the hybrid in the draft folder.

    Each model answers the validation rows once. The weights minimise the mean log loss of the
    weighted probabilities.

    Raises:
        UsageError: There are fewer than two models, several tasks, or a generated kind.
        EngineError: A model has no exact probabilities.
        InputError: No validation row was answered by all models.
        MedtaskError: A model cannot be loaded.
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
        "held_out_loss": _round_finite(_cross_validate_loss(gold_probabilities)),
        "rows": len(set(gold_probabilities.rows.tolist())),
    }
    return MethodResult(trained, notes=notes, facts=facts)


def _predict_with_members(
    task: Task, examples: Sequence[TrainingExample], recipe: Recipe, context: TrainingContext
) -> tuple[list[HybridMember], list[dict[int, OutcomeProbabilities]]]:
    """Each member and its predictions; one model at a time, since all may not fit into memory."""
    members, predictions = [], []
    references = list(dict.fromkeys(map(normalise_member_reference, recipe.bases)))
    context.observer.on_start(len(references), 0)
    for turn, reference in enumerate(references, 1):
        context.observer.on_load(reference)
        with closing(load_model(reference)) as engine:
            check_engine(task, engine)
            _check_member(engine, reference)
            predictions.append(dict(predict_examples(task, engine, examples)))
            members.append(HybridMember(reference, get_member_identity(engine, reference), 0.0))
        context.log.add(_make_point(task, examples, predictions[-1], turn, len(references)))
        context.signals.raise_if_caught()
    return members, predictions


def _make_point(
    task: Task,
    examples: Sequence[TrainingExample],
    predictions: Mapping[int, OutcomeProbabilities],
    turn: int,
    models: int,
) -> TrainingPoint:
    """Loss and score of one model over the rows that it answered."""
    point = TrainingPoint(turn, models, epoch=0.0)
    if not predictions:
        return point
    result = average_results(
        score_row(task, probabilities, examples[index].record.gold)
        for index, probabilities in predictions.items()
    )
    return replace(point, validation_loss=result.loss, score=result.score)


def fit_weights(gold_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nonnegative weights with sum 1 that minimise the mean of ``-log(probabilities @ weights)``.

    Computed by expectation maximisation, as in Smyth and Wolpert, "Linearly combining density
    estimators via stacking", Machine Learning 36, 1999. The loss is convex in the weights and
    decreases in every iteration; there is no learning rate.

    Args:
        gold_probabilities: The models' probabilities of gold, [observations, models].

    Returns:
        The weights, [models].
    """
    gold_probabilities = np.maximum(gold_probabilities, MIN_PROBABILITY)
    weights = np.full(gold_probabilities.shape[1], 1 / gold_probabilities.shape[1])
    for _ in range(MAX_ITERATIONS):
        joint = gold_probabilities * weights
        better = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(better - weights).max())
        weights = better
        if moved < CONVERGENCE_TOLERANCE:
            break
    fitted: NDArray[np.float64] = weights / weights.sum()
    return fitted


@dataclass(frozen=True, slots=True)
class _GoldProbabilities:
    """Probabilities of gold: one observation per row or, with several labels, per decision.

    Attributes:
        probabilities: [observations, models].
        rows: The row of each observation.
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
        raise UsageError("a hybrid needs two or more models", fix="name each of them with --base")
    task, examples = training_data[0].task, training_data[0].validation
    if task.kind_spec.generated or task.reasoning is not None:
        what = "uses reasoning" if task.reasoning else f"is a task of kind {task.kind}"
        raise UsageError(
            f"{task.name} {what}, and a hybrid combines probabilities only",
            fix="train one model: --method lora",
        )
    if get_task_kind(task).compares_likelihoods:
        raise UsageError(
            "a hybrid combines probabilities, and `readout: text` compares likelihoods",
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
            "the most likely tokens only"
            if engine.caps.score == "first_token"
            else "no probabilities"
        )
        raise EngineError(
            f"{format_name(reference)} reports {description}, which a hybrid cannot combine",
            fix=(
                "choose models in this process (hf, llamacpp, encoder, linear) or a vLLM server, "
                "which report exact probabilities"
            ),
        )
    if (
        engine.info.traits.reads_instructions
        and (engine.info.prompt_version or PROMPT_VERSION) != PROMPT_VERSION
    ):
        raise EngineError(
            f"{format_name(reference)} was trained on the prompts of an earlier version of medtask",
            fix="train that model again",
        )


def _collect_gold_probabilities(
    task: Task,
    examples: Sequence[TrainingExample],
    predictions: Sequence[Mapping[int, OutcomeProbabilities]],
) -> _GoldProbabilities:
    rows = [index for index in range(len(examples)) if all(index in one for one in predictions)]
    if not rows:
        raise InputError(
            f"none of the {len(examples):,} validation rows was answered by all models",
            fix="run each model separately: medtask run",
        )
    columns = [
        [get_gold_probabilities(task, one[index], examples[index].record.gold) for index in rows]
        for one in predictions
    ]
    counts = [len(given) for given in columns[0]]
    return _GoldProbabilities(
        np.array([np.concatenate(column) for column in columns]).T,
        np.repeat(np.asarray(rows), counts),
    )


def _compute_log_loss(gold_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean log loss of each column."""
    losses: NDArray[np.float64] = -np.log(np.maximum(gold_probabilities, MIN_PROBABILITY)).mean(
        axis=0
    )
    return losses


def _cross_validate_loss(gold_probabilities: _GoldProbabilities) -> float:
    """The log loss of the hybrid on rows that its weights were not fitted on."""
    folds = gold_probabilities.rows % FOLDS
    if len(set(folds.tolist())) < 2:
        return math.inf
    held_out = [
        gold_probabilities.probabilities[folds == fold]
        @ fit_weights(gold_probabilities.probabilities[folds != fold])[:, None]
        for fold in sorted(set(folds.tolist()))
    ]
    return float(_compute_log_loss(np.concatenate(held_out))[0])


def _round_finite(loss: float) -> float | None:
    return round(loss, 4) if math.isfinite(loss) else None


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
            f"the hybrid is not better than {names[best]} alone on the validation rows (log loss "
            f"{mixed:.3f}, weights fitted on other rows, "
            f"against {alone[best]:.3f}): use that model"
        )
    unused = example_count - len(set(gold_probabilities.rows.tolist()))
    if unused:
        notes.append(
            f"{unused:,} of {example_count:,} validation rows were not used: a model could not "
            "answer them"
        )
    return tuple(notes)


def _list_leakage_notes(members: Sequence[HybridMember], data: TrainingData) -> Iterator[str]:
    """Notes about models that may have been trained on the rows that weights are fitted on."""
    for member in members:
        for folder in find_trained_folders(member.reference):
            if read_training_rows(Path(folder)) is None:
                yield (
                    f"{format_name(member.reference)} does not say which rows it was trained on: "
                    "figures of the hybrid may include them (train that model again)"
                )
        manifest = None
        with suppress(StorageError):  # a damaged manifest must not discard the fitted weights
            manifest = read_training_manifest(Path(member.reference))
        if manifest and not has_same_split(manifest, data):
            yield (
                f"{format_name(member.reference)} was trained on another table, or with another "
                "split: if validation rows were among its training rows, its weight is too high "
                "(train all models with the same table, --share and --seed)"
            )


def _describe_model(task: Task, members: Sequence[HybridMember]) -> ModelMetadata:
    return ModelMetadata(
        "hybrid",
        task.kind,
        tuple(label.name for label in task.labels),
        abstain=task.abstain_name,
        base=", ".join(member.reference for member in members),
        task_fingerprint=task.fingerprint,
        phi=determine_model_phi((task,), (member.reference for member in members)),
    )

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

from medtask.data.source import show_name
from medtask.decision.asking import Heard, ask, check_engine
from medtask.decision.shares import Shares, weigh
from medtask.engines.base import Engine
from medtask.engines.hybrid import Member, identify_member, name_member, save_hybrid
from medtask.engines.registry import load_model
from medtask.engines.trained import Trained
from medtask.errors import EngineError, InputError, StorageError, UsageError
from medtask.records import Prompt, Scores, Value
from medtask.tasks.task import AnyLabels, Choice, OneLabel, Task
from medtask.train.desk import Desk, Fitted
from medtask.train.journal import Point
from medtask.train.manifest import divides_alike, read_manifest
from medtask.train.material import Lesson, Material, find_phi
from medtask.train.recipe import Recipe
from medtask.train.validate import FLOOR

# a model with less weight is left out: what it says changes nothing that anybody would see
LEAST = 0.005
FOLDS = 5
ROUNDS = 20_000
STILL = 1e-9  # weights that move by less have come to rest


def fit_hybrid(materials: Sequence[Material], recipe: Recipe, desk: Desk) -> Fitted:
    """Weigh the models that ``recipe.bases`` names, each asked the validation rows once, and save
    the hybrid in the draft.

    The weights are those with the lowest mean log loss of the weighted probabilities. UsageError
    for fewer than two models, several tasks, or a kind whose answers are written; EngineError for a
    model that tells no exact probabilities; InputError where there are no validation rows that all
    of them can answer. What loading a model raises comes as it is.
    """
    task, lessons = _check(materials, recipe)
    members, heard = _ask_members(task, lessons, recipe, desk)
    table = _tabulate(task, lessons, heard)
    weights = fit_weights(table.given)
    kept = [place for place, weight in enumerate(weights) if weight >= LEAST]
    if len(kept) < len(members):
        weights = np.zeros(len(members))
        weights[kept] = fit_weights(table.given[:, kept])
    weighed = [replace(members[place], weight=float(weights[place])) for place in kept]
    notes = (*_tell(members, weights, table, len(lessons)), *_tell_origins(weighed, materials[0]))
    trained = save_hybrid(desk.draft, weighed, _contract(task, weighed))
    facts = {
        "members": [member.reference for member in members],
        "weights": [round(weight, 4) for weight in weights.tolist()],
        "validation_losses": [round(loss, 4) for loss in _lose(table.given).tolist()],
        "validation_loss": round(float(_lose(table.given @ weights[:, None])[0]), 4),
        "rows": len(set(table.rows.tolist())),
    }
    return Fitted(trained, notes=notes, facts=facts)


def _ask_members(
    task: Task, lessons: Sequence[Lesson], recipe: Recipe, desk: Desk
) -> tuple[list[Member], list[dict[int, Shares]]]:
    """Each member, and what it says of the rows; one after the other, since together they may not
    fit into memory.
    """
    members, heard = [], []
    references = list(dict.fromkeys(map(name_member, recipe.bases)))
    desk.watch.on_start(len(references), 0)
    for turn, reference in enumerate(references, 1):
        desk.watch.on_load(reference)
        engine = load_model(reference)
        try:
            check_engine(task, engine)
            _check_member(engine, reference)
            heard.append(_hear(task, engine, lessons))
            members.append(Member(reference, identify_member(engine, reference), 0.0))
        finally:
            engine.close()
        loss, score = _judge(task, lessons, heard[-1])
        desk.journal.add(
            Point(turn, len(references), turn / len(references), validation_loss=loss, score=score)
        )
        desk.signals.check()
    return members, heard


def fit_weights(given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights, at least 0 and of sum 1, with the lowest mean of ``-log(given @ weights)``;
    ``given``: [observations, models], each the probability that a model gave to what was true.

    By expectation maximisation, as Smyth and Wolpert weigh density estimators ("Linearly combining
    density estimators via stacking", Machine Learning 36, 1999): the loss is convex in the weights,
    every round lowers it, the weights stay what they must be without constraints, and there is no
    rate to choose.
    """
    given = np.maximum(given, FLOOR)
    weights = np.full(given.shape[1], 1 / given.shape[1])
    for _ in range(ROUNDS):
        parts = given * weights
        better = (parts / parts.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(better - weights).max())
        weights = better
        if moved < STILL:
            break
    fitted: NDArray[np.float64] = weights / weights.sum()
    return fitted


@dataclass(frozen=True, slots=True)
class _Table:
    """``given`` [observations, models]: the probability that each model gave to what was true: one
    observation a row, of several labels one for each. ``rows``: which row each is of.
    """

    given: NDArray[np.float64]
    rows: NDArray[np.int64]


def _check(materials: Sequence[Material], recipe: Recipe) -> tuple[Task, tuple[Lesson, ...]]:
    if len(materials) != 1:
        raise UsageError(
            f"{len(materials)} tasks were given, and --method hybrid learns one",
            fix="train a hybrid for each",
        )
    if len(dict.fromkeys(recipe.bases)) < 2:
        raise UsageError(
            "a hybrid is made of two models or more", fix="name each of them with --base"
        )
    task, lessons = materials[0].task, materials[0].validation
    if not isinstance(task.form, OneLabel | AnyLabels | Choice) or task.reasoning is not None:
        what = "is answered behind thoughts" if task.reasoning else f"is a task of kind {task.kind}"
        raise UsageError(
            f"{task.name} {what}, and a hybrid weighs probabilities only",
            fix="train one model: --method lora",
        )
    if isinstance(task.form, Choice) and task.form.readout == "text":
        raise UsageError(
            "a hybrid weighs probabilities, and `readout: text` compares likelihoods",
            fix="set `readout: letter`",
        )
    if not lessons:
        raise InputError(
            "a hybrid's weights are fitted on validation rows, and there are none",
            fix="give more rows with gold",
        )
    return task, lessons


def _check_member(engine: Engine, reference: str) -> None:
    if engine.caps.score != "exact":
        told = (
            "the likeliest tokens only"
            if engine.caps.score == "first_token"
            else "no probabilities"
        )
        raise EngineError(
            f"{show_name(reference)} tells {told}, which cannot be weighed against others",
            fix=(
                "choose models in this process (hf, llamacpp, encoder, linear) or a vLLM server, "
                "which tell exact probabilities"
            ),
        )


def _hear(task: Task, engine: Engine, lessons: Sequence[Lesson]) -> dict[int, Shares]:
    """The probabilities of each row's outcomes, by its place; rows that the model cannot answer are
    left out.
    """
    # Ids may repeat where validation has a table of its own.
    prompts: list[Prompt] = [
        replace(lesson.prompt, record_id=str(place)) for place, lesson in enumerate(lessons)
    ]
    found = {}
    for said in ask(task, engine, prompts):
        scores: Scores | None = said.scores if isinstance(said, Heard) else None
        weighed = (
            weigh(task, said.prompt, scores)
            if isinstance(said, Heard) and scores is not None
            else None
        )
        if weighed is not None and scores is not None:
            found[int(scores.record_id)] = weighed.shares
    return found


def _tabulate(
    task: Task, lessons: Sequence[Lesson], heard: Sequence[Mapping[int, Shares]]
) -> _Table:
    rows = [place for place in range(len(lessons)) if all(place in one for one in heard)]
    if not rows:
        raise InputError(
            f"none of the {len(lessons):,} validation rows could be answered by all models",
            fix="ask each model by itself: medtask run",
        )
    columns = [
        [_give(task, one[place], lessons[place].record.gold) for place in rows] for one in heard
    ]
    counts = [len(given) for given in columns[0]]
    return _Table(
        np.array([np.concatenate(column) for column in columns]).T,
        np.repeat(np.asarray(rows), counts),
    )


def _give(task: Task, shares: Shares, gold: Value | None) -> list[float]:
    """The probability of what is true of a row: of its gold, or for each name that it applies or
    does not.
    """
    if not task.several:
        return [shares.get(str(gold), 0.0)]
    right = gold if isinstance(gold, tuple) else ()
    return [share if name in right else 1.0 - share for name, share in shares.items()]


def _judge(
    task: Task, lessons: Sequence[Lesson], heard: Mapping[int, Shares]
) -> tuple[float | None, float | None]:
    """Mean loss in nats and share of right decisions over the rows that one model has answered."""
    given = [
        np.asarray(_give(task, shares, lessons[place].record.gold))
        for place, shares in heard.items()
    ]
    if not given:
        return None, None
    each = np.concatenate(given)
    best = [
        max(shares, key=shares.__getitem__) == lessons[place].record.gold
        for place, shares in heard.items()
    ]
    return float(_lose(each[:, None])[0]), float(np.mean(each >= 0.5 if task.several else best))


def _lose(given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean log loss of each column."""
    losses: NDArray[np.float64] = -np.log(np.maximum(given, FLOOR)).mean(axis=0)
    return losses


def _cross_fit(table: _Table) -> float:
    """The mixture's loss on rows that its weights were not fitted on."""
    folds = table.rows % FOLDS
    if len(set(folds.tolist())) < 2:
        return math.inf
    parts = [
        table.given[folds == fold] @ fit_weights(table.given[folds != fold])[:, None]
        for fold in sorted(set(folds.tolist()))
    ]
    return float(_lose(np.concatenate(parts))[0])


def _tell(
    members: Sequence[Member], weights: NDArray[np.float64], table: _Table, lessons: int
) -> tuple[str, ...]:
    names = [show_name(member.reference) for member in members]
    notes = [
        f"{name} was left out: it would get less than {LEAST:.1%} of the weight"
        for name, weight in zip(names, weights, strict=True)
        if weight == 0
    ]
    alone = _lose(table.given)
    best, mixed = int(alone.argmin()), _cross_fit(table)
    if not mixed < alone[best]:
        notes.append(
            f"the hybrid does not beat {names[best]} alone on the validation rows (log loss "
            f"{mixed:.3f}, weights fitted on other rows, "
            f"against {alone[best]:.3f}): take that model"
        )
    left = lessons - len(set(table.rows.tolist()))
    if left:
        notes.append(
            f"{left:,} of {lessons:,} validation rows were not used: a model could not answer them"
        )
    return tuple(notes)


def _tell_origins(members: Sequence[Member], material: Material) -> Iterator[str]:
    """Weights are fair where no model has learnt from the rows that they are fitted on: the models
    that may have.
    """
    for member in members:
        manifest = None
        with suppress(StorageError):  # damaged notes are no reason to throw fitted weights away
            manifest = read_manifest(Path(member.reference))
        if manifest and not divides_alike(manifest, material):
            yield (
                f"{show_name(member.reference)} was trained on another table, or on one that was "
                "divided otherwise: if validation rows "
                "were among those that it learnt from, its weight is too high (train all models "
                "with the same table, --share and --seed)"
            )


def _contract(task: Task, members: Sequence[Member]) -> Trained:
    return Trained(
        "hybrid",
        task.kind,
        tuple(label.name for label in task.labels),
        abstain=task.abstention,
        base=", ".join(member.reference for member in members),
        task_fingerprint=task.fingerprint,
        phi=find_phi(task),
    )

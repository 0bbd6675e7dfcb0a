"""Training of a linear head on the vectors of a sentence encoder, whose weights are not changed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.errors import InputError, UsageError
from medtask.evaluation.baselines.classifier_search import build_folds, compute_loss_and_accuracy
from medtask.hardware import choose_device, inspect_machine
from medtask.training.encoder.base_model import load_encoder_with_head, locate_encoder
from medtask.training.recipe import Recipe
from medtask.training.targets import LabelledTexts, LabelTargets, build_label_targets
from medtask.training.training_context import MethodResult, TrainingContext
from medtask.training.training_data import TrainingData

STRENGTHS = (1.0, 10.0, 100.0)
# A run refuses rows that are too long for the encoder: with more of them, it is not worth training.
MAX_LONG_SHARE = 0.05


def fit_frozen(
    training_data: Sequence[TrainingData],
    recipe: Recipe,
    context: TrainingContext,
    *,
    time_limit_s: float = float("inf"),
) -> MethodResult:
    """Fit a logistic regression on the vectors of ``recipe.base``, and save it as an encoder.

    The strength of the penalty is chosen by cross-validation on the training rows.

    Raises:
        UsageError: The base is not a sentence encoder, or `build_label_targets` rejects the data.
        InputError: The rows are too long for the encoder, or reading them would take longer than
            the limit.
        MissingExtra, ModelNotFound, EngineError: The base cannot be loaded.
    """
    from medtask.engines.encoder.pooled_classifier import PooledClassifier

    targets = build_label_targets(training_data, "auto")
    files = locate_encoder(recipe.base)
    device = choose_device(recipe.device, inspect_machine())
    model, tokenizer = load_encoder_with_head(files, targets, device)
    if not isinstance(model, PooledClassifier):
        raise UsageError(
            f"{files.reference} is not a sentence encoder", fix="use minilm, or --method encoder"
        )
    tokens = _tokenize(targets, model, tokenizer)

    def check_time(done: float, elapsed_s: float) -> None:
        context.signals.raise_if_caught()
        if elapsed_s > 2 and elapsed_s / done > time_limit_s:
            raise InputError(
                f"reading the rows takes about {elapsed_s / done:.0f} s",
                fix="give more time with --budget",
            )

    started = time.monotonic()
    vectors = _compute_vectors(model, tokenizer, tokens, check_time)
    reading_s = time.monotonic() - started
    strength = _choose_strength(targets, vectors)
    weights, bias = _fit_head(targets, vectors, targets.train, strength)
    _set_head(model, weights, bias)
    model.eval().save_pretrained(context.draft_folder)
    tokenizer.save_pretrained(context.draft_folder)
    return MethodResult(
        targets.describe_model("encoder", files.reference),
        notes=targets.notes,
        facts={
            "strength": strength,
            "frozen": True,
            "device": device,
            "reading_s": round(reading_s, 2),
        },
    )


def _tokenize(targets: LabelTargets, model: Any, tokenizer: Any) -> list[list[int]]:
    """The tokens of the training rows, cut to the encoder's maximum.

    Raises InputError if many rows are too long, and a run would refuse them.
    """
    from medtask.similarity import find_max_tokens, truncate_tokens

    limit = find_max_tokens(model, tokenizer)
    tokens: list[list[int]] = tokenizer(
        list(targets.train.texts), truncation=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    long = sum(len(one) > limit for one in tokens)
    refused = targets.task.gate.too_long == "error"
    if refused and long > MAX_LONG_SHARE * len(tokens):
        raise InputError(
            f"{long:,} of {len(tokens):,} training rows have more than {limit:,} tokens, which a "
            "run would refuse",
            fix="choose another method, or `gate: {too_long: head_tail}` in the task",
        )
    return [truncate_tokens(one, limit) for one in tokens]


def _compute_vectors(
    model: Any,
    tokenizer: Any,
    tokens: Sequence[Sequence[int]],
    check_time: Callable[[float, float], None],
) -> NDArray[np.float64]:
    """The pooled vectors [texts, width] that the head reads."""
    import torch

    from medtask.similarity import make_batches, pool_tokens

    started, total, done = time.monotonic(), sum(map(len, tokens)), 0
    vectors = np.zeros((len(tokens), model.config.hidden_size))
    model.eval()
    for indices in make_batches(list(map(len, tokens))):
        padded = tokenizer.pad(
            {"input_ids": [list(tokens[index]) for index in indices]}, return_tensors="pt"
        ).to(model.device)
        mask = padded["attention_mask"]
        with torch.inference_mode():
            hidden = model.body(input_ids=padded["input_ids"], attention_mask=mask)
            pooled = pool_tokens(hidden.last_hidden_state, mask, model.pooling)
        vectors[indices] = pooled.double().cpu().numpy()
        done += sum(len(tokens[index]) for index in indices)
        check_time(done / total, time.monotonic() - started)
    return vectors


def _choose_strength(targets: LabelTargets, vectors: NDArray[np.float64]) -> float:
    train = targets.train
    folds = build_folds(train.texts, train.gold, train.groups)
    if not folds:
        return 1.0

    def evaluate(strength: float) -> float:
        predicted = [
            _predict(targets, vectors[other], *_fit_head(targets, vectors[rows], part, strength))
            for rows, other in folds
            for part in [train.select_rows(rows)]
        ]
        gold = np.concatenate([train.gold[other] for _, other in folds])
        return compute_loss_and_accuracy(gold, np.concatenate(predicted))[0]

    return min(STRENGTHS, key=evaluate)


def _fit_head(
    targets: LabelTargets, vectors: NDArray[np.float64], texts: LabelledTexts, strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weights [labels, width] and the bias [labels] of a logistic regression.

    A label without a row in ``texts``, or that all rows have, gets a constant output.
    """
    from sklearn.linear_model import LogisticRegression

    count = len(targets.labels)
    weights, bias = np.zeros((count, vectors.shape[1])), np.full(count, -20.0)
    regression = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a weak penalty may need more iterations
        if not targets.several:
            fitted = regression.fit(vectors, texts.gold)
            # Two labels have one row of weights: the softmax over (0, z) is its logistic function.
            two = len(fitted.classes_) == 2
            rows = fitted.classes_[1:] if two else fitted.classes_
            bias[fitted.classes_] = 0.0
            weights[rows], bias[rows] = fitted.coef_, fitted.intercept_
            return weights, bias
        for label, column in enumerate(texts.gold.T):
            if len(set(column.tolist())) == 1:
                bias[label] = 20.0 if column[0] else -20.0
                continue
            fitted = regression.fit(vectors, column)
            weights[label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
    return weights, bias


def _predict(
    targets: LabelTargets,
    vectors: NDArray[np.float64],
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
) -> NDArray[np.float64]:
    from scipy.special import expit, softmax

    logits = vectors @ weights.T + bias
    probabilities: NDArray[np.float64] = (
        expit(logits) if targets.several else softmax(logits, axis=1)
    )
    return probabilities


def _set_head(model: Any, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
    import torch

    with torch.no_grad():
        for parameter, values in ((model.head.weight, weights), (model.head.bias, bias)):
            parameter.copy_(torch.as_tensor(values, dtype=parameter.dtype))

"""Training an encoder: all weights of a model that reads a whole text at once, and a layer on top
with one number per label.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medtask.display import format_bytes, format_name
from medtask.engines.files.model_files import (
    BUILT_IN_MODEL,
    MINILM,
)
from medtask.engines.registry import choose_engine
from medtask.errors import (
    EngineError,
    InputError,
    MedtaskError,
    MissingExtra,
    ModelTooLarge,
    UsageError,
)
from medtask.hardware import choose_device, inspect_machine
from medtask.privacy import block_network
from medtask.training.recipe import Recipe
from medtask.training.targets import LabelTargets, build_label_targets, compute_loss_and_accuracy
from medtask.training.training_context import MethodResult, TrainingContext
from medtask.training.training_data import TrainingData

if TYPE_CHECKING:
    from medtask.engines.files.model_files import ModelFiles
    from medtask.training.validation_metrics import ValidationResult

REFERENCE_PREFIX = "encoder:"
# Bytes of a weight in training: itself, its gradient and AdamW's two moments, in float32.
BYTES_PER_WEIGHT = 16
# Bytes of a token in a layer that the backward pass needs, for each number of its width: 34 in 16
# bits, without the attention's own table, which fused attention does not keep (Korthikanti et al.
# 2022, arXiv 2205.05198, section
# 4.1).
BYTES_PER_TOKEN = 68
_ENCODER_HINT = "name an encoder: minilm, org/name of the Hub, or a folder"
_LORA_HINT = "choose --method lora, which trains language models"


@dataclass(frozen=True, slots=True)
class _TokenizedTexts:
    """Texts as tokens, cut at what the model reads. ``truncated_rows``: how many were longer."""

    tokens: tuple[tuple[int, ...], ...]
    truncated_rows: int


@dataclass(frozen=True, slots=True)
class _EncoderWeights:
    """All weights of a model in checkpoints."""

    model: Any

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_model

        save_model(self.model, str(folder / "state.safetensors"))

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_model

        load_model(self.model, folder / "state.safetensors", device=str(self.model.device))


def fit_encoder(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train all weights of an encoder and a layer on top, and save them and the tokenizer in the
    draft.

    A sentence encoder (``minilm``) gets the layer on its pooled vector, any other base what
    transformers' AutoModelForSequenceClassification puts on it.

    One label: cross entropy over the labels. Any of them: binary cross entropy, the mean over the
    labels. The base is a reference of an encoder (``minilm``, org/name, a folder); its best state
    on the validation rows is kept.

    UsageError for a base that is no encoder, and where read_targets says so; InputError; TooBig;
    MissingExtra; ModelNotFound; EngineError for files that cannot be loaded; StorageError.
    """
    targets = build_label_targets(training_data, "encoder")
    if not targets.validation.texts:
        raise InputError(
            "an encoder is stopped by validation rows, and there are none",
            fix="give more rows with gold",
        )
    check_encoder_base(recipe)
    files = _locate(recipe.base or MINILM)
    import torch
    import transformers

    from medtask.similarity import find_max_tokens
    from medtask.training.trainer import find_best_folder, find_checkpoint, run_trainer

    context.observer.on_load(files.reference)
    device = choose_device(recipe.device, inspect_machine())
    transformers.set_seed(recipe.seed)
    model, tokenizer = _load(files, targets, device)
    _init_head_bias(model, targets)
    if recipe.checkpointing:
        _enable_checkpointing(getattr(model, "body", model))
    limit = min(recipe.row_tokens, find_max_tokens(model, tokenizer))
    train_texts, validation_texts = (
        _tokenise(tokenizer, part.texts, limit) for part in (targets.train, targets.validation)
    )
    _check_memory(files, model, recipe, max(map(len, train_texts.tokens)), device)
    notes = (*targets.notes, *_describe_truncation(train_texts, validation_texts, limit))
    for note in notes[len(targets.notes) :]:
        context.observer.on_note(note)
    use_bfloat16 = _choose_bfloat16(recipe, device)
    weights = _EncoderWeights(model)
    trainer = _build_trainer(
        model,
        tokenizer,
        targets,
        recipe,
        context,
        weights,
        train_texts,
        validation_texts,
        use_bfloat16,
    )
    run_trainer(trainer, find_checkpoint(context.work_folder))
    best = find_best_folder(context.work_folder)
    assert best is not None, "a training begins and ends with a validation"
    weights.load(best)
    _save(model, tokenizer, context.draft_folder)
    facts = {
        "weights": _count(model),
        "steps": trainer.state.global_step,
        "dtype": "float32, products in bfloat16" if use_bfloat16 else "float32",
        "device": device,
        "threads": torch.get_num_threads(),
        "row_tokens": limit,
        "rows_cut": train_texts.truncated_rows,
        "base_revision": files.revision,
        "transformers": transformers.__version__,
    }
    return MethodResult(
        targets.describe_model("encoder", files.reference),
        context.signals.number is not None,
        notes,
        facts,
    )


def check_encoder_base(recipe: Recipe) -> None:
    """UsageError for a base that is no encoder on this machine or the Hub, as far as its reference
    tells.
    """
    if len(recipe.bases) > 1:
        raise UsageError(
            f"--method encoder takes one base, and {len(recipe.bases)} are named",
            fix="name it with --base, once",
        )
    name = recipe.base or MINILM
    spec = choose_engine(name).spec
    reason = None
    if name.endswith(".gguf"):
        reason = "a GGUF file holds a language model's weights, rounded for answering"
    elif name == BUILT_IN_MODEL:
        reason = "it is a language model, not an encoder"
    elif spec.traits.family in ("linear", "hybrid"):
        reason = f"it is a {spec.name} model, not an encoder"
    elif not spec.traits.trainable:
        reason = f"the {spec.name} engine cannot train weights"
    if reason:
        raise UsageError(
            f"{format_name(name)} cannot be trained by --method encoder: {reason}",
            fix=f"{_ENCODER_HINT}, or {_LORA_HINT}",
        )


def _locate(reference: str) -> ModelFiles:
    """The files of an encoder; UsageError where they are another kind of model's."""
    try:
        import torch  # noqa: F401
        from transformers.models.auto import modeling_auto
    except ImportError as error:
        raise MissingExtra(
            f"{error.name} is not installed here", fix="pip install 'medtask[hf]'"
        ) from None
    from medtask.engines.files.model_files import ModelFiles, locate_model, read_model_json
    from medtask.similarity import require_minilm

    name = reference.removeprefix("hf:").removeprefix(REFERENCE_PREFIX)
    files = ModelFiles(MINILM, require_minilm()) if name == MINILM else locate_model(name)
    if files.adapter is not None:
        raise UsageError(
            f"{format_name(name)} is an adapter of a language model, not an encoder",
            fix=f"{_ENCODER_HINT}, or {_LORA_HINT}",
        )
    kind = str(read_model_json(files.path / "config.json").get("model_type"))
    # Nearly every model can get a layer on top for labels. Those that were made to fill in masked
    # words read both ways.
    known = (
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )
    if not all(kind in names for names in known):
        raise UsageError(
            f"{format_name(name)} is a {format_name(kind)} model, not an encoder",
            fix=f"{_ENCODER_HINT}, or {_LORA_HINT}",
        )
    return files


def _load(files: ModelFiles, targets: LabelTargets, device: str) -> tuple[Any, Any]:
    """The model with a fresh layer for the labels, in float32, and its tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    named = dict(enumerate(targets.labels))
    settings = {
        "num_labels": len(named),
        "id2label": named,
        "label2id": {label: index for index, label in named.items()},
        "problem_type": "multi_label_classification"
        if targets.several
        else "single_label_classification",
    }
    try:
        with block_network(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what libraries announce to each other
            if pooled := _load_pooled_classifier(files, targets, device):
                return pooled
            tokenizer = AutoTokenizer.from_pretrained(files.path, trust_remote_code=False)
            model, loading_info = AutoModelForSequenceClassification.from_pretrained(
                files.path,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # a head for other labels is no use here
                output_loading_info=True,
                **settings,
            )
    except MedtaskError:
        raise
    except (
        Exception
    ) as error:  # files from elsewhere fail in as many ways as there are libraries that read them
        reason = str(error).partition("\n")[0]
        raise EngineError(
            f"{format_name(files.reference)} could not be loaded as an encoder: "
            f"{type(error).__name__}: {reason}",
            fix=(
                "check that the folder is whole and that this version of transformers knows the "
                "architecture (`medtask doctor`)"
            ),
        ) from error
    body = f"{model.base_model_prefix}."
    # What the files lack transformers makes up by chance: that is right for the head alone.
    if missing := sorted(
        name
        for name in loading_info["missing_keys"]
        if name.startswith(body) and not name.startswith(f"{body}pooler.")
    ):
        raise EngineError(
            f"{format_name(files.reference)} lacks weights of its own kind ({missing[0]})",
            fix="fetch the model again, whole",
        )
    return model.to(device), tokenizer


def _load_pooled_classifier(
    files: ModelFiles, targets: LabelTargets, device: str
) -> tuple[Any, Any] | None:
    """A sentence encoder with a fresh layer on its pooled vector, and its tokenizer; None for a
    base that is none.
    """
    from medtask.engines.encoder.classifier import HEAD_FILE
    from medtask.engines.encoder.pooled_classifier import PooledClassifier, load_pooled_classifier
    from medtask.similarity import load_sentence_encoder

    if (files.path / HEAD_FILE).is_file():
        before, tokenizer = load_pooled_classifier(files.path, device, "float32")
        body, pooling = before.body, before.pooling
    elif (files.path / "modules.json").is_file():
        encoder = load_sentence_encoder(files.path, device=device)
        body, tokenizer, pooling = encoder.model, encoder.tokenizer, encoder.pooling
    else:
        return None
    dropout = getattr(body.config, "hidden_dropout_prob", 0.0)
    model = PooledClassifier(
        body, pooling, len(targets.labels), multi_label=targets.several, dropout=dropout
    )
    return model.to(device), tokenizer


def _init_head_bias(model: Any, targets: LabelTargets) -> None:
    """Have the fresh layer begin with each label's share of the rows, by its bias (Lin et al. 2017,
    arXiv 1708.02002, section 3.3).

    A bias moves by no more than the rate in a step. Where labels are rare, the rest of the model
    would learn in its place to say no to everything, with vectors that are all alike, and small
    encoders do not find their way back from there.
    """
    import torch

    counts = (
        targets.train.gold.sum(axis=0)
        if targets.several
        else np.bincount(targets.train.gold, minlength=len(targets.labels))
    )
    probabilities = (counts + 0.5) / (len(targets.train.gold) + 1)
    bias = np.log(probabilities / (1 - probabilities)) if targets.several else np.log(probabilities)
    layers = [
        one
        for one in model.modules()
        if isinstance(one, torch.nn.Linear) and one.out_features == len(targets.labels)
    ]
    if layers and layers[-1].bias is not None:
        with torch.no_grad():
            layers[-1].bias.copy_(torch.as_tensor(bias))


def _enable_checkpointing(body: Any) -> None:
    """Have them computed again in the backward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # it gets another name, which earlier versions of transformers lack
        body.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _count(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _tokenise(tokenizer: Any, texts: Sequence[str], limit: int) -> _TokenizedTexts:
    whole = tokenizer(list(texts), truncation=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    long = [row for row, tokens in enumerate(whole) if len(tokens) > limit]
    if long:
        cut = tokenizer(
            [texts[row] for row in long],
            truncation=True,
            max_length=limit,
            return_attention_mask=False,
        )["input_ids"]
        for row, tokens in zip(long, cut, strict=True):
            whole[row] = tokens
    return _TokenizedTexts(tuple(map(tuple, whole)), len(long))


def _describe_truncation(
    train_texts: _TokenizedTexts, validation_texts: _TokenizedTexts, limit: int
) -> list[str]:
    cut, rows = (
        train_texts.truncated_rows + validation_texts.truncated_rows,
        len(train_texts.tokens) + len(validation_texts.tokens),
    )
    if not cut:
        return []
    return [
        f"{cut:,} of {rows:,} rows were cut at {limit:,} tokens for training; asked about such a "
        "row, the model refuses it unless the task "
        "says how to read it (`gate: too_long`)"
    ]


def _check_memory(files: ModelFiles, model: Any, recipe: Recipe, longest: int, device: str) -> None:
    """TooBig where the weights, or a batch of the longest rows, will not fit."""
    machine = inspect_machine()
    there = machine.accelerator_bytes if device != "cpu" else machine.available_bytes
    allowed = min(there, recipe.memory) if recipe.memory is not None else there
    config = model.config
    layers, width = (
        int(getattr(config, "num_hidden_layers", 12)),
        int(getattr(config, "hidden_size", 768)),
    )
    # Computed again layer by layer, only one layer's numbers and what goes into each are held.
    held = BYTES_PER_TOKEN + 4 * layers if recipe.checkpointing else BYTES_PER_TOKEN * layers
    work = held * width * recipe.batch * longest
    needed = _count(model) * BYTES_PER_WEIGHT + work
    if needed > allowed:
        raise ModelTooLarge(
            f"training {format_name(files.reference)} takes about {format_bytes(needed)} "
            f"({format_bytes(work)} for {recipe.batch} rows of "
            f"{longest:,} tokens); {format_bytes(allowed)} may be used here",
            fix=(
                "lower --batch or --row-tokens, add --checkpointing, or choose a smaller encoder "
                "(minilm)"
            ),
        )


def _choose_bfloat16(recipe: Recipe, device: str) -> bool:
    """Whether products are computed in bfloat16; weights and sums stay in float32."""
    import torch

    if recipe.dtype == "float16":
        raise UsageError(
            "encoders are not trained in float16, which small gradients do not survive",
            fix="leave --dtype out",
        )
    return recipe.dtype == "bfloat16" or (
        recipe.dtype == "auto" and device.startswith("cuda") and torch.cuda.is_bf16_supported()
    )


def _build_trainer(
    model: Any,
    tokenizer: Any,
    targets: LabelTargets,
    recipe: Recipe,
    context: TrainingContext,
    weights: Any,
    train_texts: _TokenizedTexts,
    validation_texts: _TokenizedTexts,
    use_bfloat16: bool,
) -> Any:
    """The Tutor of this training."""
    import torch

    from medtask.training.language.batching import count_batches, order_batches
    from medtask.training.trainer import MedtaskTrainer, make_arguments, plan_training

    lengths, alone = list(map(len, train_texts.tokens)), [0] * len(train_texts.tokens)
    training_plan = plan_training(count_batches(alone, recipe.batch), recipe)
    gold = targets.train.gold.astype(np.float32) if targets.several else targets.train.gold

    def collate_batch(items: Sequence[Sequence[int]]) -> dict[str, Any]:
        rows = list(items[0])  # an item is a batch already
        padded = tokenizer.pad(
            {"input_ids": [list(train_texts.tokens[row]) for row in rows]}, return_tensors="pt"
        )
        return {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            "labels": torch.as_tensor(gold[rows]),
        }

    # Items are taken in their order: chance has done its work in schedule.py, where it can be
    # repeated.
    sampling: dict[str, Any] = {
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
        "bf16": use_bfloat16,
    }
    return MedtaskTrainer(
        model=model,
        args=make_arguments(recipe, training_plan, context, device=model.device.type, **sampling),
        train_dataset=order_batches(alone, lengths, recipe.batch, training_plan.steps, recipe.seed),
        data_collator=collate_batch,
        context=context,
        training_plan=training_plan,
        weights=weights,
        validate=_build_validation(model, tokenizer, targets, validation_texts),
        count_batch=lambda inputs: (len(inputs["labels"]), int(inputs["attention_mask"].sum())),
        patience=recipe.patience * recipe.validations,
    )


def _build_validation(
    model: Any, tokenizer: Any, targets: LabelTargets, validation_texts: _TokenizedTexts
) -> Callable[[], ValidationResult]:
    from medtask.training.validation_metrics import ValidationResult

    def validate() -> ValidationResult:
        probabilities = _predict(model, tokenizer, validation_texts.tokens, several=targets.several)
        return ValidationResult(
            *compute_loss_and_accuracy(targets, targets.validation.gold, probabilities)
        )

    return validate


def _predict(
    model: Any, tokenizer: Any, tokens: Sequence[Sequence[int]], *, several: bool
) -> NDArray[np.float64]:
    """Probabilities [rows, labels], as the encoder engine computes them."""
    import torch

    from medtask.similarity import make_batches

    model.eval()
    probabilities = np.zeros((len(tokens), model.config.num_labels))
    for indices in make_batches(list(map(len, tokens))):
        padded = tokenizer.pad(
            {"input_ids": [list(tokens[index]) for index in indices]}, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            logits = model(
                input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]
            ).logits.double()
        probabilities[indices] = (
            (logits.sigmoid() if several else logits.softmax(dim=-1)).cpu().numpy()
        )
    return probabilities


def _save(model: Any, tokenizer: Any, draft_folder: Path) -> None:
    from medtask.training.trainer import convert_storage_errors

    with convert_storage_errors(draft_folder):
        model.save_pretrained(draft_folder)
        tokenizer.save_pretrained(draft_folder)

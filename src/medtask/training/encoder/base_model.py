"""The base model of an encoder training: checks it, and loads it with a new head."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from medtask.display import format_name
from medtask.engines.files.model_files import BUILT_IN_MODEL, MINILM, make_load_error
from medtask.engines.registry import choose_engine
from medtask.errors import MedtaskError, MissingExtra, UsageError
from medtask.model_weights import check_loaded_model
from medtask.privacy import block_network
from medtask.training.recipe import Recipe
from medtask.training.targets import LabelTargets

if TYPE_CHECKING:
    from medtask.engines.files.model_files import ModelFiles

_REFERENCE_PREFIX = "encoder:"
_HINT = (
    "name an encoder (minilm, org/name of the Hub, or a folder), or choose --method lora, which "
    "trains language models"
)


def check_encoder_base(recipe: Recipe) -> None:
    """Raise UsageError if the reference of the base shows that it is not an encoder."""
    if len(recipe.bases) > 1:
        raise UsageError(
            f"--method encoder takes one base, and {len(recipe.bases)} are named",
            fix="name it with --base, once",
        )
    name = recipe.base
    spec = choose_engine(name).spec
    reason = None
    if name.endswith(".gguf"):
        reason = "a GGUF file holds the quantised weights of a language model"
    elif name == BUILT_IN_MODEL:
        reason = "it is a language model, not an encoder"
    elif spec.traits.family in ("linear", "hybrid"):
        reason = f"it is a {spec.name} model, not an encoder"
    elif not spec.traits.trainable:
        reason = f"the {spec.name} engine cannot train weights"
    if reason:
        raise UsageError(
            f"{format_name(name)} cannot be trained by --method encoder: {reason}", fix=_HINT
        )


def locate_encoder(reference: str) -> ModelFiles:
    """The files of an encoder. Raises UsageError if they belong to another kind of model."""
    try:
        import torch  # noqa: F401
        from transformers.models.auto import modeling_auto
    except ImportError as error:
        raise MissingExtra(
            f"{error.name} is not installed here", fix="pip install 'medtask[hf]'"
        ) from None
    from medtask.engines.files.model_files import ModelFiles, locate_model, read_model_json
    from medtask.similarity import require_minilm

    name = reference.removeprefix("hf:").removeprefix(_REFERENCE_PREFIX)
    files = ModelFiles(MINILM, require_minilm()) if name == MINILM else locate_model(name)
    if files.adapter is not None:
        raise UsageError(
            f"{format_name(name)} is an adapter of a language model, not an encoder", fix=_HINT
        )
    kind = str(read_model_json(files.path / "config.json").get("model_type"))
    # Nearly every model type can get a classification head. Types that also have a masked language
    # model read in both directions.
    known = (
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )
    if not all(kind in names for names in known):
        raise UsageError(
            f"{format_name(name)} is a {format_name(kind)} model, not an encoder", fix=_HINT
        )
    return files


def load_encoder_with_head(
    files: ModelFiles, targets: LabelTargets, device: str
) -> tuple[Any, Any]:
    """The model with a new classification head, in float32, and its tokenizer."""
    model, tokenizer = _load(files, targets, device)
    _init_head_bias(model, targets)
    return model, tokenizer


def _load(files: ModelFiles, targets: LabelTargets, device: str) -> tuple[Any, Any]:
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
            warnings.simplefilter("ignore", FutureWarning)  # warnings of one library about another
            if pooled := _load_pooled_classifier(files, targets, device):
                return pooled
            tokenizer = AutoTokenizer.from_pretrained(files.path, trust_remote_code=False)
            model, loading_info = AutoModelForSequenceClassification.from_pretrained(
                files.path,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # a head for other labels is replaced
                output_loading_info=True,
                **settings,
            )
    except MedtaskError:
        raise
    except Exception as error:  # the libraries that read such files raise exceptions of any type
        raise make_load_error(format_name(files.reference), error, " as an encoder") from error
    check_loaded_model(model, loading_info, format_name(files.reference), new_head=True)
    return model.to(device), tokenizer


def _load_pooled_classifier(
    files: ModelFiles, targets: LabelTargets, device: str
) -> tuple[Any, Any] | None:
    """A sentence encoder with a new head on its pooled vector, and its tokenizer.

    Returns None for a base that is not a sentence encoder.
    """
    from medtask.engines.encoder.classifier import HEAD_FILE
    from medtask.engines.encoder.pooled_classifier import PooledClassifier, load_pooled_classifier
    from medtask.similarity import load_sentence_encoder

    if (files.path / HEAD_FILE).is_file():
        trained, tokenizer = load_pooled_classifier(files.path, device, "float32")
        body, pooling = trained.body, trained.pooling
    elif (files.path / "modules.json").is_file():
        encoder = load_sentence_encoder(files.path, device=device, trainable=True)
        body, tokenizer, pooling = encoder.model, encoder.tokenizer, encoder.pooling
    else:
        return None
    dropout = getattr(body.config, "hidden_dropout_prob", 0.0)
    model = PooledClassifier(
        body, pooling, len(targets.labels), multi_label=targets.several, dropout=dropout
    )
    return model.to(device), tokenizer


def _init_head_bias(model: Any, targets: LabelTargets) -> None:
    """Set the head's bias to the frequencies of the labels (Lin et al. 2017, arXiv 1708.02002,
    section 3.3).

    A bias moves by at most the learning rate per step. Without this, with rare labels the rest of
    the model would learn to predict none, with nearly equal vectors for all texts, and small
    encoders do not recover from that.
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

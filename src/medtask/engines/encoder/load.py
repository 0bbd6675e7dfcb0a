"""Loads an encoder as a tested engine, with label definitions or a trained head."""

from __future__ import annotations

import math
import warnings

from medtask.display import format_bytes
from medtask.engines.base import EngineInfo
from medtask.engines.encoder.classifier import HEAD_FILE, EncoderClassifier
from medtask.engines.encoder.engine import EncoderEngine, EncoderScorer
from medtask.engines.encoder.zero_shot import (
    CALIBRATION_NOTE,
    SPREAD_FACT,
    ZeroShotScorer,
)
from medtask.engines.files.model_files import (
    MINILM,
    ModelFiles,
    locate_model,
    make_load_error,
    read_model_json,
    require_torch,
)
from medtask.engines.files.weights import (
    BYTES_PER_WEIGHT,
    count_parameters,
    hash_model_files,
    hash_weights,
)
from medtask.engines.label_head import LabelHead
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.metadata_schema import EngineName
from medtask.engines.model_metadata import (
    METADATA_FILE,
    ModelMetadata,
    hash_model_metadata,
    read_model_metadata,
)
from medtask.engines.specs import BUILT_IN_ENGINES
from medtask.errors import (
    EngineError,
    InputError,
    MedtaskError,
    ModelTooLarge,
    UsageError,
)
from medtask.hardware import choose_device, inspect_machine, limit_torch_threads
from medtask.kinds import KINDS
from medtask.model_weights import load_pretrained
from medtask.privacy import block_network
from medtask.records import Branch, Description, Message, Prompt, Scores
from medtask.similarity import (
    find_max_tokens,
    load_sentence_encoder,
    require_minilm,
)

SCHEME = "encoder:"
WORKING_MEMORY_BYTES = 600_000_000  # Python, torch and intermediate results of one batch
_CLASSIFIER_SUFFIX = "ForSequenceClassification"


def load_encoder(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> EncoderEngine:
    """Load ``minilm``, ``encoder:org/name[@revision]``, ``encoder:FOLDER``, or a trained folder.

    A folder with a label list (``medtask.json``, or the names in the config of a model for sequence
    classification) scores its labels; any other is a sentence encoder, which compares texts with
    definitions. ``options.dtype`` "auto" is float32.

    Raises the errors of `load_model` in registry.py.
    """
    require_torch()
    threads = limit_torch_threads(options.threads)
    files, metadata = locate_encoder(reference)
    name = files.reference
    dtype = "float32" if options.dtype == "auto" else options.dtype
    if dtype not in BYTES_PER_WEIGHT:
        raise UsageError(
            f"the encoder engine does not support --dtype {dtype}", fix="leave --dtype out"
        )
    device = choose_device(options.device, inspect_machine())
    _check_memory(files, dtype, options.memory)
    with block_network(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecations between libraries
        scorer, scorer_details = load_scorer(files, metadata, device, dtype)
    info = EngineInfo(
        "encoder",
        f"{name}, {dtype}, {device}",
        _build_identity(files, metadata, dtype),
        BUILT_IN_ENGINES["encoder"].traits,
        device,
        notes=(CALIBRATION_NOTE,) if isinstance(scorer, ZeroShotScorer) else (),
        details={
            "threads": threads,
            "downloaded": files.downloaded,
            **scorer_details,
        },
    )
    engine = EncoderEngine(scorer, info)
    check_encoder(engine, name)
    return engine


def locate_encoder(reference: str) -> tuple[ModelFiles, ModelMetadata | None]:
    """The files of an encoder, and what `medtask.train` wrote about it.

    Raises:
        EngineError: The model is not an encoder.
        ModelNotFound: The model does not exist, or may not be downloaded.
        InputError: A file of the model is damaged.
    """
    name = reference.removeprefix(SCHEME)
    files = ModelFiles(MINILM, require_minilm()) if name == MINILM else locate_model(name)
    if files.is_gguf or files.adapter is not None:
        raise EngineError(f"{name} is not an encoder", fix=f"leave {SCHEME} out: `--model {name}`")
    has_metadata = (files.path / METADATA_FILE).is_file()
    return files, read_model_metadata(files.path) if has_metadata else None


def _check_memory(files: ModelFiles, dtype: str, memory: int | None) -> None:
    needed_bytes = count_parameters(files) * BYTES_PER_WEIGHT[dtype] + WORKING_MEMORY_BYTES
    if memory is not None and needed_bytes > memory:
        raise ModelTooLarge(
            f"{files.reference} needs about {format_bytes(needed_bytes)} in {dtype}; "
            f"{format_bytes(memory)} may be used here",
            fix="choose a smaller model, or raise --memory",
        )


def load_scorer(
    files: ModelFiles,
    metadata: ModelMetadata | None,
    device: str,
    dtype: str,
    *,
    trainable: bool = False,
) -> tuple[EncoderScorer, dict[str, object]]:
    """The scorer, and its details for the manifest; with ``trainable`` always a torch model of
    transformers.
    """
    try:
        head = read_head(files, metadata)
        if head is None:
            encoder = load_sentence_encoder(
                files.path, device=device, dtype=dtype, trainable=trainable
            )
            return ZeroShotScorer(encoder, files.reference), {"pooling": encoder.pooling}
        from transformers import AutoModelForSequenceClassification

        if metadata is not None and HEAD_FILE in metadata.sha256:
            from medtask.engines.encoder.pooled_classifier import load_pooled_classifier

            model, tokenizer = load_pooled_classifier(files.path, device, dtype)
        else:
            model, tokenizer = load_pretrained(
                AutoModelForSequenceClassification, files.path, device, dtype
            )
    except MedtaskError:
        raise
    except Exception as error:  # foreign files can fail in any way
        raise make_load_error(files.reference, error, " as an encoder") from error
    check_head(head, model.config.num_labels)
    scorer = EncoderClassifier(model, tokenizer, head, find_max_tokens(model, tokenizer))
    return scorer, describe_head(head, metadata)


def check_head(head: LabelHead, outputs: int) -> None:
    """Raise InputError unless a model has one output for each of its labels."""
    if outputs != len(head.labels) or outputs < 2 - (not KINDS[head.kind].exclusive):
        raise InputError(
            f"{head.title} has {outputs} outputs for {len(head.labels)} labels",
            fix="choose a model for sequence classification with a name for each label",
        )


def describe_head(head: LabelHead, metadata: ModelMetadata | None) -> dict[str, object]:
    """The details of a classifier for the manifest."""
    return metadata.list_details() if metadata else {"labels": list(head.labels)}


def read_head(
    files: ModelFiles, metadata: ModelMetadata | None, engine: EngineName = "encoder"
) -> LabelHead | None:
    """The labels of a trained model, by its metadata or config; None for a sentence encoder."""
    if metadata is not None:
        if metadata.engine != engine:
            raise InputError(
                f"{files.path} holds a {metadata.engine} model",
                fix=f"name the folder without {SCHEME}",
            )
        return LabelHead.from_metadata(files.reference, metadata)
    config = read_model_json(files.path / "config.json")
    if not any(
        str(name).endswith(_CLASSIFIER_SUFFIX) for name in config.get("architectures") or ()
    ):
        return None
    names = config.get("id2label") or {}
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    if len(set(labels)) < len(labels):
        raise InputError(
            f"{files.reference} has two labels with the same name in its config.json",
            fix="correct id2label there",
        )
    return LabelHead(
        files.reference,
        "labels" if config.get("problem_type") == "multi_label_classification" else "label",
        labels,
    )


def _build_identity(
    files: ModelFiles, metadata: ModelMetadata | None, dtype: str
) -> dict[str, str]:
    identity = {"model": files.reference, "dtype": dtype}
    if metadata is not None:
        return identity | {"contract": hash_model_metadata(files.path)}
    identity |= {"weights": hash_weights(files.path), **hash_model_files(files.path)}
    parts = sorted(path.parent for path in files.path.glob("*/config.json"))
    identity |= {f"weights of {part.name}": hash_weights(part) for part in parts}
    if files.revision:
        identity["revision"] = files.revision
    return identity | {"spread": SPREAD_FACT}


def check_encoder(engine: EncoderEngine, name: str) -> None:
    """Raise EngineError if one forward pass fails or returns no valid numbers."""
    scorer = engine.scorer
    labels = [Description("knee"), Description("wrist")]
    branches: tuple[Branch, ...] = (Branch("", ("knee", "wrist"), descriptions=tuple(labels)),)
    if isinstance(scorer, EncoderClassifier):
        labels = [Description(label) for label in scorer.head.labels]
        candidates = tuple(label.name for label in labels)
        branches = (Branch("", candidates, descriptions=tuple(labels)),)
        if not KINDS[scorer.head.kind].exclusive:
            branches = tuple(Branch("", ("yes", "no"), descriptions=(label,)) for label in labels)
    try:
        (result,) = engine.score(
            [Prompt("probe", (Message("user", "Torn meniscus"),), branches, "Torn meniscus")]
        )
    except (EngineError, ValueError, TypeError, AttributeError, IndexError) as error:
        cause = error.__cause__ or error
        raise EngineError(
            f"{name} does not work as an encoder ({type(cause).__name__})",
            fix=f"name a sentence encoder, or leave {SCHEME} out",
        ) from error
    if not isinstance(result, Scores) or any(
        math.isnan(score.logprobs[0]) for score in result.branches
    ):
        raise EngineError(
            f"{name} returns no valid numbers",
            fix="choose another dtype (--dtype float32) or another model",
        )

"""Loads an encoder that was exported to ONNX as a tested engine; torch is not needed."""

from __future__ import annotations

from pathlib import Path

from medtask.engines.base import EngineInfo
from medtask.engines.encoder.engine import EncoderEngine, EncoderScorer
from medtask.engines.encoder.load import check_encoder, check_head, describe_head, read_head
from medtask.engines.encoder.onnx_model import (
    ONNX_FILE,
    OnnxClassifier,
    OnnxModel,
    OnnxSentenceEncoder,
    locate_weights,
    read_onnx_settings,
    read_tokenizer,
)
from medtask.engines.encoder.zero_shot import (
    CALIBRATION_NOTE,
    SPREAD_FACT,
    ZeroShotScorer,
)
from medtask.engines.files.model_files import ONNX_SETTINGS_FILE, ModelFiles
from medtask.engines.files.weights import hash_model_files, hash_weight_file
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.model_metadata import (
    METADATA_FILE,
    ModelMetadata,
    hash_model_metadata,
    read_model_metadata,
)
from medtask.engines.specs import BUILT_IN_ENGINES
from medtask.errors import InputError
from medtask.privacy import block_network


def load_onnx(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> EncoderEngine:
    """Load a folder that `medtask export --to onnx` wrote.

    Raises the errors of `load_model` in registry.py.
    """
    folder = Path(reference).expanduser()
    files = ModelFiles(reference, folder)
    has_metadata = (folder / METADATA_FILE).is_file()
    metadata = read_model_metadata(folder) if has_metadata else None
    settings = read_onnx_settings(folder)
    if not (folder / ONNX_FILE).is_file():
        raise InputError(
            f"{folder} is incomplete: {ONNX_FILE} is missing", fix="copy the whole folder again"
        )
    with block_network():
        model = OnnxModel(folder, settings, options.threads)
        tokenizer = read_tokenizer(folder)
        scorer, details = _make_scorer(files, metadata, model, tokenizer)
    info = EngineInfo(
        "onnx",
        f"{reference}, onnx {settings.quantization}, cpu",
        _build_identity(files, metadata),
        BUILT_IN_ENGINES["onnx"].traits,
        "cpu",
        notes=(CALIBRATION_NOTE,) if isinstance(scorer, ZeroShotScorer) else (),
        details={"threads": model.threads, **details},
    )
    engine = EncoderEngine(scorer, info)
    check_encoder(engine, reference)
    return engine


def _make_scorer(
    files: ModelFiles, metadata: ModelMetadata | None, model: OnnxModel, tokenizer: object
) -> tuple[EncoderScorer, dict[str, object]]:
    settings = model.settings
    if settings.output == "vectors":
        encoder = OnnxSentenceEncoder(
            model,
            tokenizer,
            pooling="",
            dense_layers=(),
            max_tokens=settings.max_tokens,
            prefix=settings.prefix,
            lowercase=settings.lowercase,
        )
        return ZeroShotScorer(encoder, files.reference), {}
    head = read_head(files, metadata, "onnx")
    if head is None:
        raise InputError(
            f"{files.reference} names no labels for its {settings.outputs} outputs",
            fix="export the model again, or copy its whole folder again",
        )
    check_head(head, settings.outputs)
    scorer = OnnxClassifier(model, tokenizer, head, settings.max_tokens)
    return scorer, describe_head(head, metadata)


def _build_identity(files: ModelFiles, metadata: ModelMetadata | None) -> dict[str, str]:
    identity = {"model": files.reference, "engine": "onnx"}
    if metadata is not None:
        return identity | {"contract": hash_model_metadata(files.path)}
    model = files.path / ONNX_FILE
    paths = (model, locate_weights(model), files.path / ONNX_SETTINGS_FILE)
    identity |= {path.name: hash_weight_file(path) for path in paths if path.is_file()}
    return identity | hash_model_files(files.path) | {"spread": SPREAD_FACT}

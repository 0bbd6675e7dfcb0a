"""Export of an encoder as a folder in ONNX format, which onnxruntime computes without torch."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from medtask.engines.base import Engine
from medtask.engines.encoder.classifier import EncoderClassifier
from medtask.engines.encoder.load import load_scorer, locate_encoder
from medtask.engines.encoder.onnx_model import (
    ONNX_FILE,
    OnnxSettings,
    Quantization,
    locate_weights,
)
from medtask.engines.encoder.zero_shot import ZeroShotScorer
from medtask.engines.files.model_files import require_torch
from medtask.engines.files.weights import list_model_files
from medtask.engines.model_metadata import write_model_metadata
from medtask.engines.registry import load_model
from medtask.errors import require_packages
from medtask.exporting.merged import LICENCE_PATTERNS, copy_training_files
from medtask.exporting.targets import ExportRequest
from medtask.privacy import block_network

# Their content is part of the graph and of onnx.json.
_SENTENCE_FILES = frozenset(
    {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
)


def write(request: ExportRequest, draft: Path) -> tuple[str, ...]:
    """See `ExportWriter.write`."""
    require_torch()
    require_packages("onnx", "onnxruntime", "onnxscript", fix="pip install 'medtask[hf,onnx]'")
    from medtask.exporting.onnx_graph import LogitsGraph, VectorsGraph, write_onnx

    files, metadata = locate_encoder(request.source.reference)
    with block_network():
        scorer, _ = load_scorer(files, metadata, "cpu", "float32", trainable=True)
        quantization = cast("Quantization", request.quantization)
        full = draft / (ONNX_FILE if quantization == "f32" else "full.onnx")
        if isinstance(scorer, EncoderClassifier):
            write_onnx(LogitsGraph(scorer.model), full, "logits")
            settings = OnnxSettings(
                output="logits",
                outputs=len(scorer.head.labels),
                quantization=quantization,
                max_tokens=scorer.max_input_tokens,
                pad_id=_find_pad_id(scorer.tokenizer),
            )
        else:
            encoder = cast("ZeroShotScorer", scorer).encoder
            write_onnx(VectorsGraph(encoder), full, "vectors")
            settings = OnnxSettings(
                output="vectors",
                outputs=encoder.embed([[0, 1]]).shape[1],
                quantization=quantization,
                max_tokens=encoder.max_tokens,
                pad_id=_find_pad_id(encoder.tokenizer),
                prefix=encoder.prefix,
                lowercase=encoder.lowercase,
            )
    if quantization == "q8":
        _quantize(full, draft / ONNX_FILE)
    settings.write(draft)
    _copy_files(files.path, draft)
    if metadata is not None:
        write_model_metadata(draft, replace(metadata, engine="onnx"))
        copy_training_files(request.source, draft)
    return ()


def check(request: ExportRequest, draft: Path) -> list[str]:
    """See `ExportWriter.check`: the comparison of answers reads all that this target writes."""
    return []


def open_exported(draft: Path) -> Engine:
    """See `ExportWriter.open_exported`."""
    return load_model(str(draft))


def finish(request: ExportRequest, path: Path) -> tuple[str, ...]:
    """See `ExportWriter.finish`: there is nothing to do."""
    return ()


def _quantize(full: Path, path: Path) -> None:
    """Store weights in 8 bits, one scale per output; activations get theirs when they are known."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a step that models of transformers do not need
    try:
        # Unsigned: sums of products with signed weights saturate on processors without VNNI.
        quantize_dynamic(full, path, weight_type=QuantType.QUInt8, per_channel=True)
    finally:
        logger.setLevel(before)
        for file in (full, locate_weights(full)):
            file.unlink(missing_ok=True)


def _find_pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id or 0)


def _copy_files(source: Path, folder: Path) -> None:
    """Copy config, tokenizer and licences."""
    paths = [path for path in list_model_files(source) if path.name not in _SENTENCE_FILES]
    paths += [path for pattern in LICENCE_PATTERNS for path in source.glob(pattern)]
    for path in paths:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)

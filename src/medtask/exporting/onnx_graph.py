"""Encoders as one ONNX graph: from token ids to the outputs of a head, or to a sentence vector."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medtask.engines.encoder.onnx_model import INPUT_NAMES, OutputKind
from medtask.errors import EngineError
from medtask.similarity import SentenceEncoder, pool_tokens

_ROWS, _TOKENS = 2, 7  # of the example; both are free in the graph


class LogitsGraph(nn.Module):
    """A classifier with its logits as the only output."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class VectorsGraph(nn.Module):
    """A sentence encoder with pooling, dense layers and normalisation."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.model = encoder.model
        self.pooling = encoder.pooling
        self.dense_layers = encoder.dense_layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors: Tensor = pool_tokens(hidden, attention_mask, self.pooling)
        for weights, offsets, use_tanh in self.dense_layers:
            vectors = nn.functional.linear(vectors, weights, offsets)
            vectors = vectors.tanh() if use_tanh else vectors
        return nn.functional.normalize(vectors, dim=1)


def write_onnx(graph: nn.Module, path: Path, output: OutputKind) -> None:
    """Write a graph whose number of texts and of tokens is free.

    Raises:
        EngineError: torch cannot export the architecture.
    """
    input_ids = torch.ones(_ROWS, _TOKENS, dtype=torch.long)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, _TOKENS // 2 :] = 0
    free = torch.export.Dim.DYNAMIC
    try:
        with _silence_torch(), torch.no_grad():
            program = torch.onnx.export(
                graph.eval(),
                (input_ids, attention_mask),
                dynamo=True,
                input_names=list(INPUT_NAMES),
                output_names=[output],
                dynamic_shapes={name: {0: free, 1: free} for name in INPUT_NAMES},
                verbose=False,
            )
    except Exception as error:  # whatever the model's code does
        raise EngineError(
            f"torch cannot export this architecture to ONNX ({type(error).__name__})",
            fix="export it --to mlflow, or train another base",
        ) from error
    assert program is not None
    program.save(path)


@contextmanager
def _silence_torch() -> Iterator[None]:
    """Suppress what torch's exporter logs and warns about its own code."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)

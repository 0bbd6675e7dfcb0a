"""Encoders in ONNX format: their settings, and their computation by onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from medtask.engines.encoder.classifier import EncoderClassifier
from medtask.engines.files.model_files import ONNX_SETTINGS_FILE, read_model_json
from medtask.errors import InputError, MissingExtra, require_packages
from medtask.hardware import count_usable_cores
from medtask.json_content import JsonContent, check_content
from medtask.json_files import InvalidJsonFile
from medtask.similarity import SentenceEncoder

ONNX_FILE = "model.onnx"
INPUT_NAMES = ("input_ids", "attention_mask")
FORMAT = 1
_FIX = "export the model again, or copy its whole folder again"

OutputKind = Literal["logits", "vectors"]
Quantization = Literal["f32", "q8"]


def locate_weights(model: Path) -> Path:
    """Where torch writes the weights of a large model, beside its file."""
    return model.with_name(f"{model.name}.data")


class OnnxSettings(JsonContent):
    """The content of ``onnx.json``.

    Attributes:
        output: "logits" of a classifier, or "vectors" of a sentence encoder, of length 1.
        outputs: The number of outputs per text.
        quantization: "f32", or "q8" for weights and activations of 8 bits.
        max_tokens: Maximum number of tokens per text, including special tokens.
        pad_id: The token that fills up shorter texts.
        prefix: See `SentenceEncoder`.
        lowercase: See `SentenceEncoder`.
        format: The format of the file.
    """

    model_config = ConfigDict(extra="ignore")

    output: OutputKind
    outputs: int
    quantization: Quantization
    max_tokens: int
    pad_id: int
    prefix: str = ""
    lowercase: bool = False
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        text = json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"
        (folder / ONNX_SETTINGS_FILE).write_text(text, encoding="utf-8")


def read_onnx_settings(folder: Path) -> OnnxSettings:
    """Read ``onnx.json``. Raises InputError if it is not valid."""
    path = folder / ONNX_SETTINGS_FILE
    content = read_model_json(path)
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} has the format {content.get('format')!r}; this version of medtask reads "
            f"format {FORMAT}",
            fix="use the version that wrote it",
        )
    try:
        return check_content(content, OnnxSettings)
    except InvalidJsonFile as error:
        invalid = ", ".join(error.keys)
        raise InputError(f"{path} has no valid values for {invalid}", fix=_FIX) from None


class OnnxModel:
    """Runs a model of ONNX format on the CPU.

    Args:
        folder: The folder with ``model.onnx``.
        settings: Its settings.
        threads: The number of threads; None for one per usable core.
    """

    def __init__(self, folder: Path, settings: OnnxSettings, threads: int | None = None) -> None:
        """Load the model.

        Raises:
            MissingExtra: onnxruntime is not installed.
            InputError: The file is damaged, or has other inputs than an exported encoder.
        """
        require_packages("onnxruntime", fix="pip install 'medtask[onnx]'")
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or count_usable_cores()
        options.log_severity_level = 3  # errors; warnings are about the optimisation of the graph
        self.settings = settings
        self.threads = options.intra_op_num_threads
        path = folder / ONNX_FILE
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # those of the library have no common base
            raise InputError(
                f"{path} cannot be loaded ({type(error).__name__})", fix=_FIX
            ) from None
        if {one.name for one in self._session.get_inputs()} != set(INPUT_NAMES):
            raise InputError(f"{path} has other inputs than {', '.join(INPUT_NAMES)}", fix=_FIX)

    def compute(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The outputs for texts as token ids, [texts, outputs]."""
        if self.settings.quantization == "f32":
            return self._run(tokens)
        # Activations are quantised with one scale for all texts that are computed together: a text
        # gets the same numbers in every batch only if it is computed alone.
        return np.concatenate([self._run([row]) for row in tokens])

    def _run(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        shape = len(tokens), max(map(len, tokens))
        input_ids = np.full(shape, self.settings.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        for place, row in enumerate(tokens):
            input_ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        (outputs,) = self._session.run(None, dict(zip(INPUT_NAMES, (input_ids, mask), strict=True)))
        found: NDArray[np.float32] = outputs
        return found


class OnnxClassifier(EncoderClassifier):
    """Scores labels by a classifier in ONNX format; ``model`` is an `OnnxModel`."""

    def compute_logits(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self.model.compute(tokens)
        return outputs


class OnnxSentenceEncoder(SentenceEncoder):
    """A sentence encoder in ONNX format; ``model`` is an `OnnxModel`, which also pools."""

    __slots__ = ()

    def embed(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.model.compute(tokens)
        return vectors


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer: by the tokenizers library alone, or by transformers if it changes the files.

    Raises:
        MissingExtra: transformers is needed and not installed.
    """
    from medtask.networks.tokenizer_file import read_tokenizer_file

    if tokenizer := read_tokenizer_file(folder):
        return tokenizer
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtra(
            "the tokenizer of this model needs transformers, which is not installed here",
            fix="pip install 'medtask[hf]'",
        ) from None
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

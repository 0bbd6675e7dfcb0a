"""Loads models, and checks their weights: complete, of the right shapes, finite, and not blank.

Libraries that load models initialise missing weights at random and ignore unexpected ones, with a
warning at most. The model then answers, and its numbers are different at every start.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medtask.display import format_count
from medtask.errors import EngineError

MAX_LISTED_TENSORS = 3
NOT_FINITE, BLANK = "not finite (NaN or infinite)", "all zero"
_FIX = "fetch the model again; its files are incomplete, or its config is of another model"
# Buffers that earlier versions of the libraries stored with the weights.
_STORED_BUFFERS = re.compile(
    r"(^|\.)(inv_freq|masked_bias|position_ids|attn\.bias|attention\.bias)$"
)


def load_pretrained(model_class: Any, folder: Path, device: str, dtype: str) -> tuple[Any, Any]:
    """Load a model by an Auto class of transformers, and its tokenizer.

    Raises:
        EngineError: Weights are missing, unexpected, of another shape or invalid.
    """
    import torch
    from transformers import AutoTokenizer

    with _hide_progress():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, loading_info = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=getattr(torch, dtype),
            ignore_mismatched_sizes=True,  # named by the check
            output_loading_info=True,
        )
    check_loaded_model(model, loading_info, folder)
    return model.to(device).eval(), tokenizer


def check_loaded_model(
    model: Any, loading_info: Mapping[str, Any], source: object, *, new_head: bool = False
) -> None:
    """Check a model that transformers has loaded.

    Args:
        model: The model.
        loading_info: The loading information of ``from_pretrained``, with
            ``ignore_mismatched_sizes=True``.
        source: The model's reference or folder, for messages.
        new_head: Whether the part on top of the base model is trained afterwards, and so may be
            missing or of another shape.

    Raises:
        EngineError: Weights are missing, unexpected, of another shape or invalid.
    """
    base = f"{model.base_model_prefix}."
    mismatched = {
        name: (found, expected) for name, found, expected in loading_info["mismatched_keys"]
    }
    missing = set(loading_info["missing_keys"]) - mismatched.keys()
    # Poolers are often missing. Only a head reads them.
    missing = {name for name in missing if not name.startswith("pooler.")}
    if new_head:
        mismatched = {name: found for name, found in mismatched.items() if name.startswith(base)}
        missing = {
            name
            for name in missing
            if name.startswith(base) and not name.startswith(f"{base}pooler.")
        }
    refuse_weights(source, "missing", missing)
    refuse_weights(
        source,
        "of another shape than the config says",
        {
            f"{name} {list(found)} for {list(expected)}"
            for name, (found, expected) in mismatched.items()
        },
    )
    refuse_weights(
        source, "not part of such a model", _list_unexpected(model, loading_info["unexpected_keys"])
    )
    if messages := loading_info.get("error_msgs"):
        raise EngineError(f"{source} could not be loaded: {messages[0]}", fix=_FIX)
    trained_later = (
        ()
        if not new_head
        else {name for name, _ in model.named_parameters() if not name.startswith(base)}
    )
    check_weight_values(
        ((name, value) for name, value in model.named_parameters() if name not in trained_later),
        source,
    )


def check_weight_values(
    weights: Iterable[tuple[str, Any]], source: object, *, allow_blank: bool = False
) -> None:
    """Raise EngineError for weights (name, torch tensor) that are not finite or blank.

    A matrix of zeros is a part of a file that was never written, for example by an interrupted
    download. Vectors of zeros are valid biases, and an untrained adapter (``allow_blank``) has
    matrices of zeros.
    """
    import torch

    not_finite, blank = [], []
    for name, value in weights:
        if not value.is_floating_point() or value.numel() == 0:
            continue
        low, high = torch.aminmax(value.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            not_finite.append(name)
        elif low == high == 0 and not allow_blank and is_weight_matrix(name, value.shape):
            blank.append(name)
    refuse_weights(source, NOT_FINITE, not_finite)
    refuse_weights(source, BLANK, blank)


def is_weight_matrix(name: str, shape: Collection[int]) -> bool:
    """Whether a tensor is a matrix of weights, which is never blank; biases and rows can be."""
    return sum(size > 1 for size in shape) > 1 and "bias" not in name.rpartition(".")[2]


def is_stored_buffer(name: str) -> bool:
    """Whether a stored tensor is a buffer that a model computes itself."""
    return _STORED_BUFFERS.search(name) is not None


def refuse_weights(source: object, problem: str, names: Collection[str], fix: str = _FIX) -> None:
    """Raise EngineError if there are ``names`` of tensors with a problem."""
    if not names:
        return
    listed = ", ".join(sorted(names)[:MAX_LISTED_TENSORS])
    more = len(names) - MAX_LISTED_TENSORS
    verb = "is" if len(names) == 1 else "are"
    raise EngineError(
        f"{source}: {format_count(len(names), 'tensor')} {verb} {problem}: {listed}"
        f"{f' and {more:,} more' if more > 0 else ''}",
        fix=fix,
    )


def _list_unexpected(model: Any, names: Iterable[str]) -> list[str]:
    """The stored tensors of parts that the model has.

    Others are valid: a vision tower beside a language model, the head of another task, and the
    scales of quantised weights, which a quantiser reads.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return []
    prefix = model.base_model_prefix
    parts = {name for name, _ in model.base_model.named_children()}
    parts |= {name for name, _ in model.named_children() if name != prefix}
    return [
        name
        for name in names
        if name.removeprefix(f"{prefix}.").partition(".")[0] in parts and not is_stored_buffer(name)
    ]


@contextmanager
def _hide_progress() -> Iterator[None]:
    """Hide the progress bars and warnings of transformers."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()

"""Comparison of model identities, so that a model does not judge its own answers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from medtask.engines.files.model_files import BUILT_IN_HUB_ID, BUILT_IN_MODEL

_SCHEME = re.compile(r"^(?:hf|llamacpp|mlx|vllm|ollama|groq|openai|llama-server|vllm-server):")
# The parts of a name that describe the format of the same weights.
_FORMAT_SUFFIX = re.compile(
    r"[-_.:@](?:i?q[2-8](?:_\w+)?|f16|fp16|bf16|fp8|f32|[248]bit|int[48]|awq|gptq|nf4|bnb|gguf|mlx|latest)(?![a-z0-9])"
)
_HASH = re.compile(r"[0-9a-f]{32,}")
_GENERIC_NAME = re.compile(
    r"(?:model|adapter|merged|final|best|output|checkpoint)[-_\d]*"
)  # folder names that do not identify a model


def find_same_model(judge: Mapping[str, str], judged: Mapping[str, str]) -> str | None:
    """Why two models are the same, according to their `EngineInfo.identity`; None if they differ.

    They are the same if they share weights, or if their names differ only in location and
    packaging: organisation, revision, number format, quantisation. A fine-tuned model is not
    detected if neither a hash nor its name identifies the base model.
    """
    hashes = {value for value in judged.values() if _HASH.fullmatch(value)}
    if any(value in hashes for value in judge.values()):
        return "they share weights"
    names = _list_model_names(judge).keys() & _list_model_names(judged).keys()
    return f"both are {_list_model_names(judge)[min(names)]}" if names else None


def _list_model_names(identity: Mapping[str, str]) -> dict[str, str]:
    """The normalised names of a model, each with the reference that it is from."""
    references = [identity[key] for key in ("model", "reference") if identity.get(key)]
    # The address of a server does not identify a model, unless it includes the model's name.
    return {
        normalise_model_name(reference): reference
        for reference in references
        if "#" in reference or "://" not in reference
    }


def normalise_model_name(reference: str) -> str:
    """ "gemma34bit" for google/gemma-3-4b-it@main, gemma-3-4b-it-Q4_K_M.gguf and
    ollama:gemma3:4b-it-q4_K_M.
    """
    name = BUILT_IN_HUB_ID if reference == BUILT_IN_MODEL else reference
    name = name.rpartition("#")[2] if "#" in name else _SCHEME.sub("", name)
    name = re.split(r"[/\\]", name.rstrip("/\\"))[-1].partition("@")[0].casefold()
    while (shorter := _FORMAT_SUFFIX.sub("", name)) != name:
        name = shorter
    bare = re.sub(r"[^a-z0-9]", "", name)
    return reference.casefold() if not bare or _GENERIC_NAME.fullmatch(name) else bare

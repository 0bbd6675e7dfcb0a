"""Whether two models are one, as far as their identities tell: a model is no judge of its own
answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from medtask.engines.files.model_files import BUILT_IN_HUB_ID, BUILT_IN_MODEL

_SCHEME = re.compile(r"^(?:hf|llamacpp|mlx|vllm|ollama|groq|openai|llama-server|vllm-server):")
# How a name tells in which form the same weights are packed.
_FORMAT_SUFFIX = re.compile(
    r"[-_.:@](?:i?q[2-8](?:_\w+)?|f16|fp16|bf16|fp8|f32|[248]bit|int[48]|awq|gptq|nf4|bnb|gguf|mlx|latest)(?![a-z0-9])"
)
_HASH = re.compile(r"[0-9a-f]{32,}")
_GENERIC_NAME = re.compile(
    r"(?:model|adapter|merged|final|best|output|checkpoint)[-_\d]*"
)  # names of folders that name no model


def find_same_model(judge: Mapping[str, str], judged: Mapping[str, str]) -> str | None:
    """Why two models count as one, by what ``EngineInfo.identity`` tells of each; None where
    nothing says so.

    They share weights, or their names differ only in where the model lies and how it is packed:
    organisation, revision, number format, quantisation. A tuned model whose base neither a hash nor
    its name tells is not found out.
    """
    hashes = {value for value in judged.values() if _HASH.fullmatch(value)}
    if any(value in hashes for value in judge.values()):
        return "they share weights"
    names = _list_model_names(judge).keys() & _list_model_names(judged).keys()
    return f"both are {_list_model_names(judge)[min(names)]}" if names else None


def _list_model_names(identity: Mapping[str, str]) -> dict[str, str]:
    """The bare names of a model, each with the reference that it is from."""
    references = [identity[key] for key in ("model", "reference") if identity.get(key)]
    # The address of a server names no model, unless it says which of the server's it is.
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

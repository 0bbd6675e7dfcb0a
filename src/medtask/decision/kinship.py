"""Whether two models are one, as far as their identities tell: a model is no judge of its own
answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from medtask.engines.files.locate import BUILT_IN, BUILT_IN_ON_HUB

_SCHEME = re.compile(r"^(?:hf|llamacpp|mlx|vllm|ollama|groq|openai|llama-server|vllm-server):")
# How a name tells in which form the same weights are packed.
_PACKED = re.compile(
    r"[-_.:@](?:i?q[2-8](?:_\w+)?|f16|fp16|bf16|fp8|f32|[248]bit|int[48]|awq|gptq|nf4|bnb|gguf|mlx|latest)(?![a-z0-9])"
)
_HASH = re.compile(r"[0-9a-f]{32,}")
_ANYBODYS = re.compile(
    r"(?:model|adapter|merged|final|best|output|checkpoint)[-_\d]*"
)  # names of folders that name no model


def find_kinship(judge: Mapping[str, str], judged: Mapping[str, str]) -> str | None:
    """Why two models count as one, by what ``EngineInfo.identity`` tells of each; None where
    nothing says so.

    They share weights, or their names differ only in where the model lies and how it is packed:
    organisation, revision, number format, quantisation. A tuned model whose base neither a hash nor
    its name tells is not found out.
    """
    hashes = {value for value in judged.values() if _HASH.fullmatch(value)}
    if any(value in hashes for value in judge.values()):
        return "they share weights"
    names = _name_models(judge).keys() & _name_models(judged).keys()
    return f"both are {_name_models(judge)[min(names)]}" if names else None


def _name_models(identity: Mapping[str, str]) -> dict[str, str]:
    """The bare names of a model, each with the reference that it is from."""
    references = [identity[key] for key in ("model", "reference") if identity.get(key)]
    # The address of a server names no model, unless it says which of the server's it is.
    return {
        bare_name(reference): reference
        for reference in references
        if "#" in reference or "://" not in reference
    }


def bare_name(reference: str) -> str:
    """ "gemma34bit" for google/gemma-3-4b-it@main, gemma-3-4b-it-Q4_K_M.gguf and
    ollama:gemma3:4b-it-q4_K_M.
    """
    name = BUILT_IN_ON_HUB if reference == BUILT_IN else reference
    name = name.rpartition("#")[2] if "#" in name else _SCHEME.sub("", name)
    name = re.split(r"[/\\]", name.rstrip("/\\"))[-1].partition("@")[0].casefold()
    while (shorter := _PACKED.sub("", name)) != name:
        name = shorter
    bare = re.sub(r"[^a-z0-9]", "", name)
    return reference.casefold() if not bare or _ANYBODYS.fullmatch(name) else bare

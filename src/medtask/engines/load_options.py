"""Options of loading a model: device, dtype, memory, context, adapter, permissions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

Dtype = Literal["auto", "float32", "bfloat16", "float16", "file"]
Quantization = Literal["4bit", "8bit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Options of a loader. An engine supports some of them: see ``EngineSpec.option_fields``.

    Attributes:
        dtype: Number format of the weights; "auto" lets the engine choose, "file" keeps the format
            of a GGUF file.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        quantize: Quantize the weights while they are loaded (CUDA only).
        memory: Bytes that the model and its work may use; None for all free memory.
        adapter: A folder with a PEFT adapter (a .gguf file for GGUF models).
        context_tokens: Tokens of a prompt and its answer together.
        tokenizer: The model whose tokenizer counts prompts for a server that does not count them.
        allow_remote: Whether records may be sent to a server on another machine.
        allow_unverified_context: Whether to accept a server that does not report how many tokens
            it read.
        concurrency: Largest number of simultaneous requests; None for the engine's default.
        deadline_s: Seconds after which a request is aborted; None for the engine's default.
        gpus: Number of GPUs over which the model is spread.
        threads: Largest number of threads on the CPU; None for one per core that this process may
            use. Answers do not depend on it.
    """

    dtype: Dtype = "auto"
    device: str = "auto"
    quantize: Quantization | None = None
    memory: int | None = None
    adapter: str | None = None
    context_tokens: int | None = None
    tokenizer: str | None = None
    allow_remote: bool = False
    allow_unverified_context: bool = False
    concurrency: int | None = None
    deadline_s: float | None = None
    gpus: int = 1
    threads: int | None = None

    def list_given(self) -> tuple[str, ...]:
        """Names of the options that differ from their default."""
        return tuple(
            option.name for option in fields(self) if getattr(self, option.name) != option.default
        )

    def to_values(self) -> dict[str, Any]:
        """The options that differ from their default, as keyword arguments."""
        return {name: getattr(self, name) for name in self.list_given()}

    def select(self, names: frozenset[str]) -> LoadOptions:
        """These options, with every option outside ``names`` at its default."""
        return LoadOptions(**{name: one for name, one in self.to_values().items() if name in names})


class LoadOptionValues(TypedDict, total=False):
    """The fields of `LoadOptions` as keyword arguments of `medtask.load_model`."""

    dtype: Dtype
    device: str
    quantize: Quantization | None
    memory: int | None
    adapter: str | None
    context_tokens: int | None
    tokenizer: str | None
    allow_remote: bool
    allow_unverified_context: bool
    concurrency: int | None
    deadline_s: float | None
    gpus: int
    threads: int | None


DEFAULT_OPTIONS = LoadOptions()
ALL_OPTIONS = frozenset(option.name for option in fields(LoadOptions))


def format_option(name: str) -> str:
    """The command-line spelling of an option, as in "--context-tokens"."""
    return f"--{name.replace('_', '-')}"

"""Command-line options for loading a model, shared by all commands that load one."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtask.cli.option_groups import add_options
from medtask.cli.waiting import name_activity
from medtask.engines.load_options import LoadOptions
from medtask.hardware import parse_bytes

if TYPE_CHECKING:
    from medtask.cli.progress import RunProgressDisplay
    from medtask.engines.base import Engine

Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Device to compute on.")
]
MemoryLimit = Annotated[
    str | None, typer.Option(metavar="AMOUNT", help="Memory that the model may use, as in 8GB.")
]


def _declare_options(
    *,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A PEFT adapter to apply to the model.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "file"],
        typer.Option(help="Number format of the weights; file: as a GGUF file stores them."),
    ] = "auto",
    device: Device = "auto",
    quantize: Annotated[
        Literal["4bit", "8bit"] | None, typer.Option(help="Quantize the weights (CUDA only).")
    ] = None,
    memory: MemoryLimit = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Threads on the CPU; default: one for each usable core."
        ),
    ] = None,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote", help="Allow records to be sent to a model server on another machine."
        ),
    ] = False,
    context_tokens: Annotated[
        int | None,
        typer.Option(
            min=256,
            metavar="N",
            help="Tokens of prompt and answer, for engines that can set them (Ollama, vLLM).",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model whose tokenizer counts prompts for a server that does not.",
        ),
    ] = None,
    allow_unverified_context: Annotated[
        bool,
        typer.Option(
            "--allow-unverified-context",
            help="Accept a server that does not report how many tokens it read.",
        ),
    ] = False,
) -> LoadOptions:
    return LoadOptions(
        adapter=str(adapter) if adapter else None,
        dtype=dtype,
        device=device,
        quantize=quantize,
        memory=parse_bytes(memory) if memory else None,
        threads=threads,
        allow_remote=allow_remote,
        context_tokens=context_tokens,
        tokenizer=tokenizer,
        allow_unverified_context=allow_unverified_context,
    )


add_load_options = add_options("load_options", _declare_options)


def load_engine(reference: str, options: LoadOptions) -> Engine:
    """Load a model. Libraries print to standard error, because standard output is for results."""
    with name_activity(f"Loading {reference}"):
        return _load_engine(reference, options)


def _load_engine(reference: str, options: LoadOptions) -> Engine:
    from medtask.engines.registry import load_model

    with redirect_stdout(sys.stderr):
        return load_model(reference, options)


def load_shown_engine(reference: str, options: LoadOptions, display: RunProgressDisplay) -> Engine:
    """Load a model, and show its title and notes on the display."""
    display.on_load(reference)
    engine = _load_engine(reference, options)
    display.model_title = engine.info.title
    for note in engine.info.notes:
        display.on_note(note)
    return engine

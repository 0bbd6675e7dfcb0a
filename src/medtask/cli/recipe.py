"""The choices of a training as options, and a recipe from what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from medtask.tasks.task import Task
    from medtask.train.recipe import Recipe

_Method = Literal["lora", "rslora", "qlora", "dora", "full", "encoder", "linear", "hybrid"]
MethodName = Annotated[_Method, typer.Option(help="What is trained: see docs/training.md.")]
TunedMethod = Annotated[
    _Method | None, typer.Option(help="Search for the settings of such a training.")
]
ModelFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The folder of the model; default: models/METHOD beside the task."
    ),
]
Bases = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL", help="What training begins with; once for each model of a hybrid."
    ),
]
Also = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK[=TABLE]", help="A further task for the same model."),
]
ValidationTable = Annotated[
    str | None, typer.Option(metavar="TABLE", help="Rows to validate by; default: a share of DATA.")
]
Share = Annotated[
    float, typer.Option(metavar="SHARE", help="Of the rows, those that are kept to validate by.")
]
MinCount = Annotated[
    int, typer.Option(min=1, metavar="N", help="Leave out labels with fewer rows.")
]
Cap = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="At most so many rows of a label.")
]
Epochs = Annotated[float, typer.Option(metavar="N", help="How often every row is read.")]
Rate = Annotated[
    float | None, typer.Option(metavar="RATE", help="Highest learning rate; default: by method.")
]
Batch = Annotated[int, typer.Option(metavar="ROWS", help="Rows of one step.")]
Rank = Annotated[int, typer.Option(metavar="R", help="Of an adapter.")]
Alpha = Annotated[
    float | None,
    typer.Option(metavar="A", help="Of an adapter; default: 16, or twice the rank (LoRA)."),
]
Dropout = Annotated[float, typer.Option(metavar="SHARE", help="Of an adapter.")]
Patience = Annotated[
    int, typer.Option(metavar="N", help="Stop after so many validations without a gain.")
]
Validations = Annotated[int, typer.Option(metavar="N", help="How often an epoch is validated.")]
RowTokens = Annotated[int, typer.Option(metavar="N", help="Leave out rows with more tokens.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of everything that chance decides.")]
NoPack = Annotated[bool, typer.Option("--no-pack", help="Read the prompt anew for every row.")]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Less memory, a third more time.")
]
BaseFormat = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Number format of the base's weights."),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the model computes.")
]
Memory = Annotated[
    str | None, typer.Option(metavar="AMOUNT", help="What training may take, as in 8GB.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Demonstration = Annotated[
    bool, typer.Option("--demonstration", help="The model card says that it is none for real work.")
]

_AS_THEY_ARE = (
    "method",
    "epochs",
    "rate",
    "batch",
    "rank",
    "alpha",
    "dropout",
    "patience",
    "validations",
    "row_tokens",
    "seed",
)


def read_recipe(task: Task, chosen: Mapping[str, Any]) -> Recipe:
    """The recipe of a command's options, by their names. Without a base training begins with what
    suits the method.
    """
    from medtask.engines.registry import DEFAULT_MODEL, MINILM
    from medtask.hardware import parse_bytes
    from medtask.train.recipe import Recipe

    natural = {"linear": (), "encoder": (MINILM,), "hybrid": ()}
    return Recipe(
        bases=tuple(
            chosen["base"] or natural.get(chosen["method"], (task.model or DEFAULT_MODEL,))
        ),
        **{name: chosen[name] for name in (*_AS_THEY_ARE, "checkpointing", "dtype", "device")},
        pack=not chosen["no_pack"],
        memory=parse_bytes(chosen["memory"]) if chosen["memory"] else None,
    )

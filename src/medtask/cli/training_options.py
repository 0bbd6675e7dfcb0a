"""The choices of a training as options, and a recipe from what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from medtask.tasks.task import Task
    from medtask.training.recipe import Recipe

_TrainingMethod = Literal["lora", "rslora", "qlora", "dora", "full", "encoder", "linear", "hybrid"]
TrainingMethod = Annotated[
    _TrainingMethod, typer.Option(help="What is trained: see docs/training.md.")
]
SearchMethod = Annotated[
    _TrainingMethod | None, typer.Option(help="Search for the settings of such a training.")
]
OutputFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The folder of the model; default: models/METHOD beside the task."
    ),
]
BaseModels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL", help="What training begins with; once for each model of a hybrid."
    ),
]
FurtherTasks = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK[=TABLE]", help="A further task for the same model."),
]
ValidationTable = Annotated[
    str | None, typer.Option(metavar="TABLE", help="Rows to validate by; default: a share of DATA.")
]
ValidationShare = Annotated[
    float, typer.Option(metavar="SHARE", help="Of the rows, those that are kept to validate by.")
]
MinLabelRows = Annotated[
    int, typer.Option(min=1, metavar="N", help="Leave out labels with fewer rows.")
]
MaxLabelRows = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="At most so many rows of a label.")
]
EpochCount = Annotated[float, typer.Option(metavar="N", help="How often every row is read.")]
LearningRate = Annotated[
    float | None, typer.Option(metavar="RATE", help="Highest learning rate; default: by method.")
]
BatchRows = Annotated[int, typer.Option(metavar="ROWS", help="Rows of one step.")]
AdapterRank = Annotated[int, typer.Option(metavar="R", help="Of an adapter.")]
AdapterAlpha = Annotated[
    float | None,
    typer.Option(metavar="A", help="Of an adapter; default: 16, or twice the rank (LoRA)."),
]
AdapterDropout = Annotated[float, typer.Option(metavar="SHARE", help="Of an adapter.")]
EarlyStoppingPatience = Annotated[
    int, typer.Option(metavar="N", help="Stop after so many validations without a gain.")
]
ValidationsPerEpoch = Annotated[
    int, typer.Option(metavar="N", help="How often an epoch is validated.")
]
MaxRowTokens = Annotated[int, typer.Option(metavar="N", help="Leave out rows with more tokens.")]
RandomSeed = Annotated[int, typer.Option(metavar="N", help="Of everything that chance decides.")]
DisablePacking = Annotated[
    bool, typer.Option("--no-pack", help="Read the prompt anew for every row.")
]
GradientCheckpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Less memory, a third more time.")
]
BaseDtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Number format of the base's weights."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
MarkAsDemonstration = Annotated[
    bool, typer.Option("--demonstration", help="The model card says that it is none for real work.")
]

_RECIPE_FIELDS = (
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


def build_recipe(task: Task, options: Mapping[str, Any]) -> Recipe:
    """The recipe of a command's options, by their names. Without a base training begins with what
    suits the method.
    """
    from medtask.engines.files.model_files import BUILT_IN_MODEL, MINILM
    from medtask.hardware import parse_bytes
    from medtask.training.recipe import Recipe

    default_bases = {"linear": (), "encoder": (MINILM,), "hybrid": ()}
    return Recipe(
        bases=tuple(
            options["base"] or default_bases.get(options["method"], (task.model or BUILT_IN_MODEL,))
        ),
        **{name: options[name] for name in (*_RECIPE_FIELDS, "checkpointing", "dtype", "device")},
        pack=not options["no_pack"],
        memory=parse_bytes(options["memory"]) if options["memory"] else None,
    )

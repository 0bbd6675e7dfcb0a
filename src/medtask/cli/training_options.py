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
    _TrainingMethod, typer.Option(help="Training method: see docs/training.md.")
]
SearchMethod = Annotated[
    _TrainingMethod | None, typer.Option(help="Optimize the settings of this training method.")
]
OutputFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Model folder; default: models/METHOD beside the task."),
]
BaseModels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL", help="Base model; repeat the option for the members of a hybrid."
    ),
]
FurtherTasks = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK[=TABLE]", help="Additional task for the same model."),
]
ValidationTable = Annotated[
    str | None, typer.Option(metavar="TABLE", help="Validation table; default: a share of DATA.")
]
ValidationShare = Annotated[
    float, typer.Option(metavar="SHARE", help="Share of rows used for validation.")
]
MinLabelRows = Annotated[
    int, typer.Option(min=1, metavar="N", help="Leave out labels with fewer rows.")
]
MaxLabelRows = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Maximum number of rows per label.")
]
EpochCount = Annotated[float, typer.Option(metavar="N", help="Number of epochs.")]
LearningRate = Annotated[
    float | None, typer.Option(metavar="RATE", help="Maximum learning rate; default: by method.")
]
BatchRows = Annotated[int, typer.Option(metavar="ROWS", help="Rows per step.")]
AdapterRank = Annotated[int, typer.Option(metavar="R", help="Rank of the adapter.")]
AdapterAlpha = Annotated[
    float | None,
    typer.Option(metavar="A", help="Alpha of the adapter; default: 16, or twice the rank (LoRA)."),
]
AdapterDropout = Annotated[float, typer.Option(metavar="SHARE", help="Dropout of the adapter.")]
EarlyStoppingPatience = Annotated[
    int, typer.Option(metavar="N", help="Stop after this many validations without improvement.")
]
ValidationsPerEpoch = Annotated[int, typer.Option(metavar="N", help="Validations per epoch.")]
MaxRowTokens = Annotated[int, typer.Option(metavar="N", help="Leave out rows with more tokens.")]
RandomSeed = Annotated[int, typer.Option(metavar="N", help="Random seed.")]
DisablePacking = Annotated[
    bool, typer.Option("--no-pack", help="Do not share the prompt prefix between rows.")
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option(
        "--checkpointing", help="Gradient checkpointing: less memory, about a third more time."
    ),
]
BaseDtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Number format of the base model's weights."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]
MarkAsDemonstration = Annotated[
    bool,
    typer.Option("--demonstration", help="Mark the model as a demonstration in its model card."),
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

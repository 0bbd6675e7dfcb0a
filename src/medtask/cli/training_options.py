"""Command-line options of the training settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medtask.training.methods import Method

TrainingMethod = Annotated[
    Method | None,
    typer.Option(help="The training method; default: auto without --base, else rslora."),
]
SearchMethod = Annotated[
    Method | None, typer.Option(help="Search for the settings of this training method.")
]
OutputFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Model folder; default: models/METHOD beside the task."),
]
BaseModels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL", help="The model to start from; repeat it for each model of a hybrid."
    ),
]
FurtherTasks = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK[=TABLE]", help="Additional task for the same model."),
]
ValidationTable = Annotated[
    str | None, typer.Option(metavar="TABLE", help="Validation rows; default: a share of DATA.")
]
ValidationShare = Annotated[
    float, typer.Option(metavar="SHARE", help="The share of rows set aside for validation.")
]
MinLabelRows = Annotated[
    int, typer.Option(min=1, metavar="N", help="Leave out labels with fewer rows.")
]
MaxLabelRows = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Use at most this many rows per label.")
]
FoldCount = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="Also answer every row by a model that was not trained on it or its group: N further "
        "trainings, and a run folder.",
    ),
]
EpochCount = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="Passes over the training rows; default: 3, up to 20 for an encoder with few rows.",
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(metavar="RATE", help="The highest learning rate; default: by method."),
]
BatchRows = Annotated[int, typer.Option(metavar="ROWS", help="Rows per step.")]
AdapterRank = Annotated[int, typer.Option(metavar="R", help="The rank of an adapter.")]
AdapterLayers = Annotated[
    int | None,
    typer.Option(metavar="N", help="The number of last layers that get an adapter; default: all."),
]
AdapterAlpha = Annotated[
    float | None,
    typer.Option(
        metavar="A", help="The alpha of an adapter; default: 16, or twice the rank (LoRA)."
    ),
]
AdapterDropout = Annotated[float, typer.Option(metavar="SHARE", help="The dropout of an adapter.")]
EarlyStoppingPatience = Annotated[
    int, typer.Option(metavar="N", help="Stop after this many epochs without a gain.")
]
ValidationsPerEpoch = Annotated[int, typer.Option(metavar="N", help="Validations per epoch.")]
MaxRowTokens = Annotated[int, typer.Option(metavar="N", help="Leave out rows with more tokens.")]
RandomSeed = Annotated[int, typer.Option(metavar="N", help="The seed of all random choices.")]
TimeBudget = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="The time for --method auto, such as 10m (the default)."),
]
InjectionShare = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="The share of training rows that a language model also reads with a planted "
        "instruction, to learn to ignore it.",
    ),
]
DisablePacking = Annotated[
    bool, typer.Option("--no-pack", help="Read the whole prompt for every row.")
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option("--checkpointing", help="Recompute activations: less memory, a third slower."),
]
BaseDtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="The number format of the base's weights."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Describe the training, and do nothing.")]
MarkAsDemonstration = Annotated[
    bool,
    typer.Option(
        "--demonstration", help="State in the model card that the model is not for real work."
    ),
]


def read_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe from a command's options, which have the names of its fields."""
    from medtask.hardware import parse_bytes
    from medtask.training.recipe import RECIPE_FIELDS
    from medtask.training.search.search_budget import parse_duration

    settings = {
        name: options[name] for name in RECIPE_FIELDS if name in options and name != "method"
    }
    settings["pack"] = not options["no_pack"]
    settings["budget"] = parse_duration(options["budget"]) if options["budget"] else None
    settings["memory"] = parse_bytes(options["memory"]) if options["memory"] else None
    return settings

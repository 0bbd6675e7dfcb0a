"""Facts of trainings that never were, for the tests of model cards."""

from __future__ import annotations

from medtask.evaluation.statistics.intervals import Metric
from medtask.training.model_card_content import CardContent, CardLabel, CardTask
from medtask.training.training_log import TrainingPoint

CARD_TASK = CardTask(
    name="surgery-purpose",
    kind="label",
    instruction="Decide the main purpose of this operation with regard to cancer.",
    table="procedures.csv",
    sha256="5e" * 32,
    rows=1_204,
    train_rows=1_029,
    validation_rows=114,
    labels=(
        CardLabel("diagnostic", "takes tissue to find out whether there is cancer, and which", 512),
        CardLabel("curative", "removes a proven cancer completely, with intent to cure", 505),
        CardLabel("palliative", "", 12),
        CardLabel("staging", "finds out how far a proven cancer has spread", 0),
    ),
    abstain="not enough information",
    dropped={"no gold": 31, "the same text as an earlier row": 30},
    split="one in ten rows was kept for validation, equal texts and groups together, seed 0",
    leaks=(
        "no text of one part is in the other",
        "3 of 114 validation rows are near duplicates of rows learnt from",
    ),
    metrics={
        "accuracy": Metric(0.912, 114, 0.846, 0.952),
        "macro_f1": Metric(0.874, 114, 0.79, 0.93),
    },
    baselines={
        "TF-IDF": {"accuracy": Metric(0.833, 114, 0.754, 0.891)},
        "majority": {"accuracy": Metric(0.439, 114, 0.351, 0.53)},
    },
    calibration="calibrated by temperature 1.31, fitted on 114 rows",
    fingerprint="ab" * 32,
    phi="no",
)

CARD_FACTS = CardContent(
    name="surgery-purpose-rslora",
    folder="models/surgery-purpose",
    method="rslora",
    tasks=(CARD_TASK,),
    bases=("smollm2-135m",),
    base_models=("HuggingFaceTB/SmolLM2-135M-Instruct",),
    license="apache-2.0",
    recipe={
        "epochs": 2.0,
        "rate": 0.001,
        "batch": 32,
        "rank": 16,
        "pack": True,
        "alpha": None,
        "bases": ["smollm2-135m"],
    },
    points=(
        TrainingPoint(33, 66, 1.0, loss=0.91, seconds=200.0),
        TrainingPoint(33, 66, 1.0, validation_loss=0.41, score=0.877, seconds=210.0),
        TrainingPoint(66, 66, 2.0, loss=0.32, seconds=410.0),
        TrainingPoint(66, 66, 2.0, validation_loss=0.33, score=0.912, seconds=420.0),
    ),
    loss_plot="loss.svg",
    seconds=420.0,
    hardware="2 cores, 8 GB of memory",
    versions={"medtask": "0.6.0", "peft": "0.21.0"},
    fingerprints={"data": "5e" * 32},
    command=(
        "medtask train examples/surgery_purpose --base smollm2-135m --method rslora --out "
        "models/surgery-purpose"
    ),
)

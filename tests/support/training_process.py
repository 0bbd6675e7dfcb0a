"""A training in a separate process, to be killed: python trainee.py FOLDER BASE [SECONDS A
STEP].
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from medtask.training import trainer as loop
from medtask.training.recipe import Recipe
from medtask.training.train import TaskData, train_tasks
from medtask.training.training_data import RowSelection
from medtask.training.training_log import NullTrainingObserver, TrainingPoint
from support.small_trainings import make_rows, make_task


class SlowObserver(NullTrainingObserver):
    """Gives whoever kills this process time to do so at any step."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def on_point(self, point: TrainingPoint) -> None:
        time.sleep(self.pause)


def main(folder: Path, base: str, pause: float) -> int:
    loop.CHECKPOINT_SECONDS = 0.0  # one behind every step
    task = make_task(folder / "task")
    recipe = Recipe(bases=(base,), epochs=3, batch=8, rank=4, alpha=4.0, rate=1e-2, dtype="float32")
    return train_tasks(
        [TaskData(task, make_rows())],
        recipe,
        out=folder / "out",
        selection=RowSelection(0.2),
        observer=SlowObserver(pause),
    ).exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], float((sys.argv[3:] or ["0"])[0])))

"""The plan of a training: its steps and the steps after which it is validated."""

from __future__ import annotations

from medtask.training.recipe import Recipe
from medtask.training.training_plan import plan_training


def test_validations_come_at_each_epochs_end_and_at_the_last_step() -> None:
    assert plan_training(10, Recipe(epochs=2.5)).validation_steps == {10, 20, 25}
    assert plan_training(10, Recipe(epochs=1, validations=2)).validation_steps == {5, 10}
    assert plan_training(3, Recipe(epochs=0.1)).steps == 1
    assert plan_training(1, Recipe(epochs=3, validations=4)).validation_steps == {1, 2, 3}


def test_an_encoder_with_few_rows_has_more_epochs_unless_they_are_given() -> None:
    encoder = Recipe(method="encoder")
    assert plan_training(4, encoder).steps == 80  # 20 epochs at most
    assert plan_training(10, encoder).steps == 100
    assert plan_training(1_000, encoder).steps == 3_000
    assert plan_training(4, Recipe(method="encoder", epochs=2)).steps == 8
    assert plan_training(4, Recipe(method="lora")).steps == 12

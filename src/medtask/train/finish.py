"""The end of a training: the model is loaded as a run loads it, measured, calibrated, described,
and put in its place whole.

The model's own rows to validate by are answered by a real run of their task, in the training's work
folder, so that its figures are those that `medtask run` and `medtask evaluate` would give. That run
holds texts of rows, and goes with the work folder.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.data.atomic import replace_text, storage_error
from medtask.data.read import read_table
from medtask.engines.base import Engine
from medtask.engines.files.locate import BUILT_IN, BUILT_IN_ON_HUB
from medtask.engines.registry import load_model
from medtask.engines.trained import CALIBRATION, CONTRACT, TRAINING, write_trained
from medtask.errors import MedtaskError
from medtask.hardware import format_bytes, inspect_machine
from medtask.runs.answered import open_answers
from medtask.runs.calibrations import keep_calibration
from medtask.runs.evaluation import Evaluation, Wanted, evaluate_answers
from medtask.runs.interrupt import Interrupted, Signals
from medtask.runs.local import run
from medtask.tasks.task import Fields, FreeText
from medtask.train.desk import DRAFT, WORK, Desk, Fitted
from medtask.train.journal import Journal, Unwatched
from medtask.train.material import Material
from medtask.train.recipe import LANGUAGE, Recipe
from medtask.train.validate import name_score

if TYPE_CHECKING:
    from medtask.evaluate.intervals import Estimate

# Rows of the kinds that are written which are written for: a text takes seconds.
WRITTEN_ROWS = 100
LINEAR = "TF-IDF"
PICTURE = "loss.svg"
_PACKAGES = ("medtask", "torch", "transformers", "peft", "accelerate", "scikit-learn", "numpy")


@dataclass(frozen=True, slots=True)
class Measured:
    """How good the model is at one of its tasks. ``rivals``: by name, the same measures of simpler
    methods on the same rows.
    """

    material: Material
    evaluation: Evaluation
    rivals: Mapping[str, Mapping[str, Estimate]]

    @property
    def figures(self) -> dict[str, Estimate | None]:
        gold = self.evaluation.summary.gold
        return dict(gold.quality.figures) if gold and gold.quality else {}

    @property
    def measure(self) -> str:
        """The headline's name."""
        gold = self.evaluation.summary.gold
        return gold.quality.headlines[0] if gold and gold.quality else ""

    @property
    def calibration(self) -> str:
        fit = self.evaluation.fit
        return "" if fit is None else fit.describe() if hasattr(fit, "describe") else str(fit)


def measure_model(
    draft: Path, work: Path, materials: Sequence[Material], recipe: Recipe
) -> list[Measured]:
    """Answer each task's rows to validate by with the model in ``draft``, and fit its calibrations
    on them (into the draft).
    """
    options = (
        {"dtype": recipe.dtype, "device": recipe.device, "memory": recipe.memory}
        if recipe.method in LANGUAGE
        else {}
    )
    found = []
    with closing(load_model(str(draft), **options)) as engine:
        for place, material in enumerate(materials, 1):
            measured = _measure(engine, work / f"validation-{place}", material)
            if measured.evaluation.kept is not None:
                keep_calibration(
                    draft / CALIBRATION,
                    replace(
                        measured.evaluation.kept, run="the rows that the training was validated by"
                    ),
                )
            found.append(measured)
    return found


def _measure(engine: Engine, folder: Path, material: Material) -> Measured:
    task = material.task
    evaluation = _answer(engine, folder, material)
    scored = not isinstance(task.form, FreeText | Fields)
    return Measured(
        material, evaluation, _measure_linear(engine, folder, material) if scored else {}
    )


def _answer(engine: Engine, folder: Path, material: Material) -> Evaluation:
    """The evaluation of a real run over the rows to validate by, in a folder of its own."""
    task, lessons = material.task, material.validation
    written = isinstance(task.form, FreeText | Fields)
    rows = [
        dict(lesson.record.fields) for lesson in (lessons[:WRITTEN_ROWS] if written else lessons)
    ]
    shutil.rmtree(folder, ignore_errors=True)
    # Without further passes and thresholds that would be fitted on the very rows: it is the model
    # that is measured.
    plain = replace(task, passes=(), id_column=None, source=None)
    once: dict[str, Any] = {"max_error_rate": 1.0, "calibrated": False, "compared": False}
    if (
        run(plain, engine, read_table(rows), out=folder, gold_column=task.gold_column, **once).state
        == "interrupted"
    ):
        raise Interrupted(
            signal.SIGINT
        )  # what was trained is safe: the same command measures it again
    wanted = Wanted(calibrate=None if written else "auto", baselines=False)
    return evaluate_answers(open_answers(folder, task=task, gold=task.gold_column), wanted)


def _measure_linear(
    engine: Engine, folder: Path, material: Material
) -> Mapping[str, Mapping[str, Estimate]]:
    """TF-IDF and logistic regression that learnt from the same rows: what every other method has to
    beat.
    """
    from medtask.train.linear import fit_linear

    if engine.info.name == "linear" or material.task.kind not in ("label", "labels"):
        return {}
    draft, work = (
        folder.with_name(f"{folder.name}-linear"),
        folder.with_name(f"{folder.name}-linear-run"),
    )
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    watch = Unwatched()
    try:
        fit_linear(
            [material],
            Recipe(method="linear"),
            Desk(draft, work, Journal(draft / "loss.csv", watch), watch, Signals()),
        )
        with closing(load_model(str(draft))) as rival:
            gold = _answer(rival, work, material).summary.gold
    except (
        MedtaskError
    ):  # it cannot learn from these rows: then there is nothing to hold the model against
        return {}
    return (
        {LINEAR: {name: one for name, one in gold.quality.figures.items() if one}}
        if gold and gold.quality
        else {}
    )


def finish(
    folder: Path,
    materials: Sequence[Material],
    recipe: Recipe,
    fitted: Fitted,
    journal: Journal,
    facts: Mapping[str, Any],
    *,
    demonstration: bool,
) -> list[Measured]:
    """Measure the drafted model, describe it, and move it into its folder: the contract last, so
    that nothing half there is loaded.

    ``facts``: what the training's own file tells so far; it is rewritten with how it ended.
    """
    from medtask.train.clean import write_cleaning
    from medtask.train.curve import write_picture

    draft = folder / DRAFT
    write_trained(draft, fitted.trained)
    measured = measure_model(draft, folder / WORK, materials, recipe)
    ended = {**facts, **_tell_end(fitted, measured, journal)}
    card = _describe(folder, materials, recipe, fitted, measured, journal, ended, demonstration)
    try:
        if journal.points:
            write_picture(
                folder / PICTURE,
                journal.points,
                name_score(material.task for material in materials),
            )
        for place, material in enumerate(materials, 1):
            if material.cleaning is not None and material.cleaning.dropped:
                write_cleaning(
                    folder / ("cleaning.csv" if len(materials) == 1 else f"cleaning-{place}.csv"),
                    material.cleaning,
                )
        replace_text(folder / "README.md", card)
        (folder / CONTRACT).unlink(
            missing_ok=True
        )  # an earlier session's, of what was the best until then
        for path in sorted(draft.iterdir()):
            path.chmod(0o600)  # libraries write files for everybody
            if path.name != CONTRACT:
                path.replace(folder / path.name)
        replace_text(folder / TRAINING, json.dumps(ended, indent=2, default=str) + "\n")
        (draft / CONTRACT).replace(folder / CONTRACT)
        shutil.rmtree(draft, ignore_errors=True)
        if not fitted.stopped:
            shutil.rmtree(folder / WORK, ignore_errors=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    return measured


def _tell_end(fitted: Fitted, measured: Sequence[Measured], journal: Journal) -> dict[str, Any]:
    """What training.json tells of the end: numbers and names, no text of a row."""
    best = min(
        (point.validation_loss for point in journal.points if point.validation_loss is not None),
        default=None,
    )
    return {
        "state": "interrupted" if fitted.stopped else "finished",
        "facts": dict(fitted.facts),
        "notes": list(fitted.notes),
        "validation_loss": best,
        "untrained": next((point.score for point in journal.points if point.step == 0), None),
        "measured": [
            {
                "task": one.material.task.name,
                "measure": one.measure,
                "figures": {
                    name: asdict(figure) if figure else None for name, figure in one.figures.items()
                },
                "rivals": {
                    rival: {name: asdict(figure) for name, figure in figures.items()}
                    for rival, figures in one.rivals.items()
                },
                "calibration": one.calibration,
            }
            for one in measured
        ],
        "versions": list_versions(),
    }


def list_versions() -> dict[str, str]:
    """The versions of what a training rests on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _describe(
    folder: Path,
    materials: Sequence[Material],
    recipe: Recipe,
    fitted: Fitted,
    measured: Sequence[Measured],
    journal: Journal,
    facts: Mapping[str, Any],
    demonstration: bool,
) -> str:
    from medtask.train.card import write_card
    from medtask.train.card_facts import CardFacts, read_material

    machine = inspect_machine()
    where = (
        machine.accelerator_name
        if str(fitted.facts.get("device", "")).startswith("cuda")
        else machine.processor
    )
    return write_card(
        CardFacts(
            name=folder.name,
            folder=str(folder),
            method=recipe.method,
            tasks=tuple(
                read_material(one.material, one.figures, one.rivals, one.calibration)
                for one in measured
            ),
            bases=recipe.bases,
            base_models=tuple(_find_on_hub(base) for base in recipe.bases if _find_on_hub(base)),
            license="apache-2.0" if set(recipe.bases) == {BUILT_IN} else "",
            recipe=recipe.tell(),
            points=journal.points,
            measure=name_score(material.task for material in materials),
            picture=PICTURE if journal.points else "",
            seconds=facts["seconds"],
            hardware=f"{where}, {machine.cores} cores, {format_bytes(machine.memory_bytes)}",
            versions=list_versions(),
            fingerprints={
                name: str(value) for name, value in fitted.facts.items() if name == "base_identity"
            },
            command=facts["command"],
            notes=fitted.notes,
            stopped=fitted.stopped,
            demonstration=demonstration,
        )
    )


def _find_on_hub(base: str) -> str:
    """The base's id on the Hub, which a card names; "" for a folder."""
    name = BUILT_IN_ON_HUB if base == BUILT_IN else base.partition("@")[0]
    return name if name.count("/") == 1 and not Path(base).exists() else ""

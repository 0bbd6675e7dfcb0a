"""An engine whose models each answer the rows that they were not trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.engines.base import Engine, EngineInfo, PromptPlan, Rendering, TextCallbacks
from medtask.engines.load_options import LoadOptions
from medtask.engines.model_metadata import hash_model_metadata
from medtask.engines.registry import load_model
from medtask.records import Fault, Generated, Limits, Prompt, Scores
from medtask.runs.calibration_store import find_calibration
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluation.calibration.transforms import Calibration


class FoldEngine(Engine):
    """Answers each record with the model of its fold.

    Args:
        folders: The model of each fold, trained on the rows of all other folds.
        folds: The fold of each record id, an index into ``folders``.
        options: How models are loaded.
        details: Facts for the manifest.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        folds: Mapping[str, int],
        options: LoadOptions,
        details: Mapping[str, object],
    ) -> None:
        self.folders = tuple(folders)
        self.folds = dict(folds)
        self.options = options
        self._loaded: dict[int, Engine] = {}
        first = self._load(0)
        self.caps, self.context_tokens = first.caps, first.context_tokens
        hashes = {
            f"fold{number}": hash_model_metadata(folder)
            for number, folder in enumerate(self.folders, 1)
        }
        # Without trained folders: no row was seen by the model that answers it.
        self.info: EngineInfo = replace(
            first.info,
            title=f"{first.info.traits.family} models of {len(self.folders)} folds, each row "
            "answered by one that was not trained on it",
            identity={"model": f"{len(self.folders)} folds", **hashes},
            trained_folders=(),
            details={**first.info.details, **details},
        )

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        for engine, own in self._split(prompts, cached):
            yield from engine.score(own, cached)

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: TextCallbacks | None = None,
    ) -> Iterator[Generated | Fault]:
        for engine, own in self._split(prompts, cached):
            yield from engine.generate(own, limits, cached, on_text)

    def render(self, prompt: Prompt) -> Rendering | None:
        return self._load(self.folds[prompt.record_id]).render(prompt)

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan | None:
        return self._load(0).plan(prompts)

    def find_calibrations(self, task: Task) -> list[Calibration | None]:
        """The calibration and thresholds of each fold's model, fitted in its training."""
        found = []
        for fold in range(len(self.folders)):
            identity = self._load(fold).info.identity
            saved, _ = find_calibration(
                task, {f"model.{name}": fact for name, fact in identity.items()}
            )
            found.append(saved.calibration if saved else None)
        return found

    def close(self) -> None:
        for engine in self._loaded.values():
            engine.close()
        self._loaded.clear()

    def _split(
        self, prompts: Sequence[Prompt], cached: Collection[str]
    ) -> Iterator[tuple[Engine, list[Prompt]]]:
        """The prompts of each fold with a record that is not cached."""
        by_fold: dict[int, list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            by_fold[self.folds[prompt.record_id]].append(prompt)
        for fold, own in sorted(by_fold.items()):
            if any(prompt.record_id not in cached for prompt in own):
                yield self._load(fold), own

    def _load(self, fold: int) -> Engine:
        if fold not in self._loaded:
            if any(one.info.traits.family == "language" for one in self._loaded.values()):
                self.close()  # several language models may not fit into memory
            self._loaded[fold] = load_model(str(self.folders[fold]), self.options)
        return self._loaded[fold]

"""Loaded models: each is loaded once, and the least recently used goes when memory is short."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition

from medtask.engines.base import Engine
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.model_metadata import METADATA_FILE
from medtask.engines.registry import choose_engine, load_model
from medtask.errors import ModelTooLarge
from medtask.hardware import free_memory, measure_used_memory
from medtask.server.inference.engine_worker import EngineWorker

LoadFunction = Callable[[str, LoadOptions], Engine]


@dataclass(frozen=True, slots=True)
class ModelKey:
    """What a model is loaded from. ``trained_ns``: when its folder was trained, if it was."""

    reference: str
    options: LoadOptions
    trained_ns: int | None


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model in the pool.

    Attributes:
        reference: The reference that it was loaded from.
        worker: The thread that calls its engine; None while it is loaded.
        size_bytes: The memory that loading it took.
        users: How many requests use it.
        last_used: When a request last used it, by ``time.monotonic()``.
    """

    reference: str
    worker: EngineWorker | None = None
    size_bytes: int = 0
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)


class ModelPool:
    """Models by reference and options. Requests of all threads share them.

    Args:
        memory_limit: Bytes of all models together; None for no limit. A model that no request uses
            is unloaded when another one needs its memory.
        load: The function that loads a model.
    """

    def __init__(self, memory_limit: int | None = None, load: LoadFunction = load_model) -> None:
        self._memory_limit = memory_limit
        self._load_function = load
        self._models: dict[ModelKey, LoadedModel] = {}
        # A model that is loaded again may get memory that the process has already.
        self._sizes: dict[ModelKey, int] = {}
        self._condition = Condition()
        self._loading = False

    @contextmanager
    def use(self, reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> Iterator[EngineWorker]:
        """The worker of a model, which is loaded if it is not; it stays loaded in the block.

        Raises:
            MedtaskError: The model cannot be loaded; see `medtask.load_model`.
        """
        model = self._acquire(ModelKey(reference, options, _find_training_time(reference)))
        try:
            worker = model.worker
            if worker is None:
                raise AssertionError("a model is used before it is loaded")
            yield worker
        finally:
            with self._condition:
                model.users -= 1
                model.last_used = time.monotonic()
                self._condition.notify_all()
            self._unload_surplus()

    def list_models(self) -> list[LoadedModel]:
        """The models that are loaded or being loaded, the most recently used first."""
        with self._condition:
            return sorted(self._models.values(), key=lambda model: -model.last_used)

    def close(self) -> None:
        """Unload all models; requests that wait for one are cancelled."""
        with self._condition:
            models, self._models = list(self._models.values()), {}
        for model in models:
            if model.worker:
                model.worker.close()

    def _acquire(self, key: ModelKey) -> LoadedModel:
        with self._condition:
            while True:
                model = self._models.get(key)
                if model and model.worker:
                    model.users += 1
                    return model
                # One model at a time is loaded: the growth of the process is its size.
                if not self._loading:
                    break
                self._condition.wait()
            self._loading = True
            model = self._models[key] = LoadedModel(key.reference, users=1)
        try:
            self._load(model, key)
        except BaseException:
            with self._condition:
                self._models.pop(key, None)
            raise
        finally:
            with self._condition:
                self._loading = False
                self._condition.notify_all()
        self._unload_earlier(key)
        self._unload_surplus()
        return model

    def _load(self, model: LoadedModel, key: ModelKey) -> None:
        """Load a model; if it does not fit, unload others, the least recently used first."""
        reference, options = key.reference, key.options
        if self._memory_limit is not None and self._accepts_memory(reference):
            # The limit as such, not what others leave of it: formats are chosen by this number,
            # and the answers of a model must not depend on which others are loaded.
            options = replace(options, memory=options.memory or self._memory_limit)
        while True:
            before = measure_used_memory()
            try:
                engine = self._load_function(reference, options)
                break
            except (ModelTooLarge, MemoryError) as error:
                if not self._unload_oldest():
                    if isinstance(error, ModelTooLarge):
                        raise
                    raise ModelTooLarge(
                        "there is not enough memory for this model",
                        fix="send the request again when other models are idle",
                    ) from error
        growth = measure_used_memory() - before
        model.size_bytes = self._sizes[key] = max(growth, self._sizes.get(key, 0))
        model.worker = EngineWorker(engine)

    def _accepts_memory(self, reference: str) -> bool:
        return "memory" in choose_engine(reference).spec.option_fields

    def _unload_surplus(self) -> None:
        """Unload idle models until the others are within the limit."""
        while self._memory_limit is not None:
            with self._condition:
                used = sum(model.size_bytes for model in self._models.values())
            if used <= self._memory_limit or not self._unload_oldest():
                return

    def _unload_earlier(self, key: ModelKey) -> None:
        """Unload what was loaded from the same folder before it was trained again."""
        while self._unload_oldest(
            lambda other: (
                other != key and (other.reference, other.options) == (key.reference, key.options)
            )
        ):
            pass

    def _unload_oldest(self, may_go: Callable[[ModelKey], bool] = lambda key: True) -> bool:
        """Unload the least recently used model that no request uses; False if there is none."""
        with self._condition:
            idle = [
                (model.last_used, key)
                for key, model in self._models.items()
                if model.worker and not model.users and may_go(key)
            ]
            if not idle:
                return False
            model = self._models.pop(min(idle, key=lambda entry: entry[0])[1])
        if model.worker:
            model.worker.close()
        free_memory()
        return True


def _find_training_time(reference: str) -> int | None:
    try:
        return (Path(reference) / METADATA_FILE).stat().st_mtime_ns
    except (OSError, ValueError):
        return None

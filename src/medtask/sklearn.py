"""A scikit-learn text classifier with medtask's prompts, training and probabilities.

classifier = MedtaskClassifier(model="google/gemma-2-2b-it", method="lora") classifier.fit(texts,
labels).predict_proba(more_texts)
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from medtask.errors import InputError
from medtask.training.estimator_data import encode_targets, name_class, name_classes, read_texts
from medtask.training.recipe import DEFAULT_RECIPE

if TYPE_CHECKING:
    from medtask.engines.base import Engine
    from medtask.evaluation.calibration.transforms import Calibration
    from medtask.tasks.task import Task
    from medtask.training.recipe import Recipe

INSTRUCTION = "Decide which label fits the text."
INSTRUCTION_MULTILABEL = "Decide which of the labels fit the text."
NO_TRAINING = "none"


class MedtaskClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of texts: a trained model, or a model that is only prompted.

    Args:
        model: A reference as `medtask.load_model` takes it; a list of references for
            ``method="hybrid"``. Not used by ``method="linear"`` and ``method="auto"``.
        method: A training method (see `medtask.train`); "auto" tries several within
            ``options={"budget": 600}`` seconds and keeps the best; "none" (or None) prompts the
            model as it is.
        instruction: The instruction, which the prompt shows before the labels.
        labels: Definitions of labels by label.
        epochs: Passes over the training rows; None for the method's default.
        rate: The highest learning rate; None for the method's default.
        batch: Rows per step.
        rank: The rank of an adapter.
        validation_share: The share of rows that decide when training stops and that fit the
            calibration.
        random_state: The seed; None is 0, so that the same rows give the same model.
        out: A folder in which each fit keeps its model under a name that depends on data and
            settings: fitting the same again finds it, and resumes a killed training. None for a
            temporary folder that is removed with the estimator. A pickle stores the folder's
            name, not the model, so give ``out`` for an estimator that is loaded elsewhere.
        options: Further settings of a training by name; see `medtask.train`.
        calibrated: Apply the calibration and thresholds that were fitted in training.

    Attributes:
        classes_: The classes [classes].
        folder_: The model folder; None for a model that is only prompted.
        task_: The task that prompts are made from.
        n_features_in_: The number of columns, where X has columns.
    """

    def __init__(
        self,
        model: Any = "google/gemma-2-2b-it",
        method: str | None = "lora",
        *,
        instruction: str | None = None,
        labels: Mapping[Any, str] | None = None,
        epochs: float | None = DEFAULT_RECIPE.epochs,
        rate: float | None = DEFAULT_RECIPE.rate,
        batch: int = DEFAULT_RECIPE.batch,
        rank: int = DEFAULT_RECIPE.rank,
        validation_share: float = 0.1,
        random_state: Any = None,
        out: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        calibrated: bool = True,
    ) -> None:
        self.model = model
        self.method = method
        self.instruction = instruction
        self.labels = labels
        self.epochs = epochs
        self.rate = rate
        self.batch = batch
        self.rank = rank
        self.validation_share = validation_share
        self.random_state = random_state
        self.out = out
        self.options = options
        self.calibrated = calibrated

    def fit(self, X: Any, y: Any) -> MedtaskClassifier:  # noqa: N803 - scikit-learn's name
        """Train on texts and their labels.

        Args:
            X: Texts (a list, array or Series), or a table whose columns become one text per row.
            y: A label per text, or a table of 0 and 1 with a column per label. The column names
                of a DataFrame are the labels.

        Raises:
            ValueError, TypeError: As scikit-learn's estimators do.
            MedtaskError: As `medtask.train` does.
        """
        texts = read_texts(self, X, reset=True)
        self.classes_, gold = encode_targets(y, len(texts))
        self.multilabel_ = gold.ndim == 2
        names = name_classes(self.classes_)
        self.task_ = _make_task(self, names)
        probabilities = (
            gold.mean(axis=0)
            if self.multilabel_
            else np.bincount(gold, minlength=len(names)) / len(gold)
        )
        self.class_prior_ = np.asarray(probabilities, dtype=np.float64)
        self.model_store_ = None
        self.folder_ = None
        if self.method not in (None, NO_TRAINING):
            gold_names = [
                [names[index] for index in np.flatnonzero(row)] if self.multilabel_ else names[row]
                for row in gold
            ]
            rows = [
                {"text": text, "gold": one} for text, one in zip(texts, gold_names, strict=True)
            ]
            self.model_store_ = (
                _ModelStore(Path(self.out))
                if self.out is not None
                else _ModelStore.create_temporary()
            )
            self.folder_ = str(_train_model(self, rows, self.model_store_.path))
        return self

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """Probabilities, calibrated by default, in the order of ``classes_`` [texts, classes].

        They sum to 1, or are independent where y was a table. A text without an answer (empty or
        too long) gets the frequencies of the labels in fit, and a warning counts such texts.
        """
        check_is_fitted(self, "classes_")
        texts = read_texts(self, X, reset=False)
        found = np.tile(self.class_prior_, (len(texts), 1))
        names = name_classes(self.classes_)
        without = 0
        for row, probabilities in enumerate(_predict_texts(self, texts)):
            if probabilities is None:
                without += 1
            else:
                found[row] = [probabilities[name] for name in names]
        if without:
            warnings.warn(
                f"{without:,} of {len(texts):,} texts have no answer (empty, or too long for the "
                "model)",
                stacklevel=2,
            )
        return found

    def predict(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """The most probable label of each text [texts].

        If y was a table, returns a table of 0 and 1 [texts, classes] by the thresholds that were
        fitted in training, or 0.5 without training.
        """
        probabilities = self.predict_proba(X)
        if self.multilabel_:
            calibration = _find_calibration(self)
            thresholds = calibration.get_thresholds() if calibration else {}
            limits = [thresholds.get(name, 0.5) for name in name_classes(self.classes_)]
            return (probabilities >= np.array(limits)).astype(np.int64)
        best: np.ndarray[Any, Any] = self.classes_[probabilities.argmax(axis=1)]
        return best

    def __getstate__(self) -> dict[str, Any]:
        from medtask.tasks.serialization import task_to_dict

        state: dict[str, Any] = dict(super().__getstate__())
        if "task_" in state:
            # Plain values, so that a pickle does not depend on the package's classes.
            task = state["task_"]
            state["task_"] = (task.name, task_to_dict(task), task.fingerprint)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        from medtask.tasks.serialization import task_from_dict

        state = {_OLD_ATTRIBUTES.get(name, name): value for name, value in state.items()}
        state.setdefault("calibrated", True)
        task = state.pop("task_", None)
        super().__setstate__(state)
        if isinstance(task, tuple):
            name, content, fingerprint = task
            self.task_ = task_from_dict(name, content, fingerprint=fingerprint)
        elif task is not None:  # an object of a version whose classes had other fields
            self.task_ = _make_task(self, name_classes(self.classes_))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Not the tag one_d_array, which means numeric arrays in scikit-learn.
        tags.input_tags.string = True
        tags.classifier_tags.multi_label = True
        return tags


# Attributes as pickles of earlier versions name them.
_OLD_ATTRIBUTES = {"shares_": "class_prior_", "home_": "model_store_"}


class _ModelStore:
    """The folder of an estimator's models.

    A temporary one is removed with the last estimator of this process that refers to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create_temporary(cls) -> _ModelStore:
        store = cls(Path(tempfile.mkdtemp(prefix="medtask-")))
        weakref.finalize(store, shutil.rmtree, store.path, ignore_errors=True)
        _MODEL_STORES[str(store.path)] = store
        return store

    def __reduce__(self) -> Any:
        return _find_model_store, (str(self.path),)


_MODEL_STORES: weakref.WeakValueDictionary[str, _ModelStore] = weakref.WeakValueDictionary()


def _find_model_store(path: str) -> _ModelStore:
    """The existing store in the process that created it, so that it lives as long as the copy."""
    return _MODEL_STORES.get(path) or _ModelStore(Path(path))


_find_home = _find_model_store  # the name in pickles of earlier versions


def _make_task(classifier: MedtaskClassifier, names: Sequence[str]) -> Task:
    """The task, as loaded from a file."""
    from medtask.tasks.load import load_task

    definitions = {name_class(label): text for label, text in (classifier.labels or {}).items()}
    kind = "labels" if classifier.multilabel_ else "label"
    listed = {name: definitions.get(name) for name in names} if definitions else list(names)
    content = {
        "name": "classifier",
        "instruction": classifier.instruction
        or (INSTRUCTION_MULTILABEL if classifier.multilabel_ else INSTRUCTION),
        "input": "{{ text }}",
        "answer": {"kind": kind, "labels": listed},
    }
    with tempfile.TemporaryDirectory(prefix="medtask-") as folder:
        (Path(folder) / "task.json").write_text(json.dumps(content), encoding="utf-8")
        # Without a source the task does not depend on a path.
        return replace(load_task(folder), source=None)


def _make_recipe(classifier: MedtaskClassifier) -> Recipe:
    from medtask.training.recipe import build_recipe

    state = classifier.random_state
    if state is None or isinstance(state, int | np.integer):
        seed = int(state or 0)
    else:
        seed = int(check_random_state(state).randint(2**31 - 1))
    settings = {name: getattr(classifier, name) for name in ("epochs", "rate", "batch", "rank")}
    settings |= {"seed": seed, **(classifier.options or {})}
    base = None if classifier.method in ("linear", "auto") else classifier.model
    return build_recipe(classifier.method, base, settings)  # type: ignore[arg-type]


def _train_model(
    classifier: MedtaskClassifier, rows: list[dict[str, Any]], store_path: Path
) -> Path:
    from medtask.training.train import TaskData, train_tasks
    from medtask.training.training_data import RowSelection

    recipe = _make_recipe(classifier)
    facts = [recipe.to_json(), classifier.task_.fingerprint, classifier.validation_share, rows]
    name = blake2b(
        json.dumps(facts, default=str).encode("utf-8", "replace"), digest_size=8
    ).hexdigest()
    task_data = (TaskData(classifier.task_, rows, "gold"),)
    result = train_tasks(
        task_data,
        recipe,
        out=store_path / f"model-{name}",
        selection=RowSelection(classifier.validation_share),
    )
    if result.state != "finished":
        warnings.warn(
            "the training was interrupted: the best state so far is used, and fitting again "
            "resumes",
            stacklevel=3,
        )
    return result.path.resolve()


def _predict_texts(
    classifier: MedtaskClassifier, texts: Sequence[str]
) -> list[Mapping[str, float] | None]:
    """The probabilities of each text by label; None for a text without an answer."""
    from medtask.runs.predictions import predict

    task, engine = classifier.task_, _load_model(classifier)
    rows = [{"text": text} for text in texts]
    # The documentation of the estimator names the calibration.
    answers = predict(
        task, engine, rows, calibrated=classifier.calibrated, on_note=lambda note: None
    )
    return [answer.probabilities for answer in answers]


def _find_calibration(classifier: MedtaskClassifier) -> Calibration | None:
    """The calibration and thresholds that were fitted in training, if they are applied."""
    if not classifier.calibrated:
        return None
    from medtask.runs.calibration_store import find_calibration

    identity = _load_model(classifier).info.identity
    found, _ = find_calibration(
        classifier.task_, {f"model.{name}": value for name, value in identity.items()}
    )
    return found.calibration if found else None


def _load_model(classifier: MedtaskClassifier) -> Engine:
    from medtask.engines.model_metadata import METADATA_FILE

    folder = classifier.folder_
    if folder is None:
        return _load_cached_model(str(classifier.model), 0)
    if not Path(folder).is_dir():
        raise InputError(
            f"the model of this estimator, {folder}, was not found: a temporary folder is removed "
            "with the estimator that was fitted",
            fix="fit again, with `out` set to a permanent folder",
        )
    return _load_cached_model(folder, (Path(folder) / METADATA_FILE).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load_cached_model(reference: str, written_ns: int) -> Engine:
    """Load a model once. ``written_ns`` distinguishes models trained into the same folder."""
    from medtask.engines.registry import load_model

    return load_model(reference)

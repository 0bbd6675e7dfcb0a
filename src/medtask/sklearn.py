"""medtask as a classifier of scikit-learn: the same prompts, trainings and probabilities, where
pipelines and searches want an estimator.

MedtaskClassifier(model="google/gemma-2-2b-it", method="lora").fit(texts,
labels).predict_proba(more_texts)
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from medtask.errors import InputError, UsageError

if TYPE_CHECKING:
    from medtask.engines.base import Engine
    from medtask.tasks.task import Task
    from medtask.training.recipe import Recipe

INSTRUCTION = "Decide which label fits the text."
INSTRUCTION_MULTILABEL = "Decide which of the labels fit the text."
NO_TRAINING = "none"


class MedtaskClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of texts: a language model or an encoder that is trained, TF-IDF, or a model
    that is only asked.

    ``model``: a reference as `medtask run --model` takes it; several, in a list, for
    ``method="hybrid"``; of no use to ``"linear"``. ``method``: as `medtask train --method`, or
    ``"none"`` (or None): the model is asked as it is. ``instruction``: what the model is told,
    before the labels. ``labels``: label -> definition, for the labels of y that have one.
    ``epochs``, ``rate``, ``batch``, ``rank``: see Recipe, ``options`` any other of its fields by
    name. ``validation_share``: of the rows, kept to stop by and to calibrate on. ``random_state``:
    None is 0: the same rows give the same model.

    ``out``: a folder where every fit keeps its model, under a name of its own that stands for data
    and settings: fitting the same again finds it, and goes on with a training that was killed.
    None: a temporary folder that is removed with the estimator; a pickle names the folder and does
    not hold the model, so give ``out`` where one is to be read elsewhere.

    After fit: ``classes_``; ``folder_``, a model folder as `medtask train` writes it (None for
    ``"none"``); ``task_``; ``n_features_in_`` where X had columns.
    """

    def __init__(
        self,
        model: Any = "google/gemma-2-2b-it",
        method: str | None = "lora",
        *,
        instruction: str | None = None,
        labels: Mapping[Any, str] | None = None,
        epochs: float = 3.0,
        rate: float | None = None,
        batch: int = 32,
        rank: int = 16,
        validation_share: float = 0.1,
        random_state: Any = None,
        out: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
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

    def fit(self, X: Any, y: Any) -> MedtaskClassifier:  # noqa: N803 - scikit-learn's name
        """Train on texts and their labels.

        X: texts (a list, an array, a Series), or a table: the texts of its one column, or of
        several columns a line each, ``name: cell``. y: one label a text, or a table of 0 and 1 with
        a column for each label (whose names, in a DataFrame, are the labels).

        ValueError and TypeError where scikit-learn has them; else what medtask.training.train.train
        raises.
        """
        texts = _read_texts(self, X, reset=True)
        self.classes_, gold = _encode_targets(y, len(texts))
        self.multilabel_ = gold.ndim == 2
        names = _name_classes(self.classes_)
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
        """[texts, classes]: probabilities in the order of ``classes_``, calibrated as the training
        found fit.

        They sum to 1, or are each label's own where y was a table. A text that cannot be answered
        (empty, too long) gets the shares that the labels had in fit, and is counted in a warning.
        """
        check_is_fitted(self, "classes_")
        texts = _read_texts(self, X, reset=False)
        found = np.tile(self.class_prior_, (len(texts), 1))
        names = _name_classes(self.classes_)
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
        """[texts]: the likeliest label of each; where y was a table, a table [texts, classes] of 0
        and 1, from 0.5 on.
        """
        probabilities = self.predict_proba(X)
        if self.multilabel_:
            return (probabilities >= 0.5).astype(np.int64)
        best: np.ndarray[Any, Any] = self.classes_[probabilities.argmax(axis=1)]
        return best

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Not one_d_array, true as it is: scikit-learn means lone numbers by it.
        tags.input_tags.string = True
        tags.classifier_tags.multi_label = True
        return tags


class _ModelStore:
    """Where an estimator's models lie. A temporary one goes with the last estimator of this process
    that knows it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create_temporary(cls) -> _ModelStore:
        home = cls(Path(tempfile.mkdtemp(prefix="medtask-")))
        weakref.finalize(home, shutil.rmtree, home.path, ignore_errors=True)
        _MODEL_STORES[str(home.path)] = home
        return home

    def __reduce__(self) -> Any:
        return _find_model_store, (str(self.path),)


_MODEL_STORES: weakref.WeakValueDictionary[str, _ModelStore] = weakref.WeakValueDictionary()


def _find_model_store(path: str) -> _ModelStore:
    """The home itself where a copy is made in the process that owns it: it lasts as long as the
    copy does.
    """
    return _MODEL_STORES.get(path) or _ModelStore(Path(path))


def _read_texts(classifier: MedtaskClassifier, given: Any, *, reset: bool) -> list[str]:
    """One text a row; ValueError and TypeError for what is neither texts nor a table."""
    if _is_list_of_texts(given):
        texts = [_write_cell(text) for text in given]
        if reset and hasattr(classifier, "n_features_in_"):
            del classifier.n_features_in_
        if not texts:
            raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    else:
        table = validate_data(classifier, given, reset=reset, dtype=None)
        columns = list(
            getattr(
                classifier, "feature_names_in_", [f"x{index}" for index in range(table.shape[1])]
            )
        )
        texts = [_write_row(columns, row) for row in table.tolist()]
    if reset and len(texts) < 2:
        raise ValueError("n_samples=1: nothing can be learnt from one sample")
    return texts


def _is_list_of_texts(given: Any) -> bool:
    if isinstance(given, str) or not hasattr(given, "__len__") or getattr(given, "ndim", 1) != 1:
        return False
    values = given.tolist() if hasattr(given, "tolist") else given
    return isinstance(values, Sequence) and all(
        isinstance(text, str) or _is_missing(text) for text in values
    )


def _is_missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _write_row(columns: Sequence[object], cells: Sequence[object]) -> str:
    if len(cells) == 1:
        return _write_cell(cells[0])
    return "\n".join(
        f"{column}: {_write_cell(cell)}" for column, cell in zip(columns, cells, strict=True)
    )


def _write_cell(cell: object) -> str:
    if not isinstance(cell, str | int | float | None):
        raise TypeError(f"argument must be a string or a number, and not {type(cell).__name__}")
    return (
        "" if _is_missing(cell) else format(cell, ".6g") if isinstance(cell, float) else str(cell)
    )


def _encode_targets(y: Any, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The classes, and each text's place among them [texts], or a table of 0 and 1 [texts,
    classes].
    """
    if y is None:
        raise ValueError(
            "This MedtaskClassifier estimator requires y to be passed, but the target y is None."
        )
    if isinstance(y, Sequence) and y and isinstance(y[0], set | frozenset):
        raise ValueError(
            "y has several labels a text: give a table of 0 and 1 "
            "(sklearn.preprocessing.MultiLabelBinarizer makes one)"
        )
    check_classification_targets(y)
    if type_of_target(y, input_name="y").startswith("multilabel"):
        columns = getattr(y, "columns", None)
        table = np.asarray(y.toarray() if hasattr(y, "toarray") else y).astype(np.int64)
        classes = np.arange(table.shape[1]) if columns is None else np.asarray(columns)
    else:
        classes, table = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"the samples are all of one class, {len(classes)} in place of 2 or more: there "
                "is nothing to tell apart"
            )
    if len(table) != count:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: [{count}, {len(table)}]"
        )
    return classes, table


def _name_classes(classes: np.ndarray[Any, Any]) -> list[str]:
    """What the model calls each class."""
    return [str(name) for name in classes.tolist()]


def _make_task(classifier: MedtaskClassifier, names: Sequence[str]) -> Task:
    """The question, as a task file would put it. TaskFaults for labels that a reader could not tell
    apart.
    """
    from medtask.tasks.load import load_task

    definitions = {str(label): text for label, text in (classifier.labels or {}).items()}
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
        # Without a source it reads the same wherever the estimator is taken.
        return replace(load_task(folder), source=None)


def _make_recipe(classifier: MedtaskClassifier) -> Recipe:
    from medtask.training.recipe import Recipe

    options = dict(classifier.options or {})
    known = [field.name for field in fields(Recipe)]
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(
            f"options names {unknown[0]!r}, which no recipe has",
            fix=f"choose from {', '.join(known)}",
        )
    model = classifier.model
    bases = (
        ()
        if classifier.method == "linear"
        else (model,)
        if isinstance(model, str)
        else tuple(model)
    )
    state = classifier.random_state
    seed = (
        0
        if state is None
        else int(state)
        if isinstance(state, int | np.integer)
        else int(check_random_state(state).randint(2**31 - 1))
    )
    settings: dict[str, Any] = {
        "method": classifier.method,
        "bases": bases,
        "epochs": classifier.epochs,
        "rate": classifier.rate,
        "batch": classifier.batch,
        "rank": classifier.rank,
        "seed": seed,
    }
    return Recipe(**{**settings, **options})


def _train_model(
    classifier: MedtaskClassifier, rows: list[dict[str, Any]], store_path: Path
) -> Path:
    from medtask.training.train import TaskData, train
    from medtask.training.training_data import RowSelection

    recipe = _make_recipe(classifier)
    facts = [recipe.to_json(), classifier.task_.fingerprint, classifier.validation_share, rows]
    name = blake2b(
        json.dumps(facts, default=str).encode("utf-8", "replace"), digest_size=8
    ).hexdigest()
    task_data = (TaskData(classifier.task_, rows, "gold"),)
    result = train(
        task_data,
        recipe,
        out=store_path / f"model-{name}",
        selection=RowSelection(classifier.validation_share),
    )
    if result.state != "finished":
        warnings.warn(
            "the training was interrupted: the best state until then answers, and fitting again "
            "goes on",
            stacklevel=3,
        )
    return Path(result.folder).resolve()


def _predict_texts(
    classifier: MedtaskClassifier, texts: Sequence[str]
) -> list[Mapping[str, float] | None]:
    """The probabilities of each text's labels by name; None where there is no answer."""
    from medtask.engines.model_metadata import METADATA_FILE
    from medtask.prediction.predictor import predict
    from medtask.runs.calibration_store import calibrate_answer, find_calibration

    folder = classifier.folder_
    if folder is not None and not Path(folder).is_dir():
        raise InputError(
            f"the model of this estimator, {folder}, is no longer there: a temporary one goes "
            "with the estimator that was fitted",
            fix="fit again, with `out` set to a folder that lasts",
        )
    engine = (
        _load_cached_model(str(classifier.model), 0)
        if folder is None
        else _load_cached_model(folder, (Path(folder) / METADATA_FILE).stat().st_mtime_ns)
    )
    task = classifier.task_
    kept, _ = find_calibration(
        task, {f"model.{name}": value for name, value in engine.info.identity.items()}
    )
    answers = predict(task, engine, [{"text": text} for text in texts])
    if kept is None:
        return [answer.probabilities for answer in answers]
    return [calibrate_answer(task, answer, kept.calibration).probabilities for answer in answers]


@lru_cache(maxsize=1)
def _load_cached_model(reference: str, written_ns: int) -> Engine:
    """The model, kept open for the next call: loading takes longer than most questions.
    ``written_ns``: when it was trained, 0 for a model that is only asked: what is trained again in
    the same folder is another model.
    """
    from medtask.engines.registry import load_model

    return load_model(reference)

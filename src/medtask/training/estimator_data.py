"""Converts texts and labels from scikit-learn's conventions to texts and class indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from medtask.names import normalize_spelling
from medtask.tasks.text_cleaning import clean_text

BLANK_CLASS = "(blank)"


def read_texts(classifier: Any, given: Any, *, reset: bool) -> list[str]:
    """One text per row. Raises ValueError or TypeError for neither texts nor a table."""
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
        raise ValueError("n_samples=1: one sample is not enough to fit a classifier")
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
        raise TypeError(f"argument must be a string or a number, not {type(cell).__name__}")
    return (
        "" if _is_missing(cell) else format(cell, ".6g") if isinstance(cell, float) else str(cell)
    )


def encode_targets(y: Any, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The classes [classes], and class indices [texts] or a table of 0 and 1 [texts, classes]."""
    if y is None:
        raise ValueError(
            "This MedtaskClassifier estimator requires y to be passed, but the target y is None."
        )
    if isinstance(y, Sequence) and y and isinstance(y[0], set | frozenset):
        raise ValueError(
            "y has several labels per text: give a table of 0 and 1 "
            "(from sklearn.preprocessing.MultiLabelBinarizer)"
        )
    if _has_mixed_types(y):
        return _encode_mixed_targets(y, count)
    check_classification_targets(y)
    if type_of_target(y, input_name="y").startswith("multilabel"):
        columns = getattr(y, "columns", None)
        table = np.asarray(y.toarray() if hasattr(y, "toarray") else y).astype(np.int64)
        classes = np.arange(table.shape[1]) if columns is None else np.asarray(columns)
    else:
        classes, table = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        _check_class_count(classes)
    _check_count(table, count)
    return classes, table


def _has_mixed_types(y: Any) -> bool:
    """Whether y is a list or an object array of texts and other values, which NumPy would turn
    into texts or cannot sort.
    """
    if getattr(y, "ndim", 1) != 1 or getattr(y, "dtype", None) not in (None, np.dtype(object)):
        return False
    values = list(y) if isinstance(y, list | tuple | np.ndarray) or hasattr(y, "to_numpy") else []
    texts = sum(isinstance(value, str) for value in values)
    return 0 < texts < len(values) and all(
        isinstance(value, str | bool | int | float | np.generic) and value == value
        for value in values
    )


def _encode_mixed_targets(y: Any, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    values = list(y)
    ordered = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    classes = np.empty(len(ordered), dtype=object)
    classes[:] = ordered
    _check_class_count(classes)
    indices = {value: index for index, value in enumerate(ordered)}
    table = np.array([indices[value] for value in values], dtype=np.int64)
    _check_count(table, count)
    return classes, table


def _check_class_count(classes: np.ndarray[Any, Any]) -> None:
    if len(classes) < 2:
        raise ValueError(f"y has {len(classes)} class, and a classifier needs 2 or more")


def _check_count(table: np.ndarray[Any, Any], count: int) -> None:
    if len(table) != count:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: [{count}, {len(table)}]"
        )


def name_class(value: object) -> str:
    """The label of a class in prompts: its text on one line, without blanks at its ends."""
    return " ".join(clean_text(str(value)).split()) or BLANK_CLASS


def name_classes(classes: np.ndarray[Any, Any]) -> list[str]:
    """The label of each class in prompts.

    Raises:
        ValueError: Two classes have the same label to a reader.
    """
    names: dict[str, object] = {}
    for value in classes.tolist():
        name = name_class(value)
        other = names.setdefault(normalize_spelling(name), value)
        if other is not value:
            raise ValueError(
                f"y has the classes {other!r} and {value!r}, which look the same: give one of them "
                "another name"
            )
    return [name_class(value) for value in classes.tolist()]

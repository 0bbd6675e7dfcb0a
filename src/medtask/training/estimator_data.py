"""Converts texts and labels from scikit-learn's conventions to texts and class indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data


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
    check_classification_targets(y)
    if type_of_target(y, input_name="y").startswith("multilabel"):
        columns = getattr(y, "columns", None)
        table = np.asarray(y.toarray() if hasattr(y, "toarray") else y).astype(np.int64)
        classes = np.arange(table.shape[1]) if columns is None else np.asarray(columns)
    else:
        classes, table = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has {len(classes)} class, and a classifier needs 2 or more")
    if len(table) != count:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: [{count}, {len(table)}]"
        )
    return classes, table

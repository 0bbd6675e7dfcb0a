"""Cell values (str, int, float, bool, None, list or dict), and their text form."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Mapping

from medtask.tables.missing import MissingText
from medtask.unicode_text import remove_noise

# json.dumps() with options builds an encoder for every call.
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_MAX_WHOLE = 1e21
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_cell_value(value: object) -> object:
    """Converts a value to one of the types of a cell.

    Missing values of every library (NaN, NaT, NA) become None, dates and times ISO strings,
    decimals int or str, never float.

    Raises:
        TypeError: The type is not supported in tables (images, tensors, raw bytes).
    """
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, datetime.date | datetime.time):
        # pandas' NaT is a datetime whose isoformat() is "NaT"; like NaN it differs from itself.
        return value.isoformat() if value == value else None
    if isinstance(value, decimal.Decimal):
        return _convert_decimal(value)
    if isinstance(value, Mapping):
        return {str(key): to_cell_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_cell_value(item) for item in value]
    if isinstance(value, bytes):
        return _decode_bytes(value)
    if isinstance(value, uuid.UUID | datetime.timedelta):
        return str(value)
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    if type(value).__name__ in {"float32", "float16"}:
        return to_cell_value(float(str(value)))  # 0.1, not 0.10000000149011612
    if type(value).__module__ == "numpy":
        return to_cell_value(value.tolist())  # type: ignore[attr-defined]
    raise TypeError(f"a value of type {type(value).__name__}")


def _convert_decimal(value: decimal.Decimal) -> object:
    if value.is_nan():
        return None
    return int(value) if value.is_finite() and value == value.to_integral_value() else str(value)


def _decode_bytes(value: bytes) -> str:
    # Old Parquet writers do not mark a byte column as text.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise TypeError("bytes that are not text") from None


def restore_whole_number(value: object) -> object:
    """A whole float as int: libraries store whole numbers as floats in columns with missing values.

    Floats from 1e21 stay floats: their digits are not exact.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_WHOLE:
        return int(decimal.Decimal(repr(value)))  # the digits that Python shows
    return value


def is_missing(value: object) -> bool:
    """Whether the value is None, NaN, or a word for a missing value (`MissingText`)."""
    return (
        value is None
        or isinstance(value, MissingText)
        or (isinstance(value, float) and value != value)
    )


def is_blank(value: object) -> bool:
    """Whether the value is missing or a text without visible characters."""
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def read_cell(value: object) -> str | None:
    """The value as stripped text; None if it is blank, None or NaN.

    A word for a missing value is a text here: ids, options and labels can be such a word.
    """
    if is_missing(value) and not isinstance(value, MissingText):
        return None
    return str(value).strip() or None


def read_key(value: object) -> str | None:
    """The value as an id: stripped text without invisible characters; None if nothing is left."""
    text = read_cell(restore_whole_number(value))
    return None if text is None else remove_noise(text).strip() or None


def read_present_key(value: object) -> str | None:
    """The value as the name of a group: as `read_key`, and None for a missing value."""
    return None if is_missing(value) else read_key(value)


def read_present_cell(value: object) -> str | None:
    """The value as stripped text; None if it is missing or blank."""
    return None if is_missing(value) else read_cell(value)


def format_cell(value: object) -> str:
    """The value as text: "" for None, JSON for lists, mappings and booleans."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | list | dict | tuple):
        return format_json_cell(value)
    return str(value)


def format_json_cell(value: object) -> str:
    """JSON on one line; NaN and infinities become null."""
    try:
        return _encode_json(value)
    except ValueError:
        return _encode_json(_replace_non_finite(value))


def format_canonical_json(value: object) -> str:
    """JSON with sorted keys and without spaces: equal values have equal texts, for hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _replace_non_finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    return value


def replace_surrogates(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot encode, replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)

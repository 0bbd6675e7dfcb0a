"""What a cell may hold, and how it reads as text: str, int, float, bool, None, list or dict, and
nothing else.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Mapping

# json.dumps() with options builds an encoder for every call.
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_cell_value(value: object) -> object:
    """The value as one of the types that a cell may hold.

    Missing values of every library (NaN, NaT, NA) become None, dates and times ISO strings,
    decimals int or str (never float). Raises TypeError for what no table holds (images, tensors,
    raw bytes).
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
    if type(value).__module__ == "numpy":
        return to_cell_value(value.tolist())  # type: ignore[attr-defined]
    raise TypeError(f"a value of type {type(value).__name__}")


def _convert_decimal(value: decimal.Decimal) -> object:
    if value.is_nan():
        return None
    return int(value) if value.is_finite() and value == value.to_integral_value() else str(value)


def _decode_bytes(value: bytes) -> str:
    # Old writers of Parquet leave out that a byte column is text.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise TypeError("bytes that are not text") from None


def is_blank(value: object) -> bool:
    """True for None and for text without any visible character."""
    return value is None or (isinstance(value, str) and not value.strip())


def format_cell(value: object) -> str:
    """The value as a person would read it; "" for None, JSON for lists and mappings."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | list | dict | tuple):
        return format_json_cell(value)
    return str(value)


def format_json_cell(value: object) -> str:
    """Compact JSON; NaN and infinities, which JSON cannot say, become null."""
    try:
        return _encode_json(value)
    except ValueError:
        return _encode_json(_replace_non_finite(value))


def _replace_non_finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    return value


def replace_surrogates(text: str) -> str:
    """The text with halves of surrogate pairs, which UTF-8 cannot say, replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)

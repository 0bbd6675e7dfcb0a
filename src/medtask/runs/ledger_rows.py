"""Rows of the ledger: answers as SQLite values with a checksum, and back."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, NamedTuple, cast

from medtask.prediction.predictor import RowAnswer
from medtask.records import Answer, PassStep, Quote, Status, Value

_NUMBER_FORMAT = struct.Struct("<3q4d")


class LedgerRow(NamedTuple):
    """One row of the table ``answers``, as SQLite values in the order of its columns."""

    row: int
    record_id: str
    key: bytes | None
    status: str
    value: str | None
    confidence: float | None
    probabilities: bytes | None
    off_set: float | None
    slack: float
    reason: str | None
    pass_name: str
    ms: float
    tokens_read: int
    tokens_reused: int
    details: str | None
    checksum: int = 0


class LedgerRowCodec:
    """Encodes answers as rows of the table ``answers``, and decodes them.

    Probabilities are stored in the order of ``labels``, the names of all outcomes; NaN for outcomes
    that a row does not have. Values without a column, such as thoughts, are JSON under ``written``.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._probabilities = struct.Struct(f"<{len(self.labels)}d")

    def encode(self, row_answer: RowAnswer) -> LedgerRow:
        answer = row_answer.answer
        probabilities = answer.probabilities
        row = LedgerRow(
            row_answer.row,
            # A table can contain lone surrogates, which SQLite rejects.
            answer.record_id.encode("utf-8", "backslashreplace").decode(),
            row_answer.key,
            str(answer.status),
            None if answer.value is None else json.dumps(answer.value),
            _normalise_real(answer.confidence),
            self._probabilities.pack(*(probabilities.get(name, math.nan) for name in self.labels))
            if probabilities
            else None,
            _normalise_real(answer.off_set),
            float(answer.slack) + 0.0,
            answer.reason,
            answer.pass_name,
            float(answer.ms) + 0.0,
            answer.tokens_read,
            answer.tokens_reused,
            _encode_details(answer),
        )
        return row._replace(checksum=compute_checksum(row))

    def decode(self, stored: Sequence[Any]) -> Answer:
        row = LedgerRow._make(stored)
        return Answer(
            row.record_id,
            Status(row.status),
            value=None if row.value is None else _restore_value(json.loads(row.value)),
            confidence=row.confidence,
            probabilities=self._unpack_probabilities(row.probabilities)
            if row.probabilities
            else None,
            off_set=row.off_set,
            slack=row.slack,
            reason=row.reason,
            pass_name=row.pass_name,
            ms=row.ms,
            tokens_read=row.tokens_read,
            tokens_reused=row.tokens_reused,
            **_decode_details(row.details),
        )

    def _unpack_probabilities(self, probabilities: bytes) -> dict[str, float]:
        found = zip(self.labels, self._probabilities.unpack(probabilities), strict=True)
        return {name: share for name, share in found if not math.isnan(share)}


def _normalise_real(number: float | None) -> float | None:
    """The number as SQLite returns it: a plain float, with 0.0 for -0.0."""
    return None if number is None else float(number) + 0.0


def _restore_value(value: Any) -> Value:
    """A value as it was before JSON encoding."""
    return tuple(value) if isinstance(value, list) else cast("Value", value)


def _encode_details(answer: Answer) -> str | None:
    """The details that few answers have, as JSON; None without any."""
    steps = [[step.pass_name, step.status, step.value, step.confidence] for step in answer.steps]
    quotes = {
        # Ledgers of earlier versions have the first three only.
        name: list(astuple(quote))
        for name, quote in (answer.quotes or {}).items()
    }
    details = {
        "text": answer.text,
        "thoughts": answer.thoughts,
        "quotes": quotes or None,
        "steps": steps or None,
    }
    kept = {name: value for name, value in details.items() if value is not None}
    return json.dumps(kept) if kept else None


def _decode_details(written: str | None) -> dict[str, Any]:
    details = json.loads(written) if written else {}
    if "quotes" in details:
        details["quotes"] = {name: Quote(*quote) for name, quote in details["quotes"].items()}
    steps = details.get("steps", ())
    details["steps"] = tuple(
        PassStep(name, Status(status), _restore_value(value), confidence)
        for name, status, value, confidence in steps
    )
    return details


def compute_checksum(row: LedgerRow) -> int:
    """CRC-32 of every column of a row except its checksum."""
    reals = (row.confidence, row.off_set, row.slack, row.ms)
    texts = (row.record_id, row.status, row.value, row.reason, row.pass_name, row.details)
    numbers = _NUMBER_FORMAT.pack(
        row.row,
        row.tokens_read,
        row.tokens_reused,
        *(math.nan if number is None else number for number in reals),
    )
    encoded = repr(texts).encode() + (row.probabilities or b"")
    return zlib.crc32(numbers, zlib.crc32(encoded, zlib.crc32(row.key or b"")))


def is_intact(stored: Sequence[Any]) -> bool:
    try:
        row = LedgerRow._make(stored)
        return compute_checksum(row) == row.checksum
    except (struct.error, TypeError):  # a flipped bit can turn a number into text
        return False

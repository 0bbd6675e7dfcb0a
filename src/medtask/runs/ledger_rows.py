"""Rows of the ledger: answers as SQLite values with a checksum, and back."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, cast

from medtask.prediction.predictor import RowAnswer
from medtask.records import Answer, PassStep, Quote, Status, Value

_NUMBER_FORMAT = struct.Struct("<3q4d")


class LedgerRowCodec:
    """Encodes answers as rows of the table ``answers``, and decodes them.

    Probabilities are stored in the order of ``labels``, the names of all outcomes; NaN for outcomes
    that a row does not have. Values without a column, such as thoughts, are JSON under ``written``.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._probabilities = struct.Struct(f"<{len(self.labels)}d")

    def encode(self, row_answer: RowAnswer) -> tuple[Any, ...]:
        answer = row_answer.answer
        probabilities = answer.probabilities
        stored = (
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
            _normalise_real(answer.slack),
            answer.reason,
            answer.pass_name,
            _normalise_real(answer.ms),
            answer.tokens_read,
            answer.tokens_reused,
            _encode_details(answer),
        )
        return (*stored, compute_checksum(stored))

    def decode(self, stored: tuple[Any, ...]) -> Answer:
        (
            _,
            record_id,
            _,
            status,
            value,
            confidence,
            probabilities,
            off_set,
            slack,
            reason,
            pass_name,
            ms,
            read,
            reused,
            details,
            _,
        ) = stored
        return Answer(
            record_id,
            Status(status),
            value=None if value is None else _restore_value(json.loads(value)),
            confidence=confidence,
            probabilities=self._unpack_probabilities(probabilities) if probabilities else None,
            off_set=off_set,
            slack=slack,
            reason=reason,
            pass_name=pass_name,
            ms=ms,
            tokens_read=read,
            tokens_reused=reused,
            **_decode_details(details),
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


def compute_checksum(stored: tuple[Any, ...]) -> int:
    (
        row,
        record_id,
        key,
        status,
        value,
        confidence,
        probabilities,
        off_set,
        slack,
        reason,
        pass_name,
        ms,
        read,
        reused,
        details,
    ) = stored
    reals = (math.nan if number is None else number for number in (confidence, off_set, slack, ms))
    texts = repr((record_id, status, value, reason, pass_name, details)).encode()
    return zlib.crc32(
        _NUMBER_FORMAT.pack(row, read, reused, *reals),
        zlib.crc32(texts + (probabilities or b""), zlib.crc32(key or b"")),
    )


def is_intact(stored: tuple[Any, ...]) -> bool:
    try:
        return bool(compute_checksum(stored[:-1]) == stored[-1])
    except (struct.error, TypeError):  # a flipped bit can turn a number into text
        return False

"""The errors in llama.cpp's log, which name the cause where its functions only return a failure."""

from __future__ import annotations

from collections import deque

import llama_cpp

from medtask.display import shorten

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_errors: deque[str] = deque(maxlen=3)


def _keep_error(level: int, text: bytes, _data: object) -> None:
    if level == _ERROR_LEVEL:
        _errors.append(" ".join(text.decode("utf-8", "replace").split()))


# llama.cpp keeps a pointer to the callback, so it must not be garbage-collected.
_callback = llama_cpp.llama_log_callback(_keep_error)


def collect_log_errors() -> None:
    """Keep the last errors from now on, and discard the rest of the log."""
    _errors.clear()
    llama_cpp.llama_log_set(_callback, None)


def format_log_error() -> str:
    """ ": " and the first of the last errors; "" without any."""
    return f": {shorten(_errors[0], 200)}" if _errors else ""

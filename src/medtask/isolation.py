"""Calls of functions in a child process with limits, so that a library's abort is an exception.

Libraries in C and Rust end the process on some damaged files. A file of unknown origin is therefore
read in a child process first; this process reads it only if the child has succeeded.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from medtask import errors
from medtask.errors import MedtaskError

_WALL_FACTOR = 4
_STARTUP_BYTES = 2**28
_MEMORY_MARKS = (b"memory allocation of", b"MemoryError", b"std::bad_alloc", b"out of memory")


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """ProcessLimits of one call. On Windows only the time is limited, on macOS not the memory."""

    memory_bytes: int
    cpu_seconds: int


class IsolatedCallFailed(Exception):
    """The child process has ended without a result; ``reason`` is the limit, or "crash"."""

    def __init__(self, reason: Literal["memory", "time", "crash"], detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def call_isolated(function: str, *arguments: str | None, limits: ProcessLimits) -> object:
    """Call ``package.module:function`` in a child process.

    Args:
        function: The function. Its result must be a value of JSON.
        arguments: Its arguments.
        limits: What the call may use.

    Returns:
        The result of the function.

    Raises:
        MedtaskError: The error that the function has raised.
        IsolatedCallFailed: The function has raised another exception, has exceeded a limit, or has
            ended the process.
    """
    request = [function, list(arguments), limits.memory_bytes, limits.cpu_seconds]
    command = [sys.executable, "-P", "-m", "medtask.isolation"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "POLARS_MAX_THREADS": "1",
        "RUST_BACKTRACE": "0",
    }
    try:
        # In a session of its own, the child does not receive the signals of the terminal.
        done = subprocess.run(  # noqa: S603 - this interpreter and this module
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=limits.cpu_seconds * _WALL_FACTOR,
            env=environment,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise IsolatedCallFailed("time", "no result within the time limit") from None
    return read_reply(done.returncode, done.stdout, done.stderr)


def read_reply(returncode: int, stdout: bytes, stderr: bytes) -> object:
    """The result that a child process has written; raises as `call_isolated` does."""
    try:
        reply = json.loads(stdout.splitlines()[-1])
    except (ValueError, LookupError):
        raise _explain_end(returncode, stderr) from None
    if "error" in reply:
        name, message, fix = reply["error"]
        raise getattr(errors, name)(message, fix=fix)
    return reply["result"]


def _explain_end(returncode: int, stderr: bytes) -> IsolatedCallFailed:
    if any(mark in stderr for mark in _MEMORY_MARKS) or returncode == -signal.SIGKILL:
        return IsolatedCallFailed("memory", "the memory limit was exceeded")
    if returncode == -getattr(signal, "SIGXCPU", 0):
        return IsolatedCallFailed("time", "the time limit was exceeded")
    ended = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    return IsolatedCallFailed("crash", f"the process has ended with {ended}")


def _set_limits(memory_bytes: int, cpu_seconds: int) -> None:
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for limit, value in (
            (resource.RLIMIT_AS, memory_bytes + _STARTUP_BYTES),
            (resource.RLIMIT_CPU, cpu_seconds),
        ):
            _, hard = resource.getrlimit(limit)
            soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
            with contextlib.suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS
                resource.setrlimit(limit, (soft, hard))


def answer_request(request: bytes) -> str:
    """Set the limits of a request in this process, call its function and return the reply."""
    function, arguments, memory_bytes, cpu_seconds = json.loads(request)
    _set_limits(memory_bytes, cpu_seconds)
    module, _, name = function.partition(":")
    try:
        reply = {"result": getattr(importlib.import_module(module), name)(*arguments)}
    except MedtaskError as error:
        reply = {"error": [type(error).__name__, str(error), error.fix]}
    return f"\n{json.dumps(reply)}\n"


if __name__ == "__main__":
    sys.stdout.write(answer_request(sys.stdin.buffer.read()))

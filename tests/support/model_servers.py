"""Servers that others wrote, started with the built-in model on a free loopback port, and stopped
with the block that uses them.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# What their server halves import beyond their library halves.
LLAMA_SERVER_PACKAGES = (
    "llama_cpp",
    "fastapi",
    "sse_starlette",
    "starlette_context",
    "pydantic_settings",
    "uvicorn",
)
TRANSFORMERS_SERVER_PACKAGES = ("torch", "transformers", "fastapi", "openai", "uvicorn")

_START_S = 300.0  # imports alone take a minute where other programs keep the cores busy
_STOP_S = 10.0


def find_missing_packages(packages: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed here."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


@contextmanager
def run_llama_server(model: Path, *, context: int = 2048, threads: int = 1) -> Iterator[str]:
    """llama-cpp-python's own server for a .gguf file; yields the reference that load_model takes.

    ``context``: tokens of prompt and answer together. ``threads``: for prompts and for writing.
    """
    port = _find_free_port()
    options = {
        "model": model,
        "model_alias": "smollm2",
        "host": "127.0.0.1",
        "port": port,
        # without it the server answers a request for log-probabilities with HTTP 500
        "logits_all": "true",
        "n_ctx": context,
        "n_threads": threads,
        "n_threads_batch": threads,
        "verbose": "false",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with _start_server(
        [sys.executable, "-m", "llama_cpp.server", *words], f"http://127.0.0.1:{port}/v1/models"
    ):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def run_transformers_server(folder: Path, *, dtype: str = "float32") -> Iterator[str]:
    """``transformers serve`` for a model folder; yields the reference that load_model takes, which
    must name the model.
    """
    port = _find_free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", dtype]
    with _start_server(
        [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), *options],
        f"http://127.0.0.1:{port}/health",
    ):
        yield f"http://127.0.0.1:{port}/v1#{folder}"


def _find_free_port() -> int:
    """A port that is free now. Both servers need a number, so that another program could take it
    before they do.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _start_server(command: Sequence[str], url: str) -> Iterator[None]:
    """A server in a separate process that answers at ``url``; RuntimeError, with the end of its
    log, where it does not come up.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A Hub cache that is empty and stays empty: neither server may find or fetch a model of its
        # own.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": f"{folder}/hub"}
        log = Path(folder, "log")
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        try:
            _wait_until_ready(process, url, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text(errors='replace')[-2000:]}")

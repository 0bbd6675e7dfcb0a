"""A fault server and the engine that speaks to it, for tests of every dialect."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from fault_dialects import Features
from fault_server import FaultServer, Rule, Script, serve
from medtask.engines.http.engine import HttpEngine
from medtask.engines.http.load import load_http
from medtask.engines.http.probe import WORDS
from medtask.records import Branch, Message, Prompt
from toy_model import ToyModel

LABELS = ("curative resection", "palliative", "CT Brain", "CT Brain/Neck")


class Opener:
    """From a dialect, features and rules to an engine and its server; both end when this does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stack = ExitStack()
        self._monkeypatch = monkeypatch

    def __call__(
        self, dialect: Any, rules: Sequence[Rule] = (), *, seed: int = 0, **wishes: Any
    ) -> tuple[HttpEngine, FaultServer]:
        """``rules``: faults that begin behind the probes. ``wishes``: options of load_http, else
        Features.
        """
        options = {name: wishes.pop(name) for name in list(wishes) if name in _OPTIONS}
        if "window" in wishes:  # what the server reads at most
            wishes["context"] = wishes.pop("window")
            options |= {"context": wishes["context"]} if dialect == "ollama" else {}
        server = FaultServer(
            dialect, ToyModel([*LABELS, *WORDS, *"47AB"], seed=seed), Features(**wishes)
        )
        url = self._stack.enter_context(serve(server))
        self._monkeypatch.setenv("OLLAMA_HOST", url)
        engine = load_http("ollama:toy-1" if dialect == "ollama" else f"{url}/v1", **options)
        self._stack.callback(engine.close)
        server.script = Script(rules, seed)
        server.log.clear()
        return engine, server

    def close(self) -> None:
        self._stack.close()


_OPTIONS = frozenset(
    {
        "allow_unverified_context",
        "context",
        "tokenizer",
        "concurrency",
        "deadline_s",
        "allow_remote",
    }
)


def ask_about(row: int, *branches: Branch, **more: Any) -> Prompt:
    """A prompt about one row; by default with one branch of labels."""
    return Prompt(
        f"r{row}",
        (Message("user", f"Which is it? text {row}"),),
        branches or (Branch("", LABELS),),
        f"text {row}",
        **more,
    )

"""A fault server and the engine that is connected to it, for tests of every dialect."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from medtask.engines.http.engine import HttpEngine
from medtask.engines.http.load import load_http
from medtask.engines.http.probe import PROBE_WORDS
from medtask.engines.load_options import LoadOptions
from medtask.records import Branch, Message, Prompt
from support.fault_server import FaultRule, FaultScript, FaultServer, serve
from support.server_dialects import ServerFeatures
from support.toy_model import ToyModel

BRANCH_LABELS = ("curative resection", "palliative", "CT Brain", "CT Brain/Neck")


class EngineOpener:
    """From a dialect, features and rules to an engine and its server; both end when this does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stack = ExitStack()
        self._monkeypatch = monkeypatch

    def __call__(
        self,
        dialect: Any,
        rules: Sequence[FaultRule] = (),
        *,
        seed: int = 0,
        **options_and_features: Any,
    ) -> tuple[HttpEngine, FaultServer]:
        """``rules``: faults that begin behind the probes. ``options_and_features``: options of
        load_http, else Features.
        """
        load_options = {
            name: options_and_features.pop(name)
            for name in list(options_and_features)
            if name in _LOAD_OPTIONS
        }
        if "window" in options_and_features:  # what the server reads at most
            options_and_features["context"] = options_and_features.pop("window")
            load_options |= (
                {"context_tokens": options_and_features["context"]} if dialect == "ollama" else {}
            )
        server = FaultServer(
            dialect,
            ToyModel([*BRANCH_LABELS, *PROBE_WORDS, *"47AB"], seed=seed),
            ServerFeatures(**options_and_features),
        )
        url = self._stack.enter_context(serve(server))
        self._monkeypatch.setenv("OLLAMA_HOST", url)
        engine = load_http(
            "ollama:toy-1" if dialect == "ollama" else f"{url}/v1", LoadOptions(**load_options)
        )
        self._stack.callback(engine.close)
        server.script = FaultScript(rules, seed)
        server.log.clear()
        return engine, server

    def close(self) -> None:
        self._stack.close()


_LOAD_OPTIONS = frozenset(
    {
        "allow_unverified_context",
        "context_tokens",
        "tokenizer",
        "concurrency",
        "deadline_s",
        "allow_remote",
    }
)


def make_row_prompt(row: int, *branches: Branch, **more: Any) -> Prompt:
    """A prompt about one row; by default with one branch of labels."""
    return Prompt(
        f"r{row}",
        (Message("user", f"Which is it? text {row}"),),
        branches or (Branch("", BRANCH_LABELS),),
        f"text {row}",
        **more,
    )

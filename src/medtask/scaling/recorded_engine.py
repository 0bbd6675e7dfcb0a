"""Models as they were recorded: their properties, without the models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict

from medtask.engines.base import Caps, Engine, EngineInfo
from medtask.errors import EngineError
from medtask.json_content import JsonContent, check_content
from medtask.records import Fault, Prompt, Scores


class _EngineRecord(JsonContent):
    model_config = ConfigDict(strict=False)  # lists become tuples

    info: EngineInfo
    caps: Caps


class RecordedEngine(Engine):
    """The properties of a model that has answered elsewhere; it answers nothing.

    Args:
        record: What `record_engine` returned.

    Raises:
        InvalidJsonFile: The record is not complete, or has wrong types.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        found = check_content(record, _EngineRecord)
        self.caps, self.info = found.caps, found.info

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        """Raise EngineError: the model is not here."""
        raise EngineError(
            f"{self.info.title} is not loaded: only its answers are merged",
            fix="answer the missing rows first: medtask shard RUN",
        )


def record_engine(engine: Engine) -> dict[str, Any]:
    """The properties of a loaded model, as JSON values."""
    return {"info": asdict(engine.info), "caps": asdict(engine.caps)}

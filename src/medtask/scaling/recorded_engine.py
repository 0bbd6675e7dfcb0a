"""Models as they were recorded: their properties, without the models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from medtask.engines.base import Caps, Engine, EngineInfo, EngineTraits
from medtask.errors import EngineError
from medtask.records import Fault, Prompt, Scores


class RecordedEngine(Engine):
    """The properties of a model that has answered elsewhere; it answers nothing.

    Args:
        record: What `record_engine` returned.

    Raises:
        KeyError, TypeError: The record is not complete.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        info = dict(record["info"])
        self.caps = Caps(**record["caps"])
        self.info = EngineInfo(
            **{
                **info,
                "traits": EngineTraits(**info["traits"]),
                "destinations": {url: tuple(one) for url, one in info["destinations"].items()},
                "notes": tuple(info["notes"]),
                "trained_folders": tuple(info["trained_folders"]),
            }
        )

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

"""`QueueSettings`: which rows a queue has, in which order, and who reads them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medtask.records import Status

Share = Annotated[float, Field(ge=0, le=1)]
ReaderIds = Annotated[list[str], Field(max_length=200)]


class RowQuery(BaseModel):
    """Which rows are reviewed: those that meet all conditions that are given.

    Attributes:
        contains: Words that the text has, in capital or small letters.
        answers: The model's answer is, or includes, one of these.
        statuses: The status of the model's answer is one of these.
        confidence_below: The confidence is lower, or there is none.
        without_gold: The row has no gold.
    """

    model_config = ConfigDict(extra="forbid")

    contains: Annotated[str, Field(max_length=1000)] = ""
    answers: Annotated[list[str], Field(max_length=1000)] = []
    statuses: Annotated[list[Status], Field(max_length=20)] = []
    confidence_below: Share | None = None
    without_gold: bool = False

    @property
    def needs_answers(self) -> bool:
        """Whether a condition is about the model's answer."""
        return bool(self.answers or self.statuses or self.confidence_below is not None)


class QueueSettings(BaseModel):
    """The settings of a queue.

    Attributes:
        order: "worth" by the number of errors that a review is expected to correct, most first;
            "random", so that a part is a fair sample; or as in the "table".
        query: Which rows are reviewed.
        max_items: The maximum number of different texts.
        readers_per_item: How many people read an item.
        overlap: The share of items that all of them read; the other items have one reader.
        hide_model: From whom the model's answer is hidden until they have decided: from everyone
            after the first reader of an item ("further"), from "all", or from "none".
        readers: The ids of the accounts that read; empty for all reviewers.
        adjudicators: The ids of the accounts that adjudicate; empty for trainers and admins.
        readers_may_adjudicate: Whether a person may adjudicate an item that they have read.
    """

    model_config = ConfigDict(extra="forbid")

    order: Literal["worth", "random", "table"] = "worth"
    query: RowQuery = RowQuery()
    max_items: Annotated[int, Field(ge=1, le=100_000)] = 100_000
    readers_per_item: Annotated[int, Field(ge=1, le=10)] = 1
    overlap: Share = 1.0
    hide_model: Literal["none", "further", "all"] = "further"
    readers: ReaderIds = []
    adjudicators: ReaderIds = []
    readers_may_adjudicate: bool = False

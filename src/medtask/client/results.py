"""What a server answers, as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from medtask.records import Answer, Status


@dataclass(frozen=True, slots=True)
class AskResult:
    """The answer to one question.

    Attributes:
        answer: A letter with options, otherwise a text; None without an answer.
        option: The text of the chosen option.
        analysis: What the model wrote before its answer.
        probabilities: By letter; None without options.
        confidence: The probability of the answer; None without options.
        status: See `medtask.Status`.
        reason: Why there is no answer, or why a person should review it.
        truncated: Whether the text was cut after its last complete sentence.
        model: The model.
    """

    answer: str | None
    option: str | None
    analysis: str | None
    probabilities: Mapping[str, float] | None
    confidence: float | None
    status: Status
    reason: str | None
    truncated: bool
    model: str

    def to_json(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """The state of a job.

    Attributes:
        id: Its number.
        kind: What it does, such as "train".
        state: "queued", "running", "succeeded", "failed" or "cancelled".
        progress: Its phase, and what is done of the total; None before the first report.
        result: Its result; None before its end.
    """

    id: int
    kind: str
    state: str
    progress: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    problem: Mapping[str, Any] | None

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class RemoteRun:
    """A run of the server.

    Attributes:
        id: Its number.
        task_id: Its task.
        dataset_id: Its data set; None if that was deleted.
        model: The reference or the name of its model.
        state: The state of its last job.
        statuses: The number of rows by status.
        metrics: By name, with "value", "low" and "high"; empty without gold.
        result: `medtask.Run` as JSON.
    """

    id: int
    task_id: int
    dataset_id: int | None
    model: str
    state: str
    statuses: Mapping[str, int]
    metrics: Mapping[str, Any]
    result: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model of the server.

    Attributes:
        id: Its number, as ``model`` of other verbs.
        name: Its name.
        task_id: Its task.
        state: "created", "training", "ready" or "failed".
        metrics: Metrics on the validation rows, by name.
        result: `medtask.TrainedModel` as JSON.
    """

    id: int
    name: str
    task_id: int
    state: str
    metrics: Mapping[str, Any]
    result: Mapping[str, Any] | None


RemoteT = TypeVar("RemoteT", AskResult, RemoteJob, RemoteRun, RemoteModel)


def read_ask_result(found: Mapping[str, Any]) -> AskResult:
    return read_object({**found, "status": Status(found["status"])}, AskResult)


def read_answer(record_id: str, found: Mapping[str, Any]) -> Answer:
    value = found["answer"]
    return Answer(
        record_id,
        Status(found["status"]),
        value=tuple(value) if isinstance(value, list) else value,
        confidence=found["confidence"],
        probabilities=found["probabilities"],
        text=found["written"],
        thoughts=found["analysis"],
        reason=found["reason"],
        pass_name=found["pass"],
    )


def read_object(found: Mapping[str, Any], kind: type[RemoteT]) -> RemoteT:
    """A job, run or model from the API's document; a later version of the server may send more."""
    values: dict[str, Any] = {field.name: found.get(field.name) for field in fields(kind)}
    return kind(**values)

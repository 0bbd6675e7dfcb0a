"""The seam to experiment tracking: told once, when all is done; a store that fails does not touch
the run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from medtask.errors import UsageError
from medtask.runs.tracking.store import TrackingStore, describe_error
from medtask.runs.tracking.tracked_run import TrackedRun, TrackingRecord, build_tracked_run

TRACKER_NAMES = ("mlflow", "weave")


class Tracker(Protocol):
    """A store that was seen to be there."""

    @property
    def store(self) -> TrackingStore: ...

    @property
    def metrics_only(self) -> bool:
        """Whether it may be told figures alone (see tracked.describe)."""
        ...

    def track(self, tracked_run: TrackedRun) -> None:
        """Tell it, whole. May raise anything that the store's library raises."""


@dataclass(frozen=True, slots=True)
class TrackingResult:
    """What became of it: ``place`` in words; ``error``: why it was not told, None if it was."""

    place: str
    error: str | None = None

    @property
    def status_line(self) -> str:
        """For a terminal."""
        return (
            f"tracked in {self.place}"
            if self.error is None
            else f"not tracked in {self.place}: {self.error}; the run itself is whole"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def open_tracker(
    spec: str, *, runs_folder: Path, task: str, phi: bool = False, allow_remote: bool = False
) -> Tracker:
    """The store that ``--track`` names: ``mlflow``, ``mlflow:URI``, ``weave`` or
    ``weave:ENTITY/PROJECT``. Before a run, not after.

    ``runs_folder``: the folder of the runs, where a store of their own is made. ``task``: its name,
    under which runs stand together. ``phi``: the task says that its records are patients' (a store
    on another machine is then told figures alone). Raises UsageError for another place or a machine
    that was not allowed, MissingExtra, StorageError where the store cannot be opened.
    """
    name, _, address = spec.partition(":")
    if name == "mlflow":
        from medtask.runs.tracking.mlflow import open_mlflow

        return open_mlflow(
            address, runs_folder=runs_folder, experiment=task, phi=phi, allow_remote=allow_remote
        )
    if name == "weave":
        from medtask.runs.tracking.weave import open_weave

        return open_weave(address, task=task, phi=phi, allow_remote=allow_remote)
    raise UsageError(
        f"nothing is known of tracking in {name!r}", fix=f"name one of {', '.join(TRACKER_NAMES)}"
    )


def log_run(tracker: Tracker, record: TrackingRecord) -> TrackingResult:
    """Sends a record to a tracker.

    Errors are returned, not raised, because the work itself is complete.
    """
    sends_folder = record.folder and not tracker.store.remote
    folder = str(record.folder.resolve()) if record.folder and sends_folder else ""
    try:
        tracker.track(build_tracked_run(record, folder=folder, metrics_only=tracker.metrics_only))
    except (
        Exception
    ) as error:  # a store may fail in any way; its words may hold passwords and are not shown
        return TrackingResult(tracker.store.display_name, describe_error(error))
    return TrackingResult(tracker.store.display_name)

"""Interface to experiment tracking; a tracking error does not affect the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from medtask.errors import UsageError
from medtask.runs.tracking.store import TrackingStore, describe_error
from medtask.runs.tracking.tracked_run import TrackedRun, TrackingRecord, build_tracked_run

TRACKER_NAMES = ("mlflow", "weave")


class Tracker(Protocol):
    """A tracking store that is known to be reachable."""

    @property
    def store(self) -> TrackingStore: ...

    @property
    def metrics_only(self) -> bool:
        """Whether the store receives metrics only; see `build_tracked_run`."""
        ...

    def track(self, tracked_run: TrackedRun) -> None:
        """Log a complete run. May raise any exception of the store's library."""


@dataclass(frozen=True, slots=True)
class TrackingResult:
    """The result of logging: the ``place`` for display, and the ``error`` if it failed."""

    place: str
    error: str | None = None

    @property
    def status_line(self) -> str:
        """One line for a terminal."""
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
    """Open the store that ``--track`` names, before a run.

    Args:
        spec: ``mlflow``, ``mlflow:URI``, ``weave`` or ``weave:ENTITY/PROJECT``.
        runs_folder: The folder of the runs, in which a local store is created.
        task: The name of the task, which groups its runs.
        phi: Whether records are patient data; a remote store then receives metrics only.
        allow_remote: Whether the store may be on another machine.

    Raises:
        UsageError: The store is not valid, or on another machine that is not allowed.
        MissingExtra: The store's library is not installed.
        StorageError: The store cannot be opened.
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
    """Send a record to a tracker. Errors are returned, not raised, because the work is complete."""
    sends_folder = record.folder and not tracker.store.remote
    folder = str(record.folder.resolve()) if record.folder and sends_folder else ""
    try:
        tracker.track(build_tracked_run(record, folder=folder, metrics_only=tracker.metrics_only))
    except (
        Exception
    ) as error:  # any error of the store; its message may contain passwords and is not shown
        return TrackingResult(tracker.store.display_name, describe_error(error))
    return TrackingResult(tracker.store.display_name)

"""Tracking with MLflow, in a SQLite store next to the runs or on a server."""

from __future__ import annotations

import io
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medtask.atomic_files import make_private_folder, open_private, raise_storage_errors
from medtask.errors import MissingExtra, StorageError, UsageError
from medtask.privacy import block_network, disable_telemetry
from medtask.runs.tracking.store import TrackingStore, describe_error, find_tracking_store
from medtask.runs.tracking.tracked_run import TrackedRun

STORE_FILE = "mlflow.db"
ARTEFACT_FOLDER = "mlflow-artefacts"
PARAMETERS_PER_CALL = 100  # a limit of MLflow
MAX_PARAMETER_CHARACTERS = 5000  # characters of a parameter: MLflow rejects more than 6000
_KEY = "medtask.key"

# By default MLflow retries an unreachable server seven times, for about four minutes.
_RETRY_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


@dataclass(frozen=True, slots=True)
class MlflowTracker:
    """A tracker for one MLflow experiment. ``metrics_only``: see `Tracker`."""

    client: Any
    experiment_id: str
    store: TrackingStore
    metrics_only: bool = False

    def track(self, tracked_run: TrackedRun) -> None:
        """Log to one MLflow run per run; logging it again adds metrics to the earlier ones."""
        from mlflow.entities import Metric, Param, RunTag

        with _silence_mlflow(self.store):
            timestamp_ms = int(time.time() * 1000)
            run = self._find_run(tracked_run) or self.client.create_run(
                self.experiment_id,
                run_name=tracked_run.name,
                tags={_KEY: tracked_run.key, "medtask.verb": tracked_run.verb},
            )
            run_id = run.info.run_id
            parameters = [
                Param(key, value[:MAX_PARAMETER_CHARACTERS])
                for key, value in tracked_run.parameters.items()
            ]
            for start in range(0, len(parameters), PARAMETERS_PER_CALL):
                self.client.log_batch(
                    run_id, params=parameters[start : start + PARAMETERS_PER_CALL]
                )
            self.client.log_batch(
                run_id,
                metrics=[
                    Metric(key, value, timestamp_ms, 0)
                    for key, value in tracked_run.metrics.items()
                ],
            )
            tags = {
                "medtask.folder": tracked_run.folder,
                "medtask.figures_left_out": str(tracked_run.omitted_metrics or ""),
            }
            self.client.log_batch(
                run_id, tags=[RunTag(key, value) for key, value in tags.items() if value]
            )
            if _accepts_files(run.info.artifact_uri, self.store):
                for file, text in tracked_run.documents.items():
                    self.client.log_text(run_id, text, file)
            self.client.set_terminated(run_id, "FINISHED")

    def _find_run(self, tracked_run: TrackedRun) -> Any:
        found = self.client.search_runs(
            [self.experiment_id],
            filter_string=f"tags.`{_KEY}` = '{tracked_run.key}'",
            max_results=1,
        )
        return found[0] if found else None


def open_mlflow(
    uri: str, *, runs_folder: Path, experiment: str, phi: bool = False, allow_remote: bool = False
) -> MlflowTracker:
    """Open the store at ``uri`` and its experiment.

    Without ``uri``, MLFLOW_TRACKING_URI is used, or a store in ``runs_folder`` (mode 0600).

    Raises:
        MissingExtra: MLflow is not installed.
        UsageError: The address is not valid or not allowed.
        StorageError: The store cannot be opened.
    """
    if uri and urlsplit(uri).username:
        # The command line is stored in the manifest and in the shell's history.
        fix = (
            "write user name and password into MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
        raise UsageError("the address after mlflow: holds a user name", fix=fix)
    uri = (
        uri
        or os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        or f"sqlite:///{(runs_folder / STORE_FILE).resolve()}"
    )
    file = _find_sqlite_file(uri)
    store = (
        TrackingStore(f"MLflow at sqlite:///{file}") if file else _find_server(uri, allow_remote)
    )
    disable_telemetry()  # before the import: MLflow ignores later changes
    for name, value in _RETRY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with _silence_mlflow(store):
            from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise MissingExtra(
            "MLflow is not installed here", fix="pip install 'medtask[track]'"
        ) from error
    # By default MLflow stores files in the current folder.
    location = _create_private_store(file) if file else None
    try:
        with _silence_mlflow(store):
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            identity = (
                found.experiment_id
                if found
                else client.create_experiment(experiment, artifact_location=location)
            )
    except (
        Exception
    ) as error:  # any error of the store's drivers; its message may contain a password
        fix = "start the server, or leave the address out: a store beside the runs is made"
        raise StorageError(
            f"{store.display_name} cannot be opened ({describe_error(error)})", fix=fix
        ) from error
    return MlflowTracker(client, str(identity), store, metrics_only=phi and store.remote)


def _find_sqlite_file(uri: str) -> Path | None:
    parts = urlsplit(uri)
    named = (
        parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1 and not parts.query
    )
    return Path(uri.removeprefix("sqlite:///")) if named else None


def _find_server(uri: str, allow_remote: bool) -> TrackingStore:
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        store = find_tracking_store(uri, allow_remote=allow_remote)
        return replace(store, display_name=f"MLflow at {store.display_name}")
    fix = (
        "name a server (http://127.0.0.1:5000) or a file (sqlite:////home/me/mlflow.db); other "
        "databases are reached through a server"
    )
    raise UsageError(
        f"medtask does not track in an MLflow store of the kind {scheme or 'folder'!r}", fix=fix
    )


def _create_private_store(file: Path) -> str:
    """Create the store and its file folder (mode 0600); SQLite accepts an empty file as new."""
    folder = file.parent / ARTEFACT_FOLDER
    with raise_storage_errors(file):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private_folder(folder)
        os.close(open_private(file))
    return folder.resolve().as_uri()


def _accepts_files(location: str, store: TrackingStore) -> bool:
    """Whether files go to the checked server or disk, not elsewhere such as a bucket."""
    scheme = urlsplit(location).scheme
    return scheme == "mlflow-artifacts" if store.addresses else scheme in ("", "file")


@contextmanager
def _silence_mlflow(store: TrackingStore) -> Iterator[None]:
    """Suppress MLflow's log and its links on standard output, and block other machines.

    The network guard knows addresses only, so it is off for a server given by host name.
    """
    logger = logging.getLogger("mlflow")
    before = logger.level
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # deprecations in its dependencies
        try:
            logger.setLevel(logging.ERROR)
            with (
                nullcontext()
                if store.remote and store.by_host_name
                else block_network(store.addresses if store.remote else ())
            ):
                yield
        finally:
            logger.setLevel(before)

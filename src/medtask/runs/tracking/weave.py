"""Tracking with W&B Weave: one call per run, with facts as inputs and metrics as output."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from medtask.errors import MissingExtra, StorageError, UsageError
from medtask.privacy import block_network
from medtask.runs.tracking.store import TrackingStore, describe_error, find_tracking_store
from medtask.runs.tracking.tracked_run import TrackedRun

CLOUD_URL = "https://api.wandb.ai"
CLOUD_TRACES_URL = "https://trace.wandb.ai"

# Weave must send nothing but these facts: no code, no system information, no patched libraries, no
# copies on disk. medtask.privacy disables it; it is enabled only while a run is logged.
_WEAVE_SETTINGS = {
    "WEAVE_DISABLED": "false",
    "WANDB_MODE": "online",
    "WANDB_ERROR_REPORTING": "false",
    "WEAVE_IMPLICITLY_PATCH_INTEGRATIONS": "false",
    "WEAVE_CAPTURE_CODE": "false",
    "WEAVE_CAPTURE_CLIENT_INFO": "false",
    "WEAVE_CAPTURE_SYSTEM_INFO": "false",
    "WEAVE_PRINT_CALL_LINK": "false",
    "WEAVE_LOG_LEVEL": "ERROR",
    "WEAVE_ENABLE_DISK_FALLBACK": "false",
    "WEAVE_USE_SERVER_CACHE": "false",
    "WEAVE_RETRY_MAX_ATTEMPTS": "2",
    "WEAVE_RETRY_MAX_INTERVAL": "5",
    "WEAVE_HTTP_TIMEOUT": "20",
}


@dataclass(frozen=True, slots=True)
class WeaveTracker:
    """A tracker for one Weave project. ``metrics_only``: see `Tracker`.

    ``server_variables`` are the environment variables that select the server.
    """

    project: str
    store: TrackingStore
    server_variables: Mapping[str, str]
    allowed_addresses: tuple[str, ...] | None
    metrics_only: bool = False

    def track(self, tracked_run: TrackedRun) -> None:
        """Log one call and read it back, because Weave sends in the background and hides errors."""
        import weave

        with self.connect():
            client: Any = weave.init(self.project)
            try:
                call = client.create_call(
                    op=f"medtask.{tracked_run.verb}",
                    inputs={
                        "experiment": tracked_run.experiment,
                        "parameters": dict(tracked_run.parameters),
                    },
                    attributes={
                        "medtask": {
                            "key": tracked_run.key,
                            "folder": tracked_run.folder,
                            "figures_left_out": tracked_run.omitted_metrics,
                        }
                    },
                    display_name=tracked_run.name,
                    use_stack=False,
                )
                client.finish_call(
                    call, output={"figures": dict(tracked_run.metrics), **tracked_run.documents}
                )
                client.flush()
                client.get_call(call.id)
            finally:
                weave.finish()

    @contextmanager
    def connect(self) -> Iterator[None]:
        """Enable Weave with its servers within the block, and block all other machines."""
        settings = {**_WEAVE_SETTINGS, **self.server_variables}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            guard = (
                nullcontext()
                if self.allowed_addresses is None
                else block_network(self.allowed_addresses)
            )
            with (
                warnings.catch_warnings(),
                redirect_stdout(io.StringIO()),
                guard,
            ):  # standard output is reserved for results
                warnings.simplefilter("ignore")
                yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value


def open_weave(
    address: str, *, task: str, phi: bool = False, allow_remote: bool = False
) -> WeaveTracker:
    """Open the project ``ENTITY/PROJECT``; by default the task's name below WANDB_ENTITY.

    The server is that of WANDB_BASE_URL, or W&B's cloud.

    Raises:
        UsageError: The entity or WANDB_API_KEY is missing, or the machine is not allowed.
        MissingExtra: Weave is not installed.
        StorageError: The server does not open the project.
    """
    entity, _, project = (
        address.rpartition("/")
        if address
        else (os.environ.get("WANDB_ENTITY", "").strip(), "", task)
    )
    if not entity or not project or "/" in entity:
        raise UsageError(
            "it is not settled whose Weave project it is",
            fix="write --track weave:ENTITY/PROJECT, or set WANDB_ENTITY",
        )
    base = (os.environ.get("WANDB_BASE_URL", "").strip() or CLOUD_URL).rstrip("/")
    traces = os.environ.get("WF_TRACE_SERVER_URL", "").strip() or (
        CLOUD_TRACES_URL if base == CLOUD_URL else f"{base}/traces"
    )
    stores = [find_tracking_store(url, allow_remote=allow_remote) for url in (base, traces)]
    if find_spec("weave") is None:
        raise MissingExtra("Weave is not installed here", fix="pip install weave")
    if not os.environ.get("WANDB_API_KEY", "").strip():
        fix = "set it to the key of your W&B server: nobody is asked for it in the middle of a run"
        raise UsageError("WANDB_API_KEY is not set", fix=fix)
    remote = [place for place in stores if place.remote]
    allowed_addresses = (
        None
        if any(place.by_host_name for place in remote)
        else tuple(address for place in remote for address in place.addresses)
    )
    project_path = f"{entity}/{re.sub(r'[^A-Za-z0-9_.-]', '-', project)}"
    store = TrackingStore(
        f"Weave project {project_path} at {stores[0].display_name}",
        bool(remote),
        allowed_addresses or (),
    )
    tracker = WeaveTracker(
        project_path,
        store,
        {"WANDB_BASE_URL": base, "WF_TRACE_SERVER_URL": traces},
        allowed_addresses,
        metrics_only=phi and bool(remote),
    )
    _check_connection(tracker)
    return tracker


def _check_connection(tracker: WeaveTracker) -> None:
    try:
        with tracker.connect():
            import weave

            weave.init(tracker.project)
            weave.finish()
    except (
        Exception
    ) as error:  # any error of the server or libraries; its message may contain a key
        fix = "check WANDB_BASE_URL, WANDB_API_KEY and the project's name"
        raise StorageError(
            f"{tracker.store.display_name} cannot be opened ({describe_error(error)})", fix=fix
        ) from error

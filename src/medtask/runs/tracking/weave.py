"""Runs as calls of W&B Weave: one call each, its inputs the facts and its output the figures."""

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
from medtask.privacy import no_network
from medtask.runs.tracking.place import Place, find_place
from medtask.runs.tracking.tracked import Tracked
from medtask.runs.tracking.tracker import name_error

CLOUD = "https://api.wandb.ai"
CLOUD_TRACES = "https://trace.wandb.ai"

# Weave is told these facts and nothing of its own accord: no code, no machine, no patched
# libraries, no copies on disk. privacy.SWITCHES keeps it shut; it is opened for the moments in
# which it is told something.
_OPEN = {
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
    """A Weave project. ``servers``: the environment variables that lead there. ``bare``: see
    Tracker.
    """

    project: str
    place: Place
    servers: Mapping[str, str]
    guard: tuple[str, ...] | None
    bare: bool = False

    def track(self, told: Tracked) -> None:
        """One call for each time that it is told; read back, because Weave sends in the background
        and swallows what fails.
        """
        import weave

        with self.open():
            client: Any = weave.init(self.project)
            try:
                call = client.create_call(
                    op=f"medtask.{told.verb}",
                    inputs={"experiment": told.experiment, "parameters": dict(told.parameters)},
                    attributes={
                        "medtask": {
                            "key": told.key,
                            "folder": told.folder,
                            "figures_left_out": told.left_out,
                        }
                    },
                    display_name=told.name,
                    use_stack=False,
                )
                client.finish_call(call, output={"figures": dict(told.figures), **told.documents})
                client.flush()
                client.get_call(call.id)
            finally:
                weave.finish()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Weave's switches open and its servers named, for the length of the block; no other
        machine within reach.
        """
        wanted = {**_OPEN, **self.servers}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            guard = nullcontext() if self.guard is None else no_network(self.guard)
            with (
                warnings.catch_warnings(),
                redirect_stdout(io.StringIO()),
                guard,
            ):  # standard output is for results
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
    """The project ``ENTITY/PROJECT``; without one, the task's name below WANDB_ENTITY. The server
    is WANDB_BASE_URL's, else W&B's own.

    Raises UsageError where it is not settled whose project it is, where WANDB_API_KEY is not set,
    or for a machine that was not allowed; MissingExtra; StorageError where the server does not open
    the project.
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
    base = (os.environ.get("WANDB_BASE_URL", "").strip() or CLOUD).rstrip("/")
    traces = os.environ.get("WF_TRACE_SERVER_URL", "").strip() or (
        CLOUD_TRACES if base == CLOUD else f"{base}/traces"
    )
    places = [find_place(url, allow_remote=allow_remote) for url in (base, traces)]
    if find_spec("weave") is None:
        raise MissingExtra("Weave is not installed here", fix="pip install weave")
    if not os.environ.get("WANDB_API_KEY", "").strip():
        fix = "set it to the key of your W&B server: nobody is asked for it in the middle of a run"
        raise UsageError("WANDB_API_KEY is not set", fix=fix)
    remote = [place for place in places if place.remote]
    guard = (
        None
        if any(place.named for place in remote)
        else tuple(address for place in remote for address in place.addresses)
    )
    whole = f"{entity}/{re.sub(r'[^A-Za-z0-9_.-]', '-', project)}"
    place = Place(f"Weave project {whole} at {places[0].shown}", bool(remote), guard or ())
    tracker = WeaveTracker(
        whole,
        place,
        {"WANDB_BASE_URL": base, "WF_TRACE_SERVER_URL": traces},
        guard,
        bare=phi and bool(remote),
    )
    _try(tracker)
    return tracker


def _try(tracker: WeaveTracker) -> None:
    try:
        with tracker.open():
            import weave

            weave.init(tracker.project)
            weave.finish()
    except (
        Exception
    ) as error:  # whatever its server and libraries raise; their words may hold a key
        fix = "check WANDB_BASE_URL, WANDB_API_KEY and the project's name"
        raise StorageError(
            f"{tracker.place.shown} cannot be opened ({name_error(error)})", fix=fix
        ) from error

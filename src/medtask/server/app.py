"""The application: routes, middlewares and what lives as long as the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from functools import cache

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.routing import BaseRoute

from medtask.server.access.audit_log import AuditLog
from medtask.server.access.guard import AccessGuard
from medtask.server.access.route_checks import check_routes
from medtask.server.api import (
    accounts,
    ask,
    classify,
    datasets,
    exports,
    grading,
    jobs,
    measurements,
    models,
    review_items,
    reviews,
    runs,
    system,
    tasks,
    tuning,
)
from medtask.server.database.connect import Database
from medtask.server.inference.execution import open_inference
from medtask.server.jobs.worker_pool import open_workers
from medtask.server.observation import Observations, RequestObserver
from medtask.server.pages.navigation import describe_user
from medtask.server.pages.routers import PAGE_ROUTERS
from medtask.server.problems import PROBLEM_RESPONSES, add_problem_handlers
from medtask.server.rendering import STATIC_FOLDER
from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings

# One router per resource, then those of the pages.
ROUTERS: tuple[APIRouter, ...] = (
    system.router,
    accounts.router,
    reviews.router,
    review_items.router,
    datasets.router,
    tasks.router,
    tuning.router,
    exports.router,
    models.router,
    measurements.router,  # before runs: its paths have no id
    grading.router,
    runs.router,
    jobs.router,
    classify.router,
    ask.router,
    *PAGE_ROUTERS,
)
# Each is entered with the app before the first request, and left after the last one.
RESOURCES: tuple[Callable[[FastAPI], AbstractContextManager[object]], ...] = (
    open_workers,
    open_inference,
)


def create_app(settings: ServerSettings, database: Database | None = None) -> FastAPI:
    """Create the application.

    Its ``state`` has ``settings``, ``database``, ``audit_log``, ``observations`` and
    ``describe_user``, the values of all templates.

    Args:
        settings: The settings.
        database: An open database; default: that of the settings, which is closed at the end.

    Raises:
        UsageError: The settings are not valid.
    """
    opened = database or open_database(settings)
    app = FastAPI(
        title="medtask",
        description="Label and answer medical text with open language models.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        lifespan=_run_resources,
        # Nothing is exported, whatever the environment says.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.state.settings = settings
    app.state.database = opened
    app.state.closes_database = database is None
    app.state.audit_log = AuditLog(settings.data_folder)
    app.state.observations = Observations()
    app.state.describe_user = describe_user
    app.router.routes.extend(_include_routers())
    app.mount("/static", StaticFiles(directory=STATIC_FOLDER), name="static")
    add_problem_handlers(app)
    check_routes(app)
    app.add_middleware(
        AccessGuard, settings=settings, database=opened, audit_log=app.state.audit_log
    )
    app.add_middleware(RequestObserver, observations=app.state.observations)
    return app


@cache
def _include_routers() -> tuple[BaseRoute, ...]:
    """The routes of all routers, which FastAPI examines for 0.2 seconds; apps share them."""
    together = APIRouter(responses=PROBLEM_RESPONSES)
    for router in ROUTERS:
        together.include_router(router)
    return tuple(together.routes)


@asynccontextmanager
async def _run_resources(app: FastAPI) -> AsyncIterator[None]:
    with ExitStack() as stack:
        if app.state.closes_database:
            stack.callback(app.state.database.close)
        for open_resource in RESOURCES:
            stack.enter_context(open_resource(app))
        yield

"""Errors as HTTP responses: problem details (RFC 9457) with the remedy in ``fix``.

    MedtaskError            status by class, see `find_status`
      RequestProblem        an error of a request, with its own status
        NotSignedIn    401  no session or key, or one that is not valid any more
        NotPermitted   403  the role or the key's scopes are not enough
        NotFound       404  no such object, or no such address
        Conflict       409  the object has changed, or is in use
        BodyTooLarge   413  the body or a text is too long
        NotValid       422  the request has the right form, but a value is not valid
        TooManyRequests 429 the limit of a user, a key or a queue is reached
        NotAvailable   503  the server cannot answer at present

A problem contains no text of records, because problems are logged and shown elsewhere.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from medtask.display import format_path
from medtask.errors import (
    EngineError,
    InputError,
    MedtaskError,
    ModelNotFound,
    RunLocked,
    RunMismatch,
    StorageError,
    TaskFaults,
    UsageError,
)
from medtask.server.rendering import prefers_page, render_page

log = logging.getLogger("medtask.server")

PROBLEM_TYPE = "application/problem+json"


class RequestProblem(MedtaskError):
    """An error of a request; subclasses have their HTTP status."""

    status = HTTPStatus.BAD_REQUEST
    headers: Mapping[str, str] = {}


class NotSignedIn(RequestProblem):
    status = HTTPStatus.UNAUTHORIZED
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class NotPermitted(RequestProblem):
    status = HTTPStatus.FORBIDDEN


class NotFound(RequestProblem):
    status = HTTPStatus.NOT_FOUND


class Conflict(RequestProblem):
    status = HTTPStatus.CONFLICT


class BodyTooLarge(RequestProblem):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class NotValid(RequestProblem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class NotAvailable(RequestProblem):
    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, message: str, *, fix: str, retry_after_s: int = 5) -> None:
        super().__init__(message, fix=fix)
        self.headers = {"Retry-After": str(retry_after_s)}


class TooManyRequests(NotAvailable):
    status = HTTPStatus.TOO_MANY_REQUESTS


_STATUS_OF_ERRORS: tuple[tuple[type[MedtaskError], HTTPStatus], ...] = (
    (ModelNotFound, HTTPStatus.NOT_FOUND),
    (EngineError, HTTPStatus.SERVICE_UNAVAILABLE),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (RunLocked, HTTPStatus.CONFLICT),
    (RunMismatch, HTTPStatus.CONFLICT),
    (StorageError, HTTPStatus.INSUFFICIENT_STORAGE),
)
_FIXES = {
    HTTPStatus.NOT_FOUND: "the addresses of the API are listed at /docs",
    HTTPStatus.METHOD_NOT_ALLOWED: "use a method that the header Allow lists",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "send less at once",
    HTTPStatus.BAD_REQUEST: "send a body of the form that /docs describes",
}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "required": ["type", "title", "status", "detail", "fix"],
    "properties": {
        "type": {"type": "string", "description": "What kind of problem this is."},
        "title": {"type": "string", "description": "The name of the status."},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened."},
        "fix": {"type": "string", "description": "What to do."},
        "errors": {
            "type": "array",
            "description": "Every fault of the request, if it has several.",
            "items": {"type": "object"},
        },
    },
}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "The request is refused; `fix` says what to do.",
        "content": {PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}},
    },
    "5XX": {
        "description": "The server cannot answer; `fix` says what to do.",
        "content": {PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}},
    },
}


def find_status(error: MedtaskError) -> HTTPStatus:
    """The HTTP status of an error."""
    if isinstance(error, RequestProblem):
        return error.status
    for kind, status in _STATUS_OF_ERRORS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def describe_problem(error: MedtaskError) -> dict[str, Any]:
    """The problem details of an error."""
    status = find_status(error)
    if isinstance(error, TaskFaults):  # the folder of the file is not for users
        error = TaskFaults(Path(error.source).name, error.faults)
        error.fix = "correct the lines, then save the task again"
    problem: dict[str, Any] = {
        "type": f"urn:medtask:{_write_type(type(error).__name__)}",
        "title": status.phrase,
        "status": status.value,
        "detail": str(error),
        "fix": error.fix,
    }
    if isinstance(error, TaskFaults):
        problem["errors"] = [
            {"line": fault.line, "message": fault.message} for fault in error.faults
        ]
    return problem


def respond_to_problem(
    request: Request, error: MedtaskError, errors: Sequence[Mapping[str, Any]] = ()
) -> Response:
    """The response for an error: a page for a browser's navigation, problem details otherwise."""
    problem = describe_problem(error)
    if errors:
        problem["errors"] = list(errors)
    headers = dict(error.headers) if isinstance(error, RequestProblem) else {}
    if prefers_page(request):
        return render_page(
            request,
            "problem.html",
            {"problem": problem},
            status_code=problem["status"],
            headers=headers,
        )
    return JSONResponse(problem, problem["status"], headers, media_type=PROBLEM_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error of the app a problem."""

    async def handle_medtask_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, MedtaskError)
        if find_status(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("%s %s", type(error).__name__, find_route(request))
        return respond_to_problem(request, error)

    async def handle_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _respond_to_status(request, error)

    async def handle_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _respond_to_validation(request, error)

    async def handle_other_error(request: Request, error: Exception) -> Response:
        log_unexpected_error(find_route(request), error)
        return respond_to_problem(request, make_unexpected_error())

    app.add_exception_handler(MedtaskError, handle_medtask_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    app.add_exception_handler(Exception, handle_other_error)


def log_unexpected_error(place: str, error: BaseException) -> None:
    """Log where an error was raised; its message may contain the text of a record."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    log.error("%s: %s at %s", place, type(error).__name__, where)


def find_route(request: Request) -> str:
    """Method and path template of a request: paths may contain ids and secrets."""
    route = request.scope.get("route")
    return f"{request.method} {getattr(route, 'path', 'unknown address')}"


def make_unexpected_error() -> MedtaskError:
    return MedtaskError(
        "the server met an error that it does not know",
        fix="report it with the time; the server's log has the place in the code",
    )


def _respond_to_status(request: Request, error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    problem = RequestProblem(
        str(error.detail or status.phrase).rstrip("."),
        fix=_FIXES.get(status, "change the request as /docs describes"),
    )
    problem.status = status
    problem.headers = error.headers or {}
    return respond_to_problem(request, problem)


def _respond_to_validation(request: Request, error: RequestValidationError) -> Response:
    # Only places and reasons: the values are what a user sent, possibly the text of a record.
    faults = [
        {
            "location": ".".join(format_path(part) for part in fault["loc"]),
            "message": "is not valid JSON" if fault["type"] == "json_invalid" else fault["msg"],
        }
        for fault in error.errors()
    ]
    listed = "; ".join(f"{fault['location']}: {fault['message']}" for fault in faults[:5])
    problem = NotValid(f"the request is not valid: {listed}", fix="correct it as /docs describes")
    return respond_to_problem(request, problem, faults)


def _write_type(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()

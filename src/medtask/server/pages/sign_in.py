"""Pages to sign in and out, and to choose a password with a one-time link."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from medtask.errors import MedtaskError
from medtask.server.access import accounts
from medtask.server.access.audit_log import record_action
from medtask.server.access.guard import get_cookie_name
from medtask.server.access.requests import Viewer
from medtask.server.access.roles import Role, User
from medtask.server.access.secrets import MIN_PASSWORD_CHARACTERS
from medtask.server.access.tables import Account
from medtask.server.database.connect import Database, ReadSession, WriteSession, get_database
from medtask.server.problems import NotSignedIn, RequestProblem, find_status
from medtask.server.rendering import render_page
from medtask.server.settings import ServerSettings

router = APIRouter(include_in_schema=False)


@router.get("/sign-in")
def show_sign_in(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the URL
    """The page to sign in."""
    return _render_sign_in(request, next)


@router.post("/sign-in")
def submit_sign_in(
    request: Request,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",  # noqa: A002
) -> Response:
    """Sign in: sets the cookie of a session that is always a new one."""
    database = get_database(request)
    try:
        account = accounts.authenticate(database, name, password)
        if account is None:
            raise NotSignedIn("name or password is wrong", fix="try again")
    except RequestProblem as problem:
        _record_failure(request, database, name)
        return _render_sign_in(request, next, problem, name=name)
    with database.write() as session:
        return _begin_session(request, session, account, _choose_target(next))


@router.post("/sign-out")
def submit_sign_out(request: Request, session: WriteSession, user: Viewer) -> Response:
    """Sign out: the session ends on the server."""
    cookie = get_cookie_name(_get_settings(request))
    accounts.sign_out(session, request.cookies.get(cookie, ""))
    record_action(request, session, "account.sign_out", user.id)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(cookie, path="/")
    return response


@router.get("/start/{token}")
def show_link(request: Request, session: ReadSession, token: str) -> Response:
    """The page of a one-time link."""
    return _render_link(request, session, token)


@router.post("/start/{token}")
def submit_link(
    request: Request,
    token: str,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    repeated: Annotated[str, Form()] = "",
) -> Response:
    """Choose a password with a one-time link, and sign in."""
    database = get_database(request)
    try:
        if password != repeated:
            raise RequestProblem("the two passwords differ", fix="enter the same password twice")
        with database.write() as session:
            account = accounts.use_link(session, token, name, password)
            record_action(request, session, "account.use_link", account.id, user=_get_user(account))
            return _begin_session(request, session, account, "/")
    except RequestProblem as problem:
        with database.read() as session:
            return _render_link(request, session, token, problem, name=name)


def _begin_session(
    request: Request, session: WriteSession, account: Account, target: str
) -> Response:
    settings = _get_settings(request)
    token = accounts.sign_in(session, account, settings.session_hours)
    record_action(request, session, "account.sign_in", account.id, user=_get_user(account))
    response = RedirectResponse(target, 303)
    response.set_cookie(
        get_cookie_name(settings),
        token,
        max_age=round(settings.session_hours * 3600),
        path="/",
        httponly=True,
        secure=settings.is_encrypted,
        samesite="strict",
    )
    return response


def _record_failure(request: Request, database: Database, name: str) -> None:
    with database.write() as session:
        # A name that does not exist is often a password in the wrong field.
        known = accounts.find_account(session, name)
        object_id = "" if known is None else known.id
        record_action(request, session, "account.sign_in", object_id, outcome="refused")


def _render_sign_in(
    request: Request, target: str, problem: MedtaskError | None = None, *, name: str = ""
) -> Response:
    return render_page(
        request,
        "sign_in.html",
        {"problem": problem, "next": _choose_target(target), "name": name},
        status_code=200 if problem is None else find_status(problem),
        headers=problem.headers if isinstance(problem, RequestProblem) else None,
    )


def _render_link(
    request: Request,
    session: ReadSession,
    token: str,
    problem: MedtaskError | None = None,
    *,
    name: str = "",
) -> Response:
    link = accounts.find_link(session, token)
    account = None
    if link.account_id is not None:
        account = accounts.get_account(session, link.account_id)
    values = {
        "account": account,
        "problem": problem,
        "name": name,
        "min_characters": MIN_PASSWORD_CHARACTERS,
    }
    return render_page(
        request,
        "choose_password.html",
        values,
        status_code=200 if problem is None else find_status(problem),
    )


def _choose_target(target: str) -> str:
    """The page after signing in: a path of this server."""
    is_path = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_path and target.isprintable() else "/"


def _get_user(account: Account) -> User:
    return User(account.id, account.name, Role(account.role))


def _get_settings(request: Request) -> ServerSettings:
    settings: ServerSettings = request.app.state.settings
    return settings

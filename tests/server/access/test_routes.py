"""Every route of the server refuses those who may not use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from medtask.server.access.guard import (
    CONTENT_SECURITY_POLICY,
    CSRF_HEADER,
    SAFE_METHODS,
    is_public,
)
from medtask.server.access.roles import Role, Scope
from medtask.server.access.route_checks import RouteAccess, check_routes, list_route_access
from medtask.server.access.tables import ApiKey, SignIn
from medtask.server.database.base import get_utc_now
from support.server import ServerUnderTest, run_server

ANSWERED = range(200, 300)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUnderTest]:
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


def fill_path(route: RouteAccess) -> str:
    return re.sub(r"\{[^}]*\}", "1", route.path) + ("/none" if route.path == "/static" else "")


def list_closed_routes(server: ServerUnderTest) -> list[tuple[str, str, RouteAccess]]:
    """Method, path and route of everything that is not public."""
    return [
        (method, fill_path(route), route)
        for route in list_route_access(server.app)
        for method in sorted(route.methods)
        if not is_public(fill_path(route))
    ]


def test_the_public_paths_are_these(server: ServerUnderTest) -> None:
    public = {route.path for route in list_route_access(server.app) if is_public(fill_path(route))}
    beside_files = {path for path in public if not path.startswith("/static")}
    assert beside_files == {"/health", "/sign-in", "/start/{token}"}


def refuse_all(server: ServerUnderTest, client: TestClient, statuses: set[int]) -> None:
    routes = list_closed_routes(server)
    assert len(routes) > 8
    for method, path, _ in routes:
        assert client.request(method, path).status_code in statuses, (method, path)


def test_nobody_gets_an_answer_without_a_session_or_a_key(server: ServerUnderTest) -> None:
    refuse_all(server, server.connect(), {401})


def test_a_wrong_key_is_refused(server: ServerUnderTest) -> None:
    client = server.connect_with_key(Role.ADMIN)
    client.headers["Authorization"] = str(client.headers["Authorization"])[:-1] + "!"
    refuse_all(server, client, {401})


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic YTpi", "Bearer mtk__"])
def test_other_headers_are_refused(server: ServerUnderTest, header: str) -> None:
    assert server.connect().get("/api/me", headers={"Authorization": header}).status_code == 401


def test_an_expired_key_is_refused(server: ServerUnderTest) -> None:
    client = server.connect_with_key(Role.ADMIN)
    with server.database.write() as session:
        for key in session.query(ApiKey):
            key.expires_at = get_utc_now() - timedelta(seconds=1)
    refuse_all(server, client, {401})


def test_an_expired_session_is_refused(server: ServerUnderTest) -> None:
    client = server.connect(Role.ADMIN)
    with server.database.write() as session:
        for sign_in in session.query(SignIn):
            sign_in.expires_at = get_utc_now() - timedelta(seconds=1)
    refuse_all(server, client, {401})


def test_a_key_without_the_scope_of_a_route_is_refused(server: ServerUnderTest) -> None:
    for scope in Scope:
        client = server.connect_with_key(Role.ADMIN, *(set(Scope) - {scope}))
        for method, path, route in list_closed_routes(server):
            if route.requirement is not None and route.requirement[1] == scope:
                assert client.request(method, path).status_code == 403, (method, path)


def test_a_lower_role_than_that_of_a_route_is_refused(server: ServerUnderTest) -> None:
    for role in (Role.VIEWER, Role.REVIEWER, Role.TRAINER):
        client = server.connect(role)
        for method, path, route in list_closed_routes(server):
            if route.requirement is not None and route.requirement[0] > role:
                assert client.request(method, path).status_code == 403, (method, path)


def test_an_application_with_a_route_that_requires_nothing_does_not_start() -> None:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/api/rows", list)
    with pytest.raises(RuntimeError, match="/api/rows"):
        check_routes(app)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {CSRF_HEADER: ""},
        {CSRF_HEADER: "0" * 64},
        {CSRF_HEADER: "", "Content-Type": "text/plain"},
        {CSRF_HEADER: "", "Content-Type": "application/x-www-form-urlencoded"},
        {CSRF_HEADER: "", "Content-Type": "multipart/form-data; boundary=x"},
        {"Host": "elsewhere.example"},
        {"Host": "127.0.0.1.elsewhere.example:8000"},
        {"Host": ""},
    ],
    ids=str,
)
def test_a_change_from_another_site_or_without_the_token_is_refused(
    server: ServerUnderTest, headers: dict[str, str]
) -> None:
    client = server.connect(Role.ADMIN)
    changing = [route for route in list_closed_routes(server) if route[0] not in SAFE_METHODS]
    assert {method for method, _, _ in changing} >= {"POST", "PATCH", "DELETE"}
    for method, path, _ in changing:
        response = client.request(method, path, headers=headers, content=b"csrf_token=1")
        assert response.status_code == 403, (method, path)


def test_another_host_name_is_refused_for_reading_too(server: ServerUnderTest) -> None:
    client = server.connect(Role.ADMIN)
    assert client.get("/api/me", headers={"Host": "rebound.example"}).status_code == 403
    assert client.get("/health", headers={"Host": "localhost"}).status_code == 200


def test_a_form_sends_the_token_as_a_field(server: ServerUnderTest) -> None:
    client = server.connect(Role.VIEWER)
    token = str(client.headers.pop(CSRF_HEADER))
    assert client.post("/sign-out", data={"csrf_token": "wrong"}).status_code == 403
    assert client.get("/api/me").status_code == 200
    assert client.post("/sign-out", data={"csrf_token": token}).status_code == 303
    assert client.get("/api/me").status_code == 401


def test_the_policy_is_in_every_response(server: ServerUnderTest) -> None:
    client = server.connect(Role.ADMIN)
    for method, path, _ in [*list_closed_routes(server), ("GET", "/nothing", None)]:
        for sender in (client, server.connect()):
            headers = sender.request(method, path, headers={"Accept": "text/html"}).headers
            policy = headers["content-security-policy"]
            assert "'unsafe" not in policy, (method, path)
            assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY


def test_the_cookie_is_for_this_server_only(tmp_path: Path) -> None:
    for behind_proxy in (False, True):
        with run_server(tmp_path / str(behind_proxy), behind_proxy=behind_proxy) as server:
            invited = server.connect(Role.ADMIN).post(
                "/api/accounts", json={"name": "A", "role": "viewer"}
            )
            chosen = {"password": "three blind mice", "repeated": "three blind mice"}
            response = server.connect().post(invited.json()["path"], data=chosen)
            cookie = response.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert ("secure" in cookie) == behind_proxy
            assert cookie.startswith("__host-") == behind_proxy

"""The application: routes, users and problems, on both databases."""

from __future__ import annotations

import pytest

from medtask.server.access.roles import Role, Scope
from support.server import ServerUnderTest


def test_health_needs_no_account(server: ServerUnderTest) -> None:
    assert server.connect().get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/health/", "/api/me/", "/api/accounts/"])
def test_a_final_slash_changes_nothing(server: ServerUnderTest, path: str) -> None:
    client = server.connect(Role.ADMIN)
    with_slash, without = client.get(path), client.get(path.rstrip("/"))
    assert with_slash.status_code == 200
    assert with_slash.json() == without.json()


def test_a_browser_without_a_session_is_sent_to_the_sign_in_page(server: ServerUnderTest) -> None:
    response = server.connect().get("/runs?x=1", headers={"Accept": "text/html"})
    assert response.status_code == 303
    assert response.headers["location"] == "/sign-in?next=/runs%3Fx%3D1"


def test_a_program_without_a_key_gets_a_problem(server: ServerUnderTest) -> None:
    response = server.connect().get("/api/me")
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:medtask:not-signed-in",
        "title": "Unauthorized",
        "status": 401,
        "detail": "this needs an account",
        "fix": "sign in, or send an API key",
    }


def test_an_unknown_address_is_a_problem(server: ServerUnderTest) -> None:
    problem = server.connect(Role.VIEWER).get("/api/nothing").json()
    assert problem["status"] == 404
    assert problem["fix"]


def test_a_value_that_is_not_valid_is_described_without_the_value(server: ServerUnderTest) -> None:
    response = server.connect(Role.ADMIN).post(
        "/api/accounts", json={"name": "Frau Ada", "role": "secret text"}
    )
    assert response.status_code == 422
    assert "secret text" not in response.text
    assert response.json()["errors"][0]["location"] == "body.role"


def test_an_account_is_created_by_an_administrator_and_signs_in_once_it_has_a_password(
    server: ServerUnderTest,
) -> None:
    created = server.connect(Role.ADMIN).post(
        "/api/accounts", json={"name": "Grete", "role": "reviewer"}
    )
    assert created.status_code == 201
    path = created.json()["path"]
    browser = server.connect()
    chosen = {"password": "blue horse stairs", "repeated": "blue horse stairs"}
    assert browser.post("/sign-in", data={"name": "Grete", "password": ""}).status_code == 401
    assert browser.post(path, data=chosen).headers["location"] == "/"
    assert browser.get("/api/me").json()["role"] == "reviewer"
    assert server.connect().post(path, data=chosen).status_code == 404

    other = server.connect()
    signed_in = other.post("/sign-in", data={"name": "grete", "password": "blue horse stairs"})
    assert signed_in.status_code == 303
    assert other.get("/api/me").json()["name"] == "Grete"


def test_a_key_may_be_used_for_its_scopes_only(server: ServerUnderTest) -> None:
    client = server.connect_with_key(Role.ADMIN, Scope.READ)
    assert client.get("/api/me").status_code == 200
    assert client.get("/api/accounts").status_code == 403

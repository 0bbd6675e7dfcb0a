"""Accounts, passwords, API keys and their lifetimes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from argon2 import extract_parameters
from fastapi.testclient import TestClient
from sqlalchemy import text

from medtask.server.access import accounts
from medtask.server.access.accounts import authenticate
from medtask.server.access.roles import Role, Scope
from medtask.server.access.secrets import hash_password, matches_password
from medtask.server.database.base import Base, get_utc_now
from medtask.server.problems import NotFound, NotValid, TooManyRequests
from support.server import ServerUnderTest

PASSWORD = "four purple umbrellas"


def set_password(server: ServerUnderTest, role: Role, password: str = PASSWORD) -> str:
    """Give the user of a role a password; returns the name."""
    user = server.get_user(role)
    with server.database.write() as session:
        account = accounts.get_account(session, user.id)
        token = accounts.create_link(session, account)
        accounts.use_link(session, token, "", password)
    return user.name


def test_passwords_are_hashed_beyond_the_minimum_of_owasp() -> None:
    parameters = extract_parameters(hash_password(PASSWORD))
    assert parameters.type.name == "ID"
    assert parameters.memory_cost >= 19 * 1024
    assert parameters.time_cost >= 2


def test_a_password_that_is_too_short_is_refused() -> None:
    with pytest.raises(NotValid):
        hash_password("eleven char")


def test_an_unknown_name_takes_as_long_as_a_wrong_password() -> None:
    password_hash = hash_password(PASSWORD)
    matches_password("", None)

    def measure(known: str | None) -> float:
        begun = time.process_time()
        assert not matches_password("wrong", known)
        return time.process_time() - begun

    known = min(measure(password_hash) for _ in range(5))
    unknown = min(measure(None) for _ in range(5))
    assert 0.5 < unknown / known < 2


def test_wrong_passwords_lock_an_account_for_longer_and_longer(server: ServerUnderTest) -> None:
    name = set_password(server, Role.VIEWER)
    for _ in range(5):
        assert authenticate(server.database, name, "wrong") is None
    with pytest.raises(TooManyRequests):
        authenticate(server.database, name, PASSWORD)
    refused = server.connect().post("/sign-in", data={"name": name, "password": PASSWORD})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1

    def expire_lock() -> timedelta:
        with server.database.write() as session:
            account = accounts.find_account(session, name)
            assert account is not None
            assert account.locked_until is not None
            remaining = account.locked_until - get_utc_now()
            account.locked_until = get_utc_now()
            return remaining

    expire_lock()
    for _ in range(3):
        assert authenticate(server.database, name, "wrong") is None
        longer = expire_lock()
    assert longer > timedelta(seconds=6)
    assert authenticate(server.database, name, PASSWORD) is not None
    with server.database.read() as session:
        account = accounts.find_account(session, name)
        assert account is not None
        assert account.failed_sign_ins == 0


def test_a_refused_form_keeps_the_name(server: ServerUnderTest) -> None:
    browser = server.connect()
    refused = browser.post("/sign-in", data={"name": 'Ann "A"', "password": "wrong password"})
    assert 'value="Ann &#34;A&#34;"' in refused.text
    with server.database.write() as session:
        token = accounts.create_link(session, None)
    chosen = {"name": "Bea", "password": PASSWORD, "repeated": "else"}
    assert 'value="Bea"' in browser.post(f"/start/{token}", data=chosen).text


def test_the_database_holds_no_secret_that_can_be_used(server: ServerUnderTest) -> None:
    name = set_password(server, Role.TRAINER)
    browser, program = server.connect(), server.connect_with_key(Role.TRAINER)
    assert browser.post("/sign-in", data={"name": name, "password": PASSWORD}).status_code == 303
    invited = server.connect(Role.ADMIN).post("/api/accounts", json={"name": "B", "role": "viewer"})
    key = str(program.headers["Authorization"]).removeprefix("Bearer ")
    secrets = [
        PASSWORD,
        next(iter(browser.cookies.values())),
        key.split("_", 2)[2],
        invited.json()["path"].rsplit("/", 1)[1],
    ]
    with server.database.read() as session:
        dump = "".join(
            str(row)
            for table in Base.metadata.sorted_tables
            for row in session.execute(text(f"SELECT * FROM {table.name}"))
        )
    assert name in dump
    assert [secret for secret in secrets if secret in dump] == []


def test_a_revoked_key_fails_at_once(server: ServerUnderTest) -> None:
    browser = server.connect(Role.TRAINER)
    created = browser.post("/api/keys", json={"name": "script", "scopes": ["read"]}).json()
    program = server.connect()
    program.headers["Authorization"] = f"Bearer {created['secret']}"
    assert program.get("/api/me").status_code == 200
    assert browser.delete(f"/api/keys/{created['key']['id']}").json()["revoked"]
    assert program.get("/api/me").status_code == 401
    assert created["secret"] not in browser.get("/api/keys").text


def test_a_key_cannot_create_one_that_may_do_more(server: ServerUnderTest) -> None:
    viewer = server.connect(Role.VIEWER)
    refused = viewer.post("/api/keys", json={"name": "x", "scopes": ["read", "train"]})
    assert refused.status_code == 403
    assert "train" in refused.json()["detail"]
    program = server.connect_with_key(Role.ADMIN, Scope.READ)
    assert program.post("/api/keys", json={"name": "x", "scopes": ["admin"]}).status_code == 403


def test_the_last_administrator_stays_one(server: ServerUnderTest) -> None:
    browser = server.connect(Role.ADMIN)
    own = browser.get("/api/me").json()["id"]
    for change in ({"role": "viewer"}, {"disabled": True}):
        refused = browser.patch(f"/api/accounts/{own}", json=change)
        assert refused.status_code == 409
    invited = browser.post("/api/accounts", json={"name": "C", "role": "admin"}).json()
    changed = browser.patch(f"/api/accounts/{invited['account']['id']}", json={"role": "viewer"})
    assert changed.json()["role"] == "viewer"


def test_a_disabled_account_is_signed_out_and_its_keys_fail(server: ServerUnderTest) -> None:
    browser, program = server.connect(Role.VIEWER), server.connect_with_key(Role.VIEWER)
    own = browser.get("/api/me").json()["id"]
    admin = server.connect(Role.ADMIN)
    assert admin.patch(f"/api/accounts/{own}", json={"disabled": True}).json()["disabled"]
    assert browser.get("/api/me").status_code == 401
    assert program.get("/api/me").status_code == 401


def test_the_link_of_the_first_start_creates_one_administrator(server: ServerUnderTest) -> None:
    with server.database.write() as session:
        links = [accounts.create_link(session, None)]
    browser = server.connect()
    assert "first account" in browser.get(f"/start/{links[0]}").text
    chosen = {"name": "Ada", "password": PASSWORD, "repeated": PASSWORD}
    differs = browser.post(f"/start/{links[0]}", data={**chosen, "repeated": "else"})
    assert differs.status_code == 400
    assert browser.post(f"/start/{links[0]}", data=chosen).status_code == 303
    assert browser.get("/api/me").json()["role"] == "admin"
    with server.database.write() as session:
        second = accounts.create_link(session, None)
    assert server.connect().post(f"/start/{second}", data=chosen).status_code == 404


def test_a_link_expires(server: ServerUnderTest) -> None:
    with server.database.write() as session:
        token = accounts.create_link(session, None)
        accounts.find_link(session, token).expires_at = get_utc_now() - timedelta(seconds=1)
        session.flush()
        with pytest.raises(NotFound):
            accounts.find_link(session, token)


def test_signing_in_leads_to_pages_of_this_server_only(server: ServerUnderTest) -> None:
    name = set_password(server, Role.VIEWER)
    for target, expected in {
        "/runs?x=1": "/runs?x=1",
        "//elsewhere.example": "/",
        "/\\elsewhere.example": "/",
        "https://elsewhere.example": "/",
        "/x\r\nSet-Cookie: a=b": "/",
    }.items():
        response = server.connect().post(
            "/sign-in", data={"name": name, "password": PASSWORD, "next": target}
        )
        assert response.headers["location"] == expected


def test_names_that_look_the_same_are_one_account(server: ServerUnderTest) -> None:
    admin = server.connect(Role.ADMIN)
    names = ("Ren\u00e9", "Rene\u0301", " REN\u00c9 ", "\uff32en\u00e9")
    answers = [
        admin.post("/api/accounts", json={"name": name, "role": "viewer"}).status_code
        for name in names
    ]
    assert answers == [201, 409, 409, 409]


def test_of_accounts_that_are_created_at_the_same_time_one_gets_the_name(
    server: ServerUnderTest,
) -> None:
    clients = [server.connect(Role.ADMIN) for _ in range(6)]
    barrier = Barrier(len(clients))

    def create(client: TestClient) -> int:
        barrier.wait()
        return client.post("/api/accounts", json={"name": "Ada", "role": "viewer"}).status_code

    with ThreadPoolExecutor(len(clients)) as pool:
        assert sorted(pool.map(create, clients)) == [201, 409, 409, 409, 409, 409]
    listed = server.connect(Role.ADMIN).get("/api/accounts").json()
    assert [one["name"] for one in listed].count("Ada") == 1

"""Pages show hostile names as text, ask no other host, and keep to the policy."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

import openpyxl
import pytest
from fastapi.routing import iter_route_contexts

from medtask.server.access import accounts, api_keys
from medtask.server.access.guard import CSRF_HEADER, is_public
from medtask.server.access.roles import Role, Scope, User
from support.attacks import (
    ATTACKS,
    CODE,
    FORMULAS,
    PAYLOADS,
    add_hostile_objects,
    fill,
)
from support.filled_server import ApiClient
from support.live_server import Browser, LiveServer, run_live_server

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DANGEROUS = ("=", "+", "-", "@", "\t", "\r")
ADMINISTRATOR = f'"><script>{CODE}</script>'
PAGES_OF_OBJECTS = (
    "/datasets/{dataset_id}",
    "/datasets/{dataset_id}/statistics",
    "/tasks/{task_id}",
    "/tasks/new?dataset_id={dataset_id}",
    "/models/{model_id}",
    "/models/new?task_id={task_id}",
    "/runs/{run_id}",
    "/runs/new?task_id={task_id}",
    "/api/runs/{run_id}/report",
    "/reviews/{queue_id}",
    "/reviews/{queue_id}/card",
    "/reviews/choices?run_id={run_id}",
    "/jobs/{job_id}",
    "/jobs/{job_id}/progress",
)


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a worker, because one of its pages shows a job."""
    with run_live_server(tmp_path_factory.mktemp("server") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def hostile_server(live_server: LiveServer) -> LiveServer:
    """A server whose names are attacks."""
    with live_server.database.write() as session:
        for number, payload in enumerate(PAYLOADS):
            name = f"{number} {fill(payload)}"[: accounts.MAX_NAME_CHARACTERS]
            accounts.create_account(session, name, Role.VIEWER)
        owner = accounts.create_account(session, ADMINISTRATOR, Role.ADMIN)
        user = User(owner.id, owner.name, Role.ADMIN)
        for payload in PAYLOADS:
            api_keys.create_key(session, user, fill(payload), [Scope.READ])
    return live_server


@pytest.fixture(scope="module")
def objects(hostile_server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The ids of objects whose names, columns, labels and texts are attacks."""
    return add_hostile_objects(hostile_server, tmp_path_factory.mktemp("objects"))


def list_pages(server: LiveServer) -> list[str]:
    """The addresses of all pages without parameters."""
    return sorted(
        str(context.path)
        for context in iter_route_contexts(server.app.routes)
        if context.path
        and "GET" in (context.methods or ())
        and "{" not in context.path
        and not is_public(context.path)
        and not context.path.startswith(("/api", "/openapi.json", "/metrics"))
    )


def test_there_are_a_hundred_attacks() -> None:
    assert len(set(ATTACKS)) == len(PAYLOADS) >= 100


def test_there_are_pages(hostile_server: LiveServer) -> None:
    assert {"/docs", "/account", "/accounts"} <= set(list_pages(hostile_server))


def test_no_page_runs_a_name_or_asks_another_host(
    hostile_server: LiveServer, browser: Browser, objects: dict[str, int]
) -> None:
    page = browser.open("/account", name=ADMINISTRATOR)
    dialogs: list[Any] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    with_ids = [path.format_map(objects) for path in PAGES_OF_OBJECTS]
    for path in [*list_pages(hostile_server), *with_ids]:
        answer = page.goto(browser.server.address + path)
        assert answer.status == (422 if path == "/reviews/choices" else 200), path
        page.wait_for_load_state("load")
        assert page.evaluate("window.executed") is None, path
        # Every handler in an attribute would be one of ours, and there are none.
        assert page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => [...e.attributes]"
            ".some(a => a.name.startsWith('on'))).length"
        ) in {0}, path
    assert dialogs == []
    page.goto(browser.server.address + "/accounts")
    assert page.get_by_text("<svg onload=window.executed=1>").count() >= 1


def test_every_text_of_a_review_is_shown_as_text(browser: Browser, objects: dict[str, int]) -> None:
    page = browser.open(f"/reviews/{objects['queue_id']}")
    page.locator("#review:not(.is-empty)").wait_for()
    known = {" ".join(text.split()) for text in (*ATTACKS, *FORMULAS)}
    seen = set()
    while page.locator("#review:not(.is-empty)").count() and len(seen) < 15:
        shown = " ".join(page.locator("[data-place=text]").inner_text().split())
        assert shown in known
        seen.add(shown)
        assert page.locator(".choice").count() == len(ATTACKS)
        page.keyboard.press("x")
        assert page.evaluate("window.executed") is None, shown
    assert len(seen) == 15
    page.locator("[data-place=state][data-state=saved]").wait_for()


def test_comments_of_readers_are_text_to_the_adjudicator(
    hostile_server: LiveServer, browser: Browser, objects: dict[str, int]
) -> None:
    settings = {"order": "table", "readers_per_item": 2, "readers_may_adjudicate": True}
    with ApiClient(hostile_server) as api, ApiClient(hostile_server, "second") as other:
        new = {"run_id": objects["run_id"], "settings": settings}
        queue = int(api.call("POST", "/api/reviews", json=new)["id"])
        for reader, label in ((api, ATTACKS[0]), (other, ATTACKS[1])):
            items = reader.call("POST", f"/api/reviews/{queue}/assignments", json={"count": 100})
            for place, item in enumerate(items[:50]):
                decision = {
                    "key": f"{label[:20]} {item['id']}",
                    "items": [{"id": item["id"], "version": item["version"]}],
                    "outcome": "answer",
                    "value": label,
                    "comment": ATTACKS[(2 * place + (reader is other)) % len(ATTACKS)],
                }
                reader.call("POST", f"/api/reviews/{queue}/decisions", json=decision)
    page = browser.open(f"/reviews/{queue}/adjudicate")
    page.locator("#review:not(.is-empty)").wait_for()
    seen: set[str] = set()
    for _ in range(50):
        shown = page.locator("[data-place=about] .reader i").all_inner_texts()
        seen |= {" ".join(text.strip(" “”").split()) for text in shown}
        page.keyboard.press("x")
        assert page.evaluate("window.executed") is None, shown
    assert len(seen) >= 95


def test_no_cell_of_a_file_for_people_is_a_formula(
    hostile_server: LiveServer, objects: dict[str, int]
) -> None:
    queue, run = objects["queue_id"], objects["run_id"]
    with ApiClient(hostile_server) as api:
        items = api.call("POST", f"/api/reviews/{queue}/assignments", json={"count": 100})
        identity = [{"id": item["id"], "version": item["version"]} for item in items]
        decision = {"key": "all-of-them", "items": identity, "outcome": "answer"}
        api.call("POST", f"/api/reviews/{queue}/decisions", json={**decision, "value": ATTACKS[0]})
        for path in (f"/api/runs/{run}/answers.csv", f"/api/reviews/{queue}/gold?format=csv"):
            rows = list(csv.reader(io.StringIO(api.get(path).decode("utf-8-sig"), newline="")))
            assert [cell for row in rows for cell in row if cell.startswith(DANGEROUS)] == []
            assert any(FORMULAS[0] in cell for row in rows for cell in row)
        book = openpyxl.load_workbook(io.BytesIO(api.get(f"/api/reviews/{queue}/gold?format=xlsx")))
        cells = [cell for row in book.worksheets[0].iter_rows() for cell in row]
        assert {cell.data_type for cell in cells} <= {"s", "n", "b"}


def test_an_attack_in_an_address_is_shown_as_text(browser: Browser) -> None:
    for payload in PAYLOADS[:6]:
        page = browser.open(f"/sign-in?next={fill(payload)}")
        assert page.evaluate("window.executed") is None
        assert page.locator("input[name=next]").input_value() == "/"
        page.context.close()


def test_the_page_of_the_api_shows_and_sends_requests(browser: Browser) -> None:
    page = browser.open("/docs")
    page.set_default_timeout(60_000)
    page.locator(".opblock-summary-path", has_text=re.compile("^/api/me$")).first.click()
    page.get_by_role("button", name="Try it out").click()
    with page.expect_response("**/api/me") as answered:
        page.get_by_role("button", name="Execute").click()
    assert answered.value.status == 200
    assert len(answered.value.request.headers[CSRF_HEADER.lower()]) == 64
    links = page.evaluate("[...document.querySelectorAll('[src]')].map(e => e.src)")
    assert [link for link in links if not link.startswith((browser.server.address, "data:"))] == []

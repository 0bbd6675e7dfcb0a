"""Pages show hostile names as text, ask no other host, and keep to the policy."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from medtask.server.access import accounts, api_keys
from medtask.server.access.guard import CSRF_HEADER, is_public
from medtask.server.access.roles import Role, Scope, User
from support.live_server import Browser, LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# {} is the code that must not run. From OWASP's cheat sheet on filter evasion, by context.
PAYLOADS = (
    "<script>{}</script>",
    "</script><script>{}</script>",
    "</title><script>{}</script>",
    "</textarea><script>{}</script>",
    '"><script>{}</script>',
    "'><script>{}</script>",
    "<img src=x onerror={}>",
    '"><img src=x onerror={}>',
    "' onmouseover='{}' autofocus onfocus='{}",
    '" onfocus="{}" autofocus x="',
    "<svg onload={}>",
    "<svg><animate onbegin={} attributeName=x dur=1s>",
    "<details open ontoggle={}>",
    '<iframe srcdoc="<script>parent.{}</script>">',
    "<iframe src=javascript:parent.{}>",
    "<a href=javascript:{} autofocus>x</a>",
    "javascript:{}",
    "<base href=//elsewhere.example/>",
    "<link rel=stylesheet href=//elsewhere.example/x.css>",
    "<img src=//elsewhere.example/x.png>",
    "<style>@import '//elsewhere.example/x.css'</style>",
    "<meta http-equiv=refresh content='0;url=//elsewhere.example'>",
    "<form action=//elsewhere.example><button autofocus>x",
    "<object data=//elsewhere.example/x>",
    "<math><mtext></mtext><script>{}</script></math>",
    "<template><script>{}</script></template>",
    "<!--><script>{}</script>-->",
    "<![CDATA[<script>{}</script>]]>",
    "<ScRiPt>{}</sCrIpT>",
    "<scr<script>ipt>{}</script>",
    "&lt;script&gt;{}&lt;/script&gt;",
    "\\u003cscript\\u003e{}\\u003c/script\\u003e",
    "<div hx-on:load='{}' hx-get='/api/me' hx-trigger='load'>x</div>",
    "<div hx-get='//elsewhere.example' hx-trigger='load'>x</div>",
    "{{ {} }}",
    "{{ 7 * 7 }}{% raw %}",
    "${{{}}}",
    "`${{{}}}`",
    "<x onclick={} tabindex=1 autofocus>x",
    "<video><source onerror={}></video>",
)
CODE = "window.executed=1"
ADMINISTRATOR = f'"><script>{CODE}</script>'


def fill(payload: str) -> str:
    return payload.replace("{}", CODE)


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


def test_there_are_pages(hostile_server: LiveServer) -> None:
    assert {"/docs", "/account", "/accounts"} <= set(list_pages(hostile_server))


def test_no_page_runs_a_name_or_asks_another_host(
    hostile_server: LiveServer, browser: Browser
) -> None:
    page = browser.open("/account", name=ADMINISTRATOR)
    dialogs: list[Any] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for path in list_pages(hostile_server):
        page.goto(browser.server.address + path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.executed") is None, path
        # Every handler in an attribute would be one of ours, and there are none.
        assert page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => [...e.attributes]"
            ".some(a => a.name.startsWith('on'))).length"
        ) in {0}, path
    assert dialogs == []
    page.goto(browser.server.address + "/accounts")
    assert page.get_by_text("<svg onload=window.executed=1>").count() >= 1


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

"""Pages of accounts and API keys, in a browser."""

from __future__ import annotations

import httpx2
import pytest

from medtask.server.access.roles import Role
from support.live_server import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_key_is_created_shown_once_used_and_revoked(browser: Browser) -> None:
    page = browser.open("/account", Role.TRAINER)
    page.get_by_label("Name").fill("nightly import")
    page.get_by_label("Name").press("Enter")
    page.locator("#new-key .secret").wait_for()
    secret = page.locator("#new-key .secret").inner_text()
    address = f"{browser.server.address}/api/me"
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx2.get(address, headers=headers).json()["role"] == "trainer"

    page.goto(f"{browser.server.address}/account")
    assert secret not in page.content()
    page.get_by_role("button", name="Revoke nightly import").click()
    page.locator("#confirm [value=yes]").click()
    page.get_by_text("revoked", exact=True).wait_for()
    assert httpx2.get(address, headers=headers).status_code == 401


def test_a_question_that_is_declined_changes_nothing(browser: Browser) -> None:
    page = browser.open("/account", Role.VIEWER)
    page.get_by_label("Name").fill("reader")
    page.get_by_role("button", name="Create the key").click()
    page.locator("#new-key .secret").wait_for()
    page.goto(f"{browser.server.address}/account")
    page.get_by_role("button", name="Revoke reader").click()
    page.keyboard.press("Escape")
    page.reload()
    assert page.get_by_role("button", name="Revoke reader").is_visible()


def test_an_administrator_invites_a_person_who_chooses_a_password(browser: Browser) -> None:
    page = browser.open("/accounts")
    page.locator("#name").fill("Dr. Jürgen Weiß")
    page.locator("#role").select_option("reviewer")
    page.get_by_role("button", name="Create the account").click()
    page.locator("#invitation .secret").wait_for()
    link = page.locator("#invitation .secret").inner_text()
    assert link.startswith(f"{browser.server.address}/start/")

    guest = browser.chromium.new_context().new_page()
    guest.goto(link)
    for field in ("Password, at least", "Repeat the password"):
        guest.get_by_label(field).fill("korrekt-pferd-batterie")
    guest.get_by_role("button").click()
    guest.wait_for_url(f"{browser.server.address}/")
    guest.goto(f"{browser.server.address}/account")
    assert guest.get_by_role("heading", name="Your account").is_visible()
    assert guest.get_by_text("Dr. Jürgen Weiß").first.is_visible()


def test_a_refusal_is_shown_with_its_remedy_beside_the_form(browser: Browser) -> None:
    page = browser.open("/accounts")
    for shown in ("#invitation .secret", "form .problem p.fix"):
        page.locator("#name").fill("the same name")
        page.get_by_role("button", name="Create the account").click()
        page.locator(f"{shown} >> visible=true").wait_for()


def test_accounts_are_for_administrators(browser: Browser) -> None:
    page = browser.open("/accounts", Role.TRAINER)
    assert page.get_by_role("heading", name="Forbidden").is_visible()
    assert page.get_by_role("link", name="Accounts").count() == 0

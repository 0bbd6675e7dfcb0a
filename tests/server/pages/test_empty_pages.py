"""What a newcomer reads on a server without data: each page names the next step."""

from __future__ import annotations

import pytest

from medtask.server.access.roles import Role
from support.live_server import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize(
    ("path", "words", "link"),
    [
        ("/", "Four steps", "Write a task"),
        ("/tasks", "No task yet", "Write the first task"),
        ("/models", "A model needs a task", "Write a task"),
        ("/runs", "A run needs a task and a data set", "Data sets"),
        ("/leaderboard", "No run with gold yet", "Start a run"),
        ("/jobs", "No job yet", "Runs"),
    ],
)
def test_an_empty_page_says_what_to_do(browser: Browser, path: str, words: str, link: str) -> None:
    page = browser.open(path)
    assert page.get_by_text(words).first.is_visible()
    assert page.locator("main").get_by_role("link", name=link).first.is_visible()


def test_an_empty_list_of_data_sets_names_what_a_table_needs(browser: Browser) -> None:
    for role in (Role.VIEWER, Role.TRAINER):
        page = browser.open("/datasets", role)
        assert page.get_by_text("No data set yet").is_visible()


@pytest.mark.parametrize("path", ["/tasks", "/models", "/runs", "/leaderboard"])
def test_a_viewer_is_not_offered_what_is_refused(browser: Browser, path: str) -> None:
    page = browser.open(path, Role.VIEWER)
    addresses = [one.get_attribute("href") for one in page.locator("main a").all()]
    assert [one for one in addresses if one.endswith("/new")] == []
    assert "trainer" in page.locator("main").inner_text()


@pytest.mark.parametrize("path", ["/tasks/new", "/models/new", "/runs/new"])
def test_a_viewer_gets_no_form_that_is_refused(browser: Browser, path: str) -> None:
    page = browser.open(path, Role.VIEWER)
    assert page.get_by_role("heading", name="Forbidden").is_visible()
    assert page.locator("main form").count() == 0


@pytest.mark.parametrize("name", ["label", "labels", "choice", "answer", "fields"])
def test_every_starter_of_a_task_is_without_faults(browser: Browser, name: str) -> None:
    page = browser.open(f"/tasks/new?template={name}")
    page.locator("#checks .good").wait_for()

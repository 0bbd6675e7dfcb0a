"""The page of a job that runs, whose progress is replaced every second."""

from __future__ import annotations

import pytest

from support.filled_server import TASK, ApiClient, make_table
from support.live_server import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_progress_of_a_job_keeps_the_focus_of_the_keyboard(browser: Browser) -> None:
    with ApiClient(browser.server) as api:
        dataset = api.upload("rows.csv", make_table(30))
        task = api.call("POST", "/api/tasks", json={"text": TASK})["id"]
        wanted = {"task_id": task, "dataset_id": dataset, "model": "minilm"}
        job = api.call("POST", "/api/runs", json=wanted)["job"]["id"]
    page = browser.open(f"/jobs/{job}")  # no worker takes it
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Stop").focus()
    page.wait_for_timeout(3500)
    assert 2 <= len(asked) <= 4
    assert page.evaluate("document.activeElement.textContent") == "Stop"
    with ApiClient(browser.server) as api:
        api.call("POST", f"/api/jobs/{job}/cancel")
    page.locator(".state.cancelled").wait_for()
    asked.clear()
    page.wait_for_timeout(2500)
    assert asked == []  # a job that has ended has no progress

"""The page on which people read and decide, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medtask.server.access.roles import Role
from support.filled_server import ApiClient
from support.live_server import DESKTOP, PHONE, Browser
from support.review_runs import add_run, make_run, make_run_of_texts

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SEND = """async ([path, body, method]) => {
  const token = document.querySelector("meta[name=csrf-token]").content;
  const headers = {"Content-Type": "application/json", "X-CSRF-Token": token};
  const response = await fetch(path, {method, headers, body: body && JSON.stringify(body)});
  return response.json();
}"""
# How long it takes from a key until the browser has painted the next text.
MEASURE = """(key) => new Promise((resolve) => {
  const text = document.querySelector("[data-place=text]");
  const before = text.textContent, start = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  const look = () => text.textContent === before
    ? requestAnimationFrame(look)
    : requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
  look();
})"""
OUT_OF_VIEW = """() => [...document.querySelectorAll("#review button, #review input, .record-text")]
  .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.outerHTML.slice(0, 80))"""

LONG_NOTE = """() => {
  const note = document.createElement("span");
  note.textContent = "the model: CT of the abdomen and of the pelvis with contrast";
  document.querySelector("[data-place=last]").append(note);
}"""


@pytest.fixture(scope="module")
def create(live_server, tmp_path_factory) -> Callable[..., int]:
    """Creates a queue over the small run of a kind; returns its id."""
    numbers: dict[str, int] = {}

    def create_queue(browser: Browser, kind: str, **settings: object) -> int:
        if kind not in numbers:
            numbers[kind] = len(numbers) + 1
            add_run(live_server, make_run(kind, tmp_path_factory.mktemp(kind)), numbers[kind])
        return create_from_run(browser, numbers[kind], settings=settings)

    return create_queue


def create_from_run(browser: Browser, run_id: int, **fields: object) -> int:
    with ApiClient(browser.server) as api:
        return int(api.call("POST", "/api/reviews", json={"run_id": run_id, **fields})["id"])


def open_queue(browser: Browser, queue: int, role: Role = Role.REVIEWER, **options: Any) -> Any:
    page = browser.open(f"/reviews/{queue}", role, **options)
    page.locator("#review:not(.is-empty)").wait_for()
    return page


def read_decisions(page: Any, queue: int) -> list[dict[str, Any]]:
    return page.evaluate(SEND, [f"/api/reviews/{queue}/decisions?count=200", None, "GET"])


def wait_until_saved(page: Any) -> None:
    page.locator("[data-place=state][data-state=saved]").wait_for()


def get_text(page: Any) -> str:
    return page.locator("[data-place=text]").inner_text()


def test_a_reader_decides_skips_comments_and_undoes_by_keys_alone(browser, create):
    queue = create(browser, "passes")
    page = open_queue(browser, queue)
    first = get_text(page)
    likeliest = page.locator(".choice .choice-name").first.inner_text()
    page.keyboard.press("1")
    assert get_text(page) != first
    page.keyboard.press("u")
    assert get_text(page) == first
    page.keyboard.press("c")
    page.keyboard.type("seen by two")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    second = get_text(page)
    page.keyboard.press("s")
    page.keyboard.press("x")
    wait_until_saved(page)
    decisions = read_decisions(page, queue)
    outcomes = [one["decision"]["outcome"] for one in decisions]
    assert sorted(outcomes) == ["answer", "cannot_tell", "skipped"]
    answered = next(one for one in decisions if one["decision"]["outcome"] == "answer")
    assert (answered["text"], answered["decision"]["value"]) == (first, likeliest)
    assert answered["decision"]["comment"] == "seen by two"
    skipped = next(one for one in decisions if one["decision"]["outcome"] == "skipped")
    assert skipped["text"] == second
    page.reload()
    page.locator("#review:not(.is-empty)").wait_for()
    assert get_text(page) not in (first, second)


def test_a_key_shows_the_next_text_within_100_ms(browser, create):
    page = open_queue(browser, create(browser, "passes"))
    took = sorted(page.evaluate(MEASURE, "1") for _ in range(15))
    # Half of them, because other processes use the same cores.
    assert took[len(took) // 2] < 100, took


def test_nothing_is_lost_without_a_connection(browser, create):
    queue = create(browser, "passes")
    page = open_queue(browser, queue)
    page.context.set_offline(True)
    for key in ("1", "2", "x", "1"):
        page.keyboard.press(key)
    page.locator("[data-place=state][data-state=offline]").wait_for()
    assert "4 kept on this computer" in page.locator("[data-place=state]").inner_text()
    page.keyboard.press("u")
    page.context.set_offline(False)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    wait_until_saved(page)
    outcomes = [one["decision"]["outcome"] for one in read_decisions(page, queue)]
    assert sorted(outcomes) == ["answer", "answer", "cannot_tell"]


def test_decisions_survive_a_page_that_is_closed_before_they_are_sent(browser, create):
    queue = create(browser, "passes")
    page = open_queue(browser, queue)
    page.route("**/decisions", lambda route: route.abort())
    for key in ("1", "1"):
        page.keyboard.press(key)
    page.locator("[data-place=state][data-state=offline]").wait_for()
    later = page.context.new_page()
    page.close()
    later.goto(f"{browser.server.address}/reviews/{queue}")
    later.locator("#review:not(.is-empty)").wait_for()
    wait_until_saved(later)
    assert len(read_decisions(later, queue)) == 2


def test_a_response_that_is_lost_after_the_commit_saves_once(browser, create):
    queue = create(browser, "passes")
    page = open_queue(browser, queue)
    lost = []

    def lose_first_response(route):
        response = route.fetch()
        if lost:
            route.fulfill(response=response)
        else:
            lost.append(response.status)
            route.abort()

    page.route("**/decisions", lose_first_response)
    page.keyboard.press("1")
    page.locator("[data-place=state][data-state=offline]").wait_for()
    wait_until_saved(page)
    assert lost == [200]
    assert [one["version"] for one in read_decisions(page, queue)] == [1]


def test_a_conflict_shows_both_decisions_and_the_reader_chooses(browser, create):
    queue = create(browser, "passes")
    page = open_queue(browser, queue)
    other = page.context.new_page()
    other.goto(f"{browser.server.address}/reviews/{queue}")
    other.locator("#review:not(.is-empty)").wait_for()
    assert get_text(other) == get_text(page)
    other.keyboard.press("1")
    wait_until_saved(other)
    page.keyboard.press("2")
    refused = page.locator(".refused-entry")
    refused.wait_for()
    assert "Decided elsewhere" in refused.inner_text()
    refused.get_by_role("button", name="Save mine").click()
    refused.wait_for(state="detached")
    wait_until_saved(page)
    assert [one["version"] for one in read_decisions(page, queue)] == [2]


def test_the_model_of_a_blind_reader_appears_after_the_decision(browser, create):
    queue = create(browser, "passes", hide_model="all")
    page = open_queue(browser, queue)
    assert page.locator(".choice-share", has_text="%").count() == 0
    names = page.locator(".choice-name").all_inner_texts()
    assert names == ["curative", "palliative", "other", "cannot tell"]
    page.keyboard.press("1")
    page.locator(".last", has_text="the model").wait_for()


def test_nearly_equal_texts_get_one_decision(browser, create, live_server, tmp_path):
    texts = ["resection of the left upper lobe of the lung for a tumour"] * 2
    texts += ["Resection of the left upper lobe of the lung for a tumour!", "knee arthroscopy"]
    add_run(live_server, make_run_of_texts(texts, tmp_path), 90)
    queue = create_from_run(browser, 90)
    page = open_queue(browser, queue)
    if "knee" in get_text(page):
        page.keyboard.press("1")
    assert page.locator(".similar-text").count() == 1
    page.keyboard.press("g")
    page.keyboard.press("2")
    wait_until_saved(page)
    decided = [one for one in read_decisions(page, queue) if "knee" not in one["text"]]
    assert len(decided) == 2
    assert sum(one["rows"] for one in decided) == 3


@pytest.mark.parametrize("kind", ["labels", "choice", "answer", "fields"])
def test_every_kind_of_answer_is_reviewed_by_keys(browser, create, kind):
    queue = create(browser, kind, query={"statuses": ["ok", "review"]})
    page = open_queue(browser, queue)
    before = get_text(page)
    if kind == "choice":
        page.keyboard.press("2")
    elif kind == "labels":
        page.keyboard.press("1")
        page.keyboard.press("Enter")
    else:
        page.keyboard.press("Control+Enter")
    wait_until_saved(page)
    assert page.locator(".refused-entry").count() == 0
    assert get_text(page) != before
    decision = read_decisions(page, queue)[0]["decision"]
    assert decision["outcome"] == "answer"
    assert decision["value"] is not None


def test_many_labels_have_a_filter(browser, live_server, tmp_path):
    labels = [f"procedure {number}" for number in range(1, 41)]
    add_run(live_server, make_run_of_texts(["knee arthroscopy"], tmp_path, labels), 91)
    queue = create_from_run(browser, 91)
    page = open_queue(browser, queue)
    page.keyboard.press("/")
    page.keyboard.type("cedure 37")
    assert page.locator(".choice").count() == 1
    page.keyboard.press("Enter")
    wait_until_saved(page)
    assert read_decisions(page, queue)[0]["decision"]["value"] == "procedure 37"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_long_texts_scroll_under_buttons_that_stay(
    browser, live_server, tmp_path_factory, size, dark
):
    number = 92 if size == DESKTOP else 93
    folder = live_server.settings.data_folder / "runs" / str(number)
    if not folder.exists():
        text = "Ein langer Befund mit Maßen und Ärzten. " * 300
        add_run(
            live_server,
            make_run_of_texts([text, f"{text} Ende."], tmp_path_factory.mktemp("l")),
            number,
        )
    queue = create_from_run(browser, number, name="Prüfung")
    page = open_queue(browser, queue, size=size, dark=dark)
    assert page.evaluate(OUT_OF_VIEW) == []
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight + 1")
    page.evaluate(LONG_NOTE)  # of the last decision
    assert page.evaluate(OUT_OF_VIEW) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    button = page.locator(".choice").first
    place = button.bounding_box()
    page.keyboard.press("Space")
    assert page.evaluate("document.querySelector('.reading').scrollTop") > 100
    assert button.bounding_box() == place
    for name in ("Cannot tell", "Skip", "Undo"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box["y"] + box["height"] <= size[1]


def test_a_review_is_created_read_and_adjudicated_from_the_page_of_all(browser, create):
    create(browser, "passes")
    page = browser.open("/reviews", Role.TRAINER)
    page.get_by_label("Name").fill("Zweitmeinung")
    page.get_by_label("Readers per text").fill("2")
    page.get_by_role("button", name="Create the review").click()
    card = page.locator(".card", has_text="Zweitmeinung")
    card.get_by_role("link", name="Read").click()
    page.locator("#review:not(.is-empty)").wait_for()
    queue = int(page.url.rsplit("/", 1)[1])
    page.keyboard.press("x")
    wait_until_saved(page)
    reader = open_queue(browser, queue)
    reader.keyboard.press("2")
    wait_until_saved(reader)
    admin = browser.open("/reviews", Role.ADMIN)
    card = admin.locator(".card", has_text="Zweitmeinung")
    assert "1 for adjudication" in card.inner_text()
    card.get_by_role("link", name="Adjudicate").click()
    admin.locator("#review:not(.is-empty)").wait_for()
    assert "Reader 1 cannot tell" in admin.locator("[data-place=about]").inner_text()
    admin.keyboard.press("1")
    wait_until_saved(admin)
    progress = admin.evaluate(SEND, [f"/api/reviews/{queue}/progress", None, "GET"])
    assert progress["states"]["settled"] == 1


def test_hostile_texts_and_labels_are_shown_as_text(browser, live_server, tmp_path: Path):
    hostile = '</script><img src=x onerror="document.title=1"><b>bold</b>'
    add_run(live_server, make_run_of_texts([hostile], tmp_path, [hostile, "other"]), 94)
    page = open_queue(browser, create_from_run(browser, 94, name=hostile))
    assert get_text(page) == hostile
    assert page.locator("#review img, #review b:text-is('bold')").count() == 0
    assert page.title() == f"{hostile} - medtask"


def test_a_trainer_chooses_rows_and_readers_of_a_new_review(browser, create):
    queue = create(browser, "passes")
    browser.server.sign_in(Role.REVIEWER, "Anna")
    page = browser.open("/reviews", Role.TRAINER)
    run_id = page.evaluate(SEND, [f"/api/reviews/{queue}", None, "GET"])["run_id"]
    page.select_option("#run", str(run_id))
    page.fill("#name", "only the curative ones")
    page.locator("details summary", has_text="Which rows").click()
    page.locator("#choices input[value=curative]").check()
    page.locator("fieldset", has_text="Read by").get_by_label("Anna").check()
    page.get_by_role("button", name="Create the review").click()
    card = page.locator(".card", has_text="only the curative ones")
    card.locator("h3").first.wait_for()
    assert card.get_by_role("link", name="Read").count() == 0  # the trainer is not a reader of it
    number = int(card.get_attribute("id").removeprefix("review-"))
    reading = open_queue(browser, number, name="Anna")
    reading.locator(".choice.suggested .choice-name", has_text="curative").wait_for()


def test_what_is_filled_in_is_found_on_another_machine(browser, create):
    queue = create(browser, "labels")
    page = open_queue(browser, queue)
    page.keyboard.press("1")
    page.keyboard.press("2")
    chosen = page.locator(".choice[aria-pressed=true] .choice-name").all_inner_texts()
    with page.expect_response("**/draft"):
        page.locator("[data-place=comment]").fill("ask the ward")
    elsewhere = open_queue(browser, queue)
    assert elsewhere.locator("[data-place=comment]").input_value() == "ask the ward"
    pressed = elsewhere.locator(".choice[aria-pressed=true] .choice-name")
    assert pressed.all_inner_texts() == chosen
    assert read_decisions(elsewhere, queue) == []


def decide_while_signed_out(browser, queue):
    """A page with a decision that the server has refused, because its reader is signed out."""
    page = open_queue(browser, queue)
    page.context.clear_cookies()
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.locator("[data-place=state][data-state=signed-out]").wait_for()
    return page


def test_a_reader_who_signs_in_again_in_another_tab_loses_nothing(browser, create):
    queue = create(browser, "labels")
    page = decide_while_signed_out(browser, queue)
    page.locator("[data-place=comment]").fill("ask the ward")
    page.context.add_cookies([browser.server.sign_in(Role.REVIEWER)])
    with page.expect_response(lambda response: "/draft" in response.url and response.ok):
        page.evaluate("window.dispatchEvent(new Event('online'))")
    wait_until_saved(page)
    assert len(read_decisions(page, queue)) == 1


def test_what_a_reader_has_decided_is_not_saved_for_another_reader(browser, create):
    queue = create(browser, "labels")
    page = decide_while_signed_out(browser, queue)
    page.context.add_cookies([browser.server.sign_in(Role.REVIEWER, "Anna")])
    page.evaluate("window.dispatchEvent(new Event('online'))")
    page.locator(".refused-entry").wait_for()
    assert read_decisions(page, queue) == []
    kept = page.evaluate("Object.keys(localStorage).filter((name) => name.includes('outbox'))")
    assert len(kept) == 1


def test_enter_of_an_input_method_saves_nothing(browser, live_server, tmp_path):
    labels = [f"手術 {number}" for number in range(1, 41)]
    add_run(live_server, make_run_of_texts(["knee arthroscopy"], tmp_path, labels), 96)
    page = open_queue(browser, create_from_run(browser, 96))
    page.keyboard.press("/")
    page.evaluate("""() => document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", {key: "Enter", isComposing: true, bubbles: true}))""")
    assert page.locator("[data-place=last]").inner_text() == ""
    assert page.locator("[data-place=undo]").is_disabled()


def test_a_full_storage_of_the_browser_does_not_stop_the_reader(browser, create):
    queue = create(browser, "passes")
    page = open_queue(browser, queue)
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    page.keyboard.press("1")
    wait_until_saved(page)
    assert len(read_decisions(page, queue)) == 1

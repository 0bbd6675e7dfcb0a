"""All pages in a browser: their looks on both screens, their actions, and the keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from medtask.server.access.roles import Role
from support.filled_server import TASK, ApiClient, fill_server, write_table
from support.live_server import DESKTOP, PHONE, Browser, LiveServer, run_live_server

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGES = (
    *("/", "/ask", "/tasks", "/tasks/new", "/tasks/1", "/datasets", "/datasets/1", "/models"),
    *("/models/new", "/models/1", "/runs", "/runs/new", "/runs/1", "/leaderboard", "/jobs"),
    *("/jobs/1", "/account", "/accounts"),
)
# Elements that are wider than the screen and cannot be scrolled, and fields without a name.
_FIND_DEFECTS = """() => {
  const found = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found.push("wide");
  for (const one of document.querySelectorAll("main *")) {
    const box = one.getBoundingClientRect();
    const scrolls = one.closest(".scroll, .editor, textarea, svg");
    if (one.checkVisibility() && box.width && box.right > width + 1 && !scrolls)
      found.push(`outside: ${one.tagName}.${one.className}`);
  }
  for (const one of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!one.labels?.length && !one.ariaLabel) found.push(`no label: ${one.name}`);
  for (const one of document.querySelectorAll("button, a"))
    if (!one.textContent.trim() && !one.ariaLabel) found.push("nameless " + one.outerHTML);
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  const twice = ids.filter((id, place) => ids.indexOf(id) !== place);
  if (twice.length) found.push("ids used twice: " + twice);
  return found;
}"""

# The contrast of the number in a cell of the deepest tone, by WCAG.
_MEASURE_CONTRAST = """(tone) => {
  const cell = document.querySelector(".matrix td");
  cell.className = `${tone} depth-10`;
  const style = getComputedStyle(cell);
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  const measure = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const linear = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((one) => one / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const [dim, bright] = [measure(style.color), measure(style.backgroundColor)].sort();
  return (bright + 0.05) / (dim + 0.05);
}"""

# What is shown until a part arrives that a page loads after its others.
_LOADING = ("Reading all rows.", "Checking the file.")


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with everything that pages show; overrides the empty one."""
    with run_live_server(tmp_path_factory.mktemp("server") / "data") as server:
        fill_server(server)
        yield server


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1280", "390"])
def test_every_page_fits_the_screen_and_names_its_fields(
    browser: Browser, size: tuple[int, int]
) -> None:
    page = browser.open("/", size=size)
    for path in PAGES:
        page.goto(browser.server.address + path)
        for words in _LOADING:
            page.get_by_text(words).wait_for(state="detached")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            assert page.evaluate(_FIND_DEFECTS) == [], (path, scheme)
        assert page.locator("h1").count() == 1, path


def test_pages_for_viewers_have_no_actions_that_are_refused(browser: Browser) -> None:
    page = browser.open("/tasks", Role.VIEWER)
    for path in PAGES[2:-1]:
        if path.endswith("/new") or path == "/account":
            continue
        page.goto(browser.server.address + path)
        assert page.locator("main [data-api], main [data-upload]:visible").count() == 0 or (
            page.locator("main button:visible").count() == 0
        ), path


def test_the_editor_shows_faults_at_their_lines_and_the_prompt_of_a_row(browser: Browser) -> None:
    page = browser.open("/tasks/1")
    prompt = page.locator("#checks .prompt-text").last
    prompt.wait_for()
    assert "Husten und Fieber, Pneumonie?" in prompt.inner_text()
    page.locator("#row").fill("3")
    page.locator("#row").press("Tab")
    page.locator("#checks .prompt-text", has_text="Schlaganfall, Hirn").wait_for()
    page.locator("#text").fill(TASK.replace("input:", "inptu:").replace("labels:", "lables:"))
    page.locator("#checks [data-line='3']").first.wait_for()
    marked = page.locator(".editor pre .fault").all_inner_texts()
    assert {"3", "8"} <= set(marked)
    page.get_by_role("button", name="Line 8").click()
    assert page.evaluate("getSelection().toString()").strip() == "lables:"
    page.locator("#text").fill(TASK)
    page.locator("#checks .good").wait_for()
    assert page.locator(".editor pre .fault").count() == 0


def test_a_task_is_written_with_the_keyboard_alone(browser: Browser) -> None:
    page = browser.open("/tasks")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "New task"
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks/new")
    _press_tab_until(page, "text")
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(TASK.replace("Untersuchung", "Mit Tastatur", 1))
    page.keyboard.press("Control+S")
    page.wait_for_url("**/tasks/2")
    assert page.get_by_role("heading", level=1).inner_text() == "Mit Tastatur"
    page.get_by_role("button", name="Delete").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks")
    assert page.get_by_text("Mit Tastatur").count() == 0


def _press_tab_until(page: Any, identifier: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == identifier:
            return
    raise AssertionError(f"{identifier} is not reached with the keyboard")


def test_a_table_is_uploaded_inspected_and_deleted(browser: Browser, tmp_path: Path) -> None:
    page = browser.open("/datasets")
    accepted = page.locator("#file").get_attribute("accept").split(",")
    assert ".xlsm" in accepted
    assert ".txt" not in accepted  # it is refused
    page.locator("#file").set_input_files(write_table(tmp_path))
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/datasets/*")
    page.get_by_role("row", name="untersuchung").get_by_text("Röntgen Thorax").wait_for()
    assert page.get_by_role("cell", name="Pleuraerguss links, Größe?").count() > 0
    page.get_by_role("link", name="Later rows").click()
    assert page.get_by_text("26 to 40 of 40").is_visible()
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm [value=yes]").click()
    page.wait_for_url("**/datasets")
    assert page.get_by_text("neue tabelle").count() == 0


def test_a_table_that_cannot_be_read_is_refused_with_its_remedy(
    browser: Browser, tmp_path: Path
) -> None:
    empty = tmp_path / "leer.csv"
    empty.write_text("")
    page = browser.open("/datasets")
    page.locator("#file").set_input_files(empty)
    page.get_by_role("button", name="Upload").click()
    page.locator("main form .problem .fix").wait_for()
    assert page.locator(".upload-progress").is_hidden()


def test_a_model_is_created_trained_and_deleted(browser: Browser) -> None:
    page = browser.open("/models/new?task_id=1&dataset_id=1")
    page.get_by_label("Name").fill("<i>mein</i> Modell")
    page.get_by_role("button", name="Create the model").click()
    page.wait_for_url("**/models/2")
    assert page.get_by_role("heading", level=1).inner_text() == "<i>mein</i> Modell"
    page.get_by_role("button", name="Start the training").click()
    page.get_by_role("heading", name="On its validation rows").wait_for(timeout=60_000)
    captions = page.locator("figure").all_inner_texts()
    assert [("held-out rows" in caption, "validation" in caption) for caption in captions] == [
        (True, False)
    ] * 2
    assert page.get_by_role("heading", name="Export it").count() == 0  # no target reads TF-IDF
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm [value=yes]").click()
    page.wait_for_url("**/models")


def test_a_run_is_started_followed_and_its_report_read(browser: Browser) -> None:
    page = browser.open("/runs/new?model_id=1")
    page.get_by_label("Data set").select_option("2")
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url("**/runs/3")
    page.get_by_role("link", name="Report").wait_for(timeout=60_000)
    assert page.locator(".tiles").get_by_text("rows", exact=True).is_visible()
    assert page.locator(".matrix").count() == 1
    assert page.get_by_role("link", name="answers.csv").is_visible()
    page.get_by_role("link", name="Report").click()
    page.get_by_role("heading", name="How good is it?").wait_for()
    colour = "getComputedStyle(document.querySelector('.tiles b')).fontWeight"
    assert int(page.evaluate(colour)) > 500  # the style sheet of the report is applied


def test_a_score_has_its_name_and_its_rows(browser: Browser) -> None:
    page = browser.open("/")
    for path in ("/", "/runs", "/models"):
        page.goto(browser.server.address + path)
        score = page.locator("td", has_text="accuracy, n").first.inner_text()
        assert re.search(r"\d\.\d{3} \(\d.*\)\s+accuracy, n\s=\s\d+", score), (path, score)


def test_runs_are_compared(browser: Browser) -> None:
    page = browser.open("/leaderboard")
    assert page.get_by_role("row", name="TF-IDF").count() >= 1
    page.get_by_role("button", name="Compare the chosen runs").click()
    page.wait_for_url("**/comparisons/*")
    page.get_by_role("table").get_by_text("better").first.wait_for(timeout=60_000)


def test_cells_of_a_confusion_matrix_can_be_read_in_both_schemes(browser: Browser) -> None:
    page = browser.open("/runs/1")
    page.locator(".matrix td[class]").first.wait_for()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for tone in ("blue", "orange", "grey"):
            assert page.evaluate(_MEASURE_CONTRAST, tone) >= 4.5, (scheme, tone)


@pytest.mark.parametrize("payload", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_names_are_shown_as_text(browser: Browser, live_server: LiveServer, payload: str) -> None:
    table = (
        f'id,text,"{payload.replace(chr(34), chr(34) * 2)}"\n1,{payload.replace(chr(34), "")},x\n'
    )
    with ApiClient(live_server) as api:
        number = api.upload("payload.csv", table.encode())
    page = browser.open(f"/datasets/{number}")
    page.on("dialog", lambda dialog: browser.faults.append(f"dialog {dialog.message}"))
    page.wait_for_load_state("networkidle")
    assert page.get_by_role("columnheader", name=payload).count() >= 1
    assert page.locator("main script, main img").count() == 0


def test_the_menu_of_a_phone_is_opened_with_the_keyboard(browser: Browser) -> None:
    page = browser.open("/runs", size=PHONE)
    link = page.get_by_role("link", name="Leaderboard")
    assert link.is_hidden()
    page.get_by_role("button", name="Menu").focus()
    page.keyboard.press("Enter")
    assert link.is_visible()
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/leaderboard")


def test_a_text_is_classified_with_bars_of_german_labels(browser: Browser) -> None:
    page = browser.open("/")
    page.get_by_label("text", exact=True).fill("Pneumonie links? Größe des Ergusses")
    page.keyboard.press("Control+Enter")
    rows = page.locator("#answer .bars tr")
    rows.first.wait_for()
    assert page.locator("#answer .answer-value").inner_text() == "Röntgen Thorax"
    assert rows.count() == 3
    shares = [float(text) for text in page.locator("#answer .bars td.n").all_inner_texts()]
    assert sum(shares) == pytest.approx(1, abs=0.002)
    assert shares == sorted(shares, reverse=True)


def test_a_question_is_answered_while_it_is_written(browser: Browser) -> None:
    page = browser.open("/ask")
    page.get_by_label("Question or case").fill("Which vitamin prevents scurvy?")
    page.get_by_label("Options, one per line").fill("A) Vitamin C\nB) Vitamin K")
    page.get_by_text("Context and limits").click()
    page.get_by_label("Tokens of analysis").fill("4")
    page.get_by_role("button", name="Ask").click()
    page.locator("#answer .bars tr").first.wait_for(timeout=60_000)
    names = page.locator("#answer .bars th").all_inner_texts()
    assert sorted(names) == ["A Vitamin C", "B Vitamin K"]


def test_a_question_that_cannot_be_answered_says_why(browser: Browser) -> None:
    page = browser.open("/ask")
    page.get_by_label("Question or case").fill("Why?")
    page.get_by_label("Model", exact=True).fill("no-such/model-anywhere-1")
    page.get_by_role("button", name="Ask").click()
    page.locator("#question .problem .fix").wait_for(timeout=30_000)
    assert page.locator("#answer").inner_text() == ""
    browser.faults[:] = [one for one in browser.faults if "status 503" not in one]


def test_a_question_without_a_connection_says_so(browser: Browser) -> None:
    page = browser.open("/ask")
    page.get_by_label("Question or case").fill("Why?")
    page.context.set_offline(True)
    page.get_by_role("button", name="Ask").click()
    page.locator("#question .problem", has_text="The server does not answer.").wait_for()
    assert page.locator("#answer").inner_text() == ""


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ("E. coli\nS. aureus", {"A": "E. coli", "B": "S. aureus"}),
        ("A) E. coli\nB) S. aureus", {"A": "E. coli", "B": "S. aureus"}),
        ("1. E. coli\n2. S. aureus", {"A": "E. coli", "B": "S. aureus"}),
    ],
)
def test_options_keep_the_names_that_begin_with_a_letter(
    browser: Browser, lines: str, options: dict[str, str]
) -> None:
    page = browser.open("/ask")
    page.route("**/ask", lambda route: route.abort() if route.request.method == "POST" else None)
    page.get_by_label("Question or case").fill("Which is Gram-positive?")
    page.get_by_label("Options, one per line").fill(lines)
    with page.expect_request("**/ask") as asked:
        page.get_by_role("button", name="Ask").click()
    assert asked.value.post_data_json["options"] == options


def test_columns_of_any_name_are_sent_as_they_are(
    browser: Browser, live_server: LiveServer
) -> None:
    text = TASK.replace("Untersuchung", "Spalten", 1)
    text = text.replace("{{ text }}", "{{ row['Report.Text'] }} {{ model }}")
    with ApiClient(live_server) as api:
        task = api.call("POST", "/api/tasks", json={"text": text})["id"]
    page = browser.open(f"/?choice=task-{task}-minilm")
    page.get_by_label("Report.Text", exact=True).fill("Pneumonie links?")
    page.get_by_label("model", exact=True).fill("CT 7")
    with page.expect_request("**/classify") as asked:
        page.keyboard.press("Control+Enter")
    assert asked.value.post_data_json["rows"] == [
        {"Report.Text": "Pneumonie links?", "model": "CT 7"}
    ]
    page.locator("#answer .bars tr").first.wait_for(timeout=60_000)


_WOULD_ASK = """() => {
  const leaving = new Event("beforeunload", {cancelable: true});
  window.dispatchEvent(leaving);
  return leaving.defaultPrevented;
}"""


def test_a_page_with_a_task_that_was_not_saved_is_left_after_a_question(browser: Browser) -> None:
    page = browser.open("/tasks/1")
    page.locator("#text").fill(f"{TASK}# a remark\n")
    page.context.set_offline(True)
    page.get_by_role("button", name="Save").click()
    page.locator("#task-form .problem", has_text="The server does not answer.").wait_for()
    assert page.evaluate(_WOULD_ASK)
    page.locator("#text").fill(TASK)
    page.context.set_offline(False)
    with page.expect_navigation():
        page.keyboard.press("Control+S")
    assert not page.evaluate(_WOULD_ASK)


def test_keys_that_are_pressed_twice_save_once(browser: Browser) -> None:
    page = browser.open("/tasks/new")
    page.locator("#checks .good, #checks .faults").first.wait_for()
    sent: list[Any] = []
    page.route("**/api/tasks", lambda route: sent.extend([route]))  # not answered
    page.locator("#text").press("Control+S")
    page.locator("#text").press("Control+S")
    page.wait_for_timeout(300)
    assert len(sent) == 1


def test_a_part_of_a_page_without_a_connection_says_so_once(browser: Browser) -> None:
    page = browser.open("/tasks/1")
    page.locator("#checks .good").wait_for()
    page.evaluate("""() => {
      window.changes = 0;
      const count = () => { window.changes += 1; };
      const place = document.querySelector("#page-problem");
      new MutationObserver(count).observe(place, {childList: true});
    }""")
    page.context.set_offline(True)
    for _ in range(3):
        with page.expect_event("requestfailed"):
            page.locator("#text").press("Space")
    page.locator("#page-problem", has_text="The server does not answer.").wait_for()
    assert page.evaluate("window.changes") == 1
    page.context.set_offline(False)
    page.locator("#text").press("Space")
    page.locator("#page-problem p").first.wait_for(state="detached")
    browser.faults[:] = [one for one in browser.faults if "htmx:error" not in one]

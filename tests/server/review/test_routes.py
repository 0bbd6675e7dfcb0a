"""Reviews over HTTP: reading, blind second readers, conflicts, adjudication and gold."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from medtask.server.access.roles import Role
from support.jobs import run_one_worker, wait_for_end
from support.review_runs import add_run, create_queue, load_items, make_submission
from support.server import ServerUnderTest

Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def server(shared_server: ServerUnderTest) -> ServerUnderTest:
    """Every test creates a queue of its own."""
    return shared_server


@pytest.fixture(scope="module")
def trainer(server: ServerUnderTest) -> TestClient:
    return server.connect(Role.TRAINER)


@pytest.fixture(scope="module")
def reviewer(server: ServerUnderTest) -> TestClient:
    return server.connect(Role.REVIEWER)


@pytest.fixture(scope="module")
def run_id(server: ServerUnderTest, runs: Runs) -> int:
    return add_run(server, runs("passes"))


def decide(client: TestClient, queue: int, submission: dict, path: str = "decisions") -> dict:
    response = client.post(f"/api/reviews/{queue}/{path}", json=submission)
    assert response.status_code == 200, response.text
    return response.json()


def test_equal_texts_are_one_item_and_rows_without_text_are_left_out(trainer, run_id):
    queue = create_queue(trainer, run_id)
    shown = trainer.get(f"/api/reviews/{queue}").json()
    assert shown["progress"]["items"] == 52
    assert shown["progress"]["rows"] == 55
    assert shown["notes"] == ["5 rows without text left out"]
    names = [choice["value"] for choice in shown["form"]["choices"]]
    assert names == ["curative", "palliative", "other", "cannot tell"]
    assert any(item["rows"] == 2 for item in load_items(trainer, queue, 60))


def test_a_query_selects_rows(trainer, run_id):
    query = {"contains": "TREMOR", "answers": ["curative"]}
    for item in load_items(trainer, create_queue(trainer, run_id, query=query), 60):
        assert "tremor" in item["text"]
        assert item["model"]["value"] == "curative"


def test_a_query_selects_rows_by_status(trainer, run_id):
    shown = trainer.get(f"/reviews/choices?run_id={run_id}").text
    assert 'value="abstained"' in shown
    assert 'value="curative"' in shown
    queue = create_queue(trainer, run_id, query={"statuses": ["abstained"]})
    items = load_items(trainer, queue, 60)
    assert items
    assert all(item["model"]["status"] == "abstained" for item in items)


def test_a_query_without_rows_says_what_to_do(trainer, run_id):
    settings = {"query": {"contains": "nowhere to be found"}}
    response = trainer.post("/api/reviews", json={"run_id": run_id, "settings": settings})
    assert response.status_code == 422
    assert "query" in response.json()["fix"]


def test_two_readers_never_get_the_same_item_if_one_is_enough(trainer, reviewer, run_id):
    queue = create_queue(trainer, run_id)
    first = {item["id"] for item in load_items(trainer, queue)}
    second = {item["id"] for item in load_items(reviewer, queue)}
    assert len(first) >= 20
    assert len(second) >= 20
    assert not first & second
    assert {item["id"] for item in load_items(trainer, queue)} == first


def test_the_second_reader_sees_the_models_answer_only_after_deciding(trainer, reviewer, run_id):
    queue = create_queue(trainer, run_id, readers_per_item=2)
    assert all(item["model"] for item in load_items(trainer, queue))
    item = load_items(reviewer, queue)[0]
    assert (item["model"], item["sees_model"]) == (None, False)
    saved = decide(reviewer, queue, make_submission(item, "other"))["saved"][0]
    assert saved["model"]["probabilities"]
    assert saved["version"] == 1


@pytest.mark.parametrize(("hide", "sees"), [("all", False), ("none", True)])
def test_the_queue_sets_who_sees_the_models_answer(trainer, reviewer, run_id, hide, sees):
    queue = create_queue(trainer, run_id, readers_per_item=2, hide_model=hide)
    for client in (trainer, reviewer):
        assert {item["sees_model"] for item in load_items(client, queue)} == {sees}


def test_a_skipped_item_reveals_nothing_and_comes_last(trainer, run_id):
    queue = create_queue(trainer, run_id, hide_model="all")
    item = load_items(trainer, queue, 1)[0]
    saved = decide(trainer, queue, make_submission(item, None, outcome="skipped"))["saved"][0]
    assert "model" not in saved
    assert load_items(trainer, queue, 60)[-1]["id"] == item["id"]
    progress = trainer.get(f"/api/reviews/{queue}/progress").json()
    assert progress["states"]["open"] == progress["left"] == 52


def test_readers_do_not_see_each_others_decisions(trainer, reviewer, run_id):
    queue = create_queue(trainer, run_id, readers_per_item=2)
    item = load_items(trainer, queue)[0]
    decide(trainer, queue, make_submission(item, "other", comment="a remark of the first"))
    assert "a remark" not in str(load_items(reviewer, queue))
    assert reviewer.get(f"/api/reviews/{queue}/decisions").json() == []
    assert reviewer.get(f"/api/reviews/{queue}/disputes").status_code == 403


def test_a_submission_that_is_sent_again_gets_the_same_response(trainer, run_id):
    queue = create_queue(trainer, run_id)
    submission = make_submission(load_items(trainer, queue)[0], "other")
    first = decide(trainer, queue, submission)
    assert decide(trainer, queue, submission) == first
    other = {**submission, "value": "curative"}
    assert trainer.post(f"/api/reviews/{queue}/decisions", json=other).status_code == 422
    assert trainer.get(f"/api/reviews/{queue}/decisions").json()[0]["version"] == 1


def test_a_conflict_has_the_later_version_and_overwrites_nothing(trainer, run_id):
    queue = create_queue(trainer, run_id)
    item = load_items(trainer, queue)[0]
    decide(trainer, queue, make_submission(item, "other"))
    late = make_submission(item, "curative")
    response = trainer.post(f"/api/reviews/{queue}/decisions", json=late)
    assert response.status_code == 409
    problem = response.json()
    assert (problem["conflicts"][0]["value"], problem["conflicts"][0]["version"]) == ("other", 1)
    assert problem["fix"]
    kept = trainer.get(f"/api/reviews/{queue}/decisions").json()[0]
    assert kept["decision"]["value"] == "other"
    again = make_submission({**item, "version": 1}, "curative")
    assert decide(trainer, queue, again)["saved"][0]["version"] == 2


def test_undo_gives_the_item_back(trainer, run_id):
    queue = create_queue(trainer, run_id)
    item = load_items(trainer, queue)[0]
    decide(trainer, queue, make_submission(item, "other"))
    decide(trainer, queue, make_submission({**item, "version": 1}, None, outcome="withdrawn"))
    again = next(one for one in load_items(trainer, queue) if one["id"] == item["id"])
    assert (again["version"], again["decision"]["outcome"]) == (2, "withdrawn")
    assert trainer.get(f"/api/reviews/{queue}/progress").json()["finished"] == 0


def test_one_decision_is_saved_for_several_items_or_for_none(trainer, run_id):
    queue = create_queue(trainer, run_id)
    first, second, third = load_items(trainer, queue)[:3]
    both = make_submission(first, "other")
    both["items"].append({"id": second["id"], "version": 0})
    assert len(decide(trainer, queue, both)["saved"]) == 2
    late = make_submission(third, "curative")
    late["items"].append({"id": second["id"], "version": 0})
    assert trainer.post(f"/api/reviews/{queue}/decisions", json=late).status_code == 409
    assert third["id"] in {item["id"] for item in load_items(trainer, queue)}


@pytest.mark.parametrize("value", ["nonsense", None, ["other"], {"a": 1}, 3])
def test_a_value_that_is_not_an_answer_is_refused(trainer, run_id, value):
    queue = create_queue(trainer, run_id)
    item = load_items(trainer, queue)[0]
    response = trainer.post(f"/api/reviews/{queue}/decisions", json=make_submission(item, value))
    assert response.status_code == 422
    assert '"curative"' in response.json()["fix"]


def test_disputed_items_go_to_an_adjudicator_who_has_not_read_them(
    server, trainer, reviewer, run_id
):
    queue = create_queue(trainer, run_id, readers_per_item=2)
    shared = load_items(trainer, queue)[0]
    decide(trainer, queue, make_submission(shared, "other"))
    decide(reviewer, queue, make_submission(load_items(reviewer, queue)[0], "curative"))
    progress = trainer.get(f"/api/reviews/{queue}/progress").json()
    assert progress["waiting"]["adjudication"] == 1
    assert trainer.get(f"/api/reviews/{queue}/disputes").json() == []
    assert "Adjudicate (" not in trainer.get("/reviews").text
    own = make_submission(shared, "palliative")
    assert trainer.post(f"/api/reviews/{queue}/adjudications", json=own).status_code == 403
    admin = server.connect(Role.ADMIN)
    assert "Adjudicate (1)" in admin.get("/reviews").text
    disputed = admin.get(f"/api/reviews/{queue}/disputes").json()
    assert [reader["value"] for reader in disputed[0]["readers"]] == ["other", "curative"]
    assert [reader["name"] for reader in disputed[0]["readers"]] == ["Reader 1", "Reader 2"]
    decide(admin, queue, make_submission(disputed[0], "palliative"), "adjudications")
    rows = list(csv.DictReader(io.StringIO(admin.get(f"/api/reviews/{queue}/gold").text)))
    assert {(row["gold"], row["gold_by"], row["gold_how"]) for row in rows} == {
        ("palliative", "test admin", "adjudicated")
    }


def test_who_cannot_tell_sends_the_item_to_adjudication(server, trainer, run_id):
    queue = create_queue(trainer, run_id)
    item = load_items(trainer, queue)[0]
    decide(trainer, queue, make_submission(item, None, outcome="cannot_tell"))
    admin = server.connect(Role.ADMIN)
    disputed = admin.get(f"/api/reviews/{queue}/disputes").json()
    unclear = make_submission(disputed[0], None, outcome="cannot_tell")
    decide(admin, queue, unclear, "adjudications")
    states = admin.get(f"/api/reviews/{queue}/progress").json()["states"]
    assert (states["settled"], states["disputed"]) == (1, 0)
    assert admin.get(f"/api/reviews/{queue}/gold").status_code == 422


def test_agreement_has_an_interval_and_counts_the_items_that_both_read(trainer, reviewer, run_id):
    queue = create_queue(trainer, run_id, readers_per_item=2, overlap=0.5)
    for client, shift in ((trainer, 0), (reviewer, 1)):
        for _ in range(4):
            for item in load_items(client, queue):
                place = (item["position"] + shift * (item["position"] % 3 == 0)) % 3
                value = ("curative", "palliative", "other")[place]
                decide(client, queue, make_submission(item, value))
    progress = trainer.get(f"/api/reviews/{queue}/progress").json()
    pair = progress["agreement"][0]
    assert 15 < pair["items"] < 40
    assert pair["items"] == pair["n"] == pair["kappa"]["n"]
    assert pair["kappa"]["low"] < pair["kappa"]["value"] < pair["kappa"]["high"] < 1
    assert pair["disagreements"] == progress["waiting"]["adjudication"]
    assert sum(reader["answer"] for reader in progress["readers"]) == 52 + pair["items"]


def test_it_is_visible_who_waits_for_whom(server, trainer, reviewer, run_id):
    names = [server.get_user(role).id for role in (Role.TRAINER, Role.REVIEWER)]
    queue = create_queue(trainer, run_id, readers_per_item=2, readers=names)
    loaded = load_items(reviewer, queue)
    for item in load_items(trainer, queue)[:3]:
        decide(trainer, queue, make_submission(item, "other"))
    progress = trainer.get(f"/api/reviews/{queue}/progress").json()
    assert progress["waiting"] == {"a first reader": 49, "test reviewer": 3}
    assert {reader["name"]: reader["loaded"] for reader in progress["readers"]} == {
        "test reviewer": len(loaded),
        "test trainer": len(loaded) - 3,
    }
    admin = server.connect(Role.ADMIN)
    assert admin.post(f"/api/reviews/{queue}/assignments", json={}).status_code == 403


def test_items_that_need_more_readers_than_are_named_wait_for_one(server, trainer, run_id):
    names = [server.get_user(Role.TRAINER).id]
    queue = create_queue(trainer, run_id, readers_per_item=2, readers=names)
    decide(trainer, queue, make_submission(load_items(trainer, queue)[0], "other"))

    waiting = trainer.get(f"/api/reviews/{queue}/progress").json()["waiting"]

    assert waiting == {"a first reader": 51, "a further reader, whom the review must name": 1}


def test_loaded_items_can_be_moved_to_another_reader(server, trainer, reviewer, run_id):
    queue = create_queue(trainer, run_id)
    loaded = {item["id"] for item in load_items(reviewer, queue)}
    giver, taker = (server.get_user(role).id for role in (Role.REVIEWER, Role.TRAINER))
    moved = trainer.post(
        f"/api/reviews/{queue}/reassignments", json={"giver_id": giver, "taker_id": taker}
    )
    assert moved.json() == {"moved": len(loaded)}
    assert {item["id"] for item in load_items(trainer, queue)} == loaded
    assert not loaded & {item["id"] for item in load_items(reviewer, queue)}


def test_a_closed_queue_accepts_what_was_loaded_and_assigns_nothing(trainer, run_id):
    queue = create_queue(trainer, run_id)
    loaded = load_items(trainer, queue, 1)
    trainer.patch(f"/api/reviews/{queue}", json={"closed": True, "name": "Closed"})
    for item in loaded:
        decide(trainer, queue, make_submission(item, "other"))
    assert load_items(trainer, queue) == []
    assert trainer.get("/api/reviews").json()[0]["name"] == "Closed"
    trainer.patch(f"/api/reviews/{queue}", json={"closed": False})
    assert load_items(trainer, queue)


def test_a_deleted_queue_is_gone(trainer, run_id):
    queue = create_queue(trainer, run_id)
    decide(trainer, queue, make_submission(load_items(trainer, queue)[0], "other"))
    assert trainer.delete(f"/api/reviews/{queue}").status_code == 204
    assert trainer.get(f"/api/reviews/{queue}").status_code == 404
    assert queue not in [one["id"] for one in trainer.get("/api/reviews").json()]


def test_viewers_see_progress_and_cannot_read_or_create(server, trainer, run_id):
    queue = create_queue(trainer, run_id)
    viewer = server.connect(Role.VIEWER)
    assert viewer.get(f"/api/reviews/{queue}").json()["may_read"] is False
    assert viewer.post(f"/api/reviews/{queue}/assignments", json={}).status_code == 403
    assert viewer.get(f"/api/reviews/{queue}/gold").status_code == 403
    assert server.connect(Role.REVIEWER).post("/api/reviews", json={"run_id": 1}).status_code == 403


ROWS = [
    {"text": f"biopsy of the {part}", "case": f"c{number}"}
    for number, part in enumerate(["lung", "liver", "knee", "lung", "skin"])
] + [{"text": "???", "case": "c8"}, {"text": "", "case": "c9"}]
TASK = """\
name: organ
instruction: Which organ?
input: "{{ text }}"
id: case
answer: {kind: label, labels: [lung, liver, knee, skin]}
"""


def add_rows(trainer: TestClient) -> dict[str, int]:
    dataset = trainer.post("/api/datasets/rows", json={"name": "notes", "rows": ROWS}).json()
    task = trainer.post("/api/tasks", json={"text": TASK}).json()
    return {"dataset_id": dataset["id"], "task_id": task["id"]}


def test_rows_that_no_model_has_answered_are_labelled_from_nothing(trainer, reviewer):
    created = trainer.post("/api/reviews", json=add_rows(trainer))
    assert created.status_code == 201, created.text
    queue = created.json()["id"]
    items = load_items(reviewer, queue)
    assert items[0]["text"] == "biopsy of the lung"  # it is in two rows
    assert items[-1]["text"] == "???"
    assert all(item["model"] is None for item in items)
    saved = decide(reviewer, queue, make_submission(items[0], "lung"))
    assert saved["saved"][0]["model"] is None
    gold = trainer.get(f"/api/reviews/{queue}/gold?format=csv").text
    rows = list(csv.DictReader(io.StringIO(gold)))
    assert [(row["case"], row["gold"]) for row in rows] == [("c0", "lung"), ("c3", "lung")]


def test_conditions_on_answers_are_refused_for_rows_without_answers(trainer):
    body = {**add_rows(trainer), "settings": {"query": {"answers": ["lung"]}}}
    refused = trainer.post("/api/reviews", json=body)
    assert refused.status_code == 422
    assert "review a run" in refused.json()["fix"]
    assert trainer.post("/api/reviews", json={}).status_code == 422


@pytest.mark.slow
def test_a_large_review_is_made_by_a_job(server, trainer, reviewer, run_id, monkeypatch):
    monkeypatch.setattr("medtask.server.api.reviews.MAX_ROWS_AT_ONCE", 5)
    settings = {"query": {"answers": ["curative"]}}
    body = {"run_id": run_id, "settings": settings}
    of_run = trainer.post("/api/reviews", json=body).json()
    of_rows = trainer.post("/api/reviews", json=add_rows(trainer)).json()
    empty = {"run_id": run_id, "settings": {"query": {"contains": "nowhere"}}}
    failing = trainer.post("/api/reviews", json=empty).json()
    assert {one["state"] for one in (of_run, of_rows, failing)} == {"creating"}
    for path in (f"/api/reviews/{of_run['id']}/assignments", f"/reviews/{of_run['id']}"):
        early = reviewer.post(path, json={}) if "api" in path else reviewer.get(path)
        assert early.status_code == 409
    assert trainer.delete(f"/api/reviews/{of_run['id']}").status_code == 409
    assert "rows are being read and ordered" in trainer.get("/reviews").text
    with run_one_worker(server):
        for one in (of_run, of_rows, failing):
            wait_for_end(server, one["job_id"])
    monkeypatch.undo()
    at_once = trainer.post("/api/reviews", json=body).json()
    made = trainer.get(f"/api/reviews/{of_run['id']}").json()
    assert (made["state"], made["progress"]["items"]) == ("ready", at_once["progress"]["items"])
    strip = [{**item, "id": 0} for item in load_items(trainer, made["id"], 60)]
    assert strip == [{**item, "id": 0} for item in load_items(trainer, at_once["id"], 60)]
    assert len(load_items(reviewer, of_rows["id"])) == 5
    failed = trainer.get(f"/api/reviews/{failing['id']}").json()
    assert failed["state"] == "failed"
    assert "query" in failed["problem"]["fix"]
    assert "nowhere" not in str(failed["problem"])
    assert failed["problem"]["detail"].capitalize() in trainer.get("/reviews").text
    assert trainer.delete(f"/api/reviews/{failing['id']}").status_code == 204
    assert list((server.settings.data_folder / "reviews").iterdir()) == []


def test_a_draft_follows_its_reader_and_is_never_an_answer(server, trainer, reviewer, run_id):
    queue = create_queue(trainer, run_id)
    item = load_items(reviewer, queue)[0]
    path = f"/api/reviews/{queue}/items/{item['id']}/draft"
    for comment in ("see", "see the report"):
        draft = {"value": ["curative"], "comment": comment}
        assert reviewer.put(path, json=draft).status_code == 204
    elsewhere = server.connect(Role.REVIEWER)
    assert load_items(elsewhere, queue)[0]["draft"] == draft
    assert trainer.get(f"/api/reviews/{queue}").json()["progress"]["finished"] == 0
    assert elsewhere.get(f"/api/reviews/{queue}/decisions").json() == []
    assert all(one["draft"] is None for one in load_items(trainer, queue))
    saved = decide(elsewhere, queue, make_submission(item, "curative"))
    late = reviewer.put(path, json=draft)  # it was sent before the decision
    assert late.status_code == 204
    withdrawn = {**item, "version": saved["saved"][0]["version"]}
    decide(elsewhere, queue, make_submission(withdrawn, None, outcome="withdrawn"))
    assert load_items(elsewhere, queue)[0]["draft"] is None
    assert reviewer.put(f"/api/reviews/{queue}/items/999999/draft", json={}).status_code == 422
    long = reviewer.put(path, json={"value": "x" * 300_000})
    assert long.status_code == 422

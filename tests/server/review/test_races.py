"""Decisions of several people in any order: none is lost, none is overwritten."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from medtask.server.access.roles import Role, User
from medtask.server.database.base import Base
from medtask.server.database.connect import Database, create_sqlite_file
from medtask.server.review.assignments import reassign_items
from medtask.server.review.decisions import CONFLICT, SAVED, Submission, submit_decision
from medtask.server.review.queues import add_queue, draft_queue, fill_queue
from medtask.server.review.settings import QueueSettings
from medtask.server.review.sources import open_run_source
from medtask.server.review.tables import (
    ADJUDICATION,
    READ_OUTCOMES,
    ItemState,
    ReviewDecision,
    ReviewItem,
    ReviewQueue,
    ReviewSubmission,
)
from medtask.server.review.views import load_next_items

pytestmark = pytest.mark.slow

PEOPLE = [User(str(number), f"Reader {number}", Role.REVIEWER) for number in range(4)]
LABELS = ("curative", "palliative", "other")
Runs = Callable[[str], Path]
Saved = tuple[str, Any, str]  # outcome, value, comment


def make_queue(database: Database, run_folder: Path, **changes: Any) -> ReviewQueue:
    chosen = QueueSettings(max_items=4, **changes)
    source = open_run_source(run_folder, "run 1")
    drafted = draft_queue(source, chosen)
    with database.write() as session:
        queue = add_queue(session, source, settings=chosen, name="", created_by=PEOPLE[0])
        fill_queue(session, queue, source, drafted)
        return queue


def open_test_database(url: str) -> Database:
    create_sqlite_file(url)
    database = Database(url)
    Base.metadata.create_all(database.engine)
    return database


class ReviewMachine(RuleBasedStateMachine):
    """Four people load, decide, change, undo and lose connections; items are moved between them.

    ``expected`` has every version that the server has acknowledged, by item and seat.
    """

    run_folder: Path
    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.database = open_test_database(f"sqlite:///{self.folder}/review.db")
        self.expected: dict[tuple[int, str], list[Saved]] = {}
        self.shown: dict[tuple[str, int], int] = {}  # versions on each page
        self.conflicts: set[tuple[str, str]] = set()
        self.number = 0

    @initialize(overlap=st.sampled_from([0.0, 0.5, 1.0]))
    def create(self, overlap: float) -> None:
        self.queue = make_queue(self.database, self.run_folder, readers_per_item=2, overlap=overlap)
        with self.database.read() as session:
            self.item_ids = list(session.scalars(select(ReviewItem.id)))

    @rule(person=st.sampled_from(PEOPLE))
    def load(self, person: User) -> None:
        with self.database.write() as session:
            for item in load_next_items(session, self.queue, person, 2):
                for page in (0, 1):
                    self.shown[(f"{person.id} {person.id} {page}", item["id"])] = item["version"]

    @rule(
        target=sent,
        person=st.sampled_from(PEOPLE),
        places=st.sets(st.integers(0, 3), min_size=1, max_size=3),
        outcome=st.sampled_from(["answer", "answer", "cannot_tell", "skipped", "withdrawn"]),
        label=st.sampled_from(LABELS),
        way=st.tuples(st.booleans(), st.integers(0, 1)),
    )
    def submit(self, person, places, outcome, label, way):
        """Decide on what the page shows, which may be old, and keep what the page has learnt."""
        adjudicates, page = way  # a person may have the same queue on two pages
        seat = ADJUDICATION if adjudicates else person.id
        ids = [self.item_ids[place] for place in sorted(places) if place < len(self.item_ids)]
        if not ids:
            return multiple()
        self.number += 1
        key = f"{person.id} {seat} {page}"
        submission = Submission(
            key=f"submission-{self.number}",
            items=[{"id": one, "version": self.shown.get((key, one), 0)} for one in ids],
            outcome=outcome,
            value=label if outcome == "answer" else None,
            comment=f"comment {self.number}",
        )
        result = self.send(person, submission, adjudicates)
        saved = submission.outcome, submission.value, submission.comment
        for one in submission.items:
            versions = self.expected.setdefault((one.id, seat), [])
            is_current = one.version == len(versions)
            if result.status == SAVED:
                assert is_current
                versions.append(saved)
        if result.status == CONFLICT:
            later = {one["item"]: one["version"] for one in result.content["conflicts"]}
            stale = {
                one.id
                for one in submission.items
                if one.version != len(self.expected[(one.id, seat)])
            }
            assert later == {one: len(self.expected[(one, seat)]) for one in stale}
            self.conflicts.add((person.id, submission.key))
        for one in ids:
            self.shown[(key, one)] = len(self.expected[(one, seat)])
        return (person, submission, adjudicates, result)

    @rule(entry=sent)
    def send_again(self, entry) -> None:
        """The response was lost after the commit: the page sends the same submission again."""
        person, submission, adjudicates, result = entry
        assert self.send(person, submission, adjudicates) == result

    @rule(giver=st.sampled_from(PEOPLE), taker=st.sampled_from([*PEOPLE, None]))
    def reassign(self, giver, taker) -> None:
        with self.database.write() as session:
            reassign_items(session, self.queue, giver.id, taker)

    def send(self, person, submission, adjudicates):
        with self.database.write() as session:
            return submit_decision(session, self.queue, person, submission, adjudicates=adjudicates)

    @invariant()
    def nothing_is_lost_or_overwritten(self) -> None:
        with self.database.read() as session:
            stored: dict[tuple[int, str], list[Saved]] = {}
            for one in session.scalars(select(ReviewDecision).order_by(ReviewDecision.version)):
                key = one.item_id, one.seat
                stored.setdefault(key, []).append((one.outcome, one.value, one.comment))
            assert stored == {key: saved for key, saved in self.expected.items() if saved}
            refused = session.scalars(select(ReviewSubmission).filter_by(status=CONFLICT))
            assert {(one.reader_id, one.key) for one in refused} == self.conflicts

    @invariant()
    def states_follow_from_the_latest_decisions(self) -> None:
        with self.database.read() as session:
            for item in session.scalars(select(ReviewItem)):
                latest = {
                    seat: saved[-1]
                    for (one, seat), saved in self.expected.items()
                    if one == item.id and saved and saved[-1][0] in READ_OUTCOMES
                }
                settled = latest.pop(ADJUDICATION, None)
                assert item.decided == len(latest)
                values = {value for _, value, _ in latest.values()}
                state = (
                    ItemState.SETTLED
                    if settled
                    else ItemState.OPEN
                    if len(latest) < item.readers_wanted
                    else ItemState.AGREED
                    if len(values) == 1 and None not in values
                    else ItemState.DISPUTED
                )
                assert item.state == state

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize(
    "steps", [200, pytest.param(1000, marks=pytest.mark.scale)], ids=["200 steps", "1,000 steps"]
)
def test_no_interleaving_loses_or_overwrites_a_decision(runs: Runs, steps: int) -> None:
    ReviewMachine.run_folder = runs("passes")
    run_state_machine_as_test(
        ReviewMachine,
        settings=settings(
            max_examples=steps // 20,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    opened = open_test_database(database_url or f"sqlite:///{tmp_path}/review.db")
    yield opened
    opened.close()


def run_at_once(actions: list[Callable[[], Any]]) -> list[Any]:
    barrier = Barrier(len(actions))

    def run(action: Callable[[], Any]) -> Any:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def test_of_decisions_at_the_same_moment_one_is_saved_and_the_others_conflict(database, runs):
    queue = make_queue(database, runs("passes"))
    with database.read() as session:
        ids = list(session.scalars(select(ReviewItem.id).order_by(ReviewItem.id)))

    def submit(number: int, order: list[int]) -> int:
        submission = Submission(
            key=f"at-once-{number}",
            items=[{"id": one} for one in order],
            outcome="answer",
            value=LABELS[number % 3],
        )
        with database.write() as session:
            return submit_decision(session, queue, PEOPLE[0], submission).status

    actions = [
        lambda number=number: submit(number, ids if number % 2 else ids[::-1])
        for number in range(6)
    ]
    assert sorted(run_at_once(actions)) == [SAVED, *[CONFLICT] * 5]


def test_the_same_submission_sent_at_the_same_moment_is_saved_once(database, runs):
    queue = make_queue(database, runs("passes"))
    with database.read() as session:
        item = session.scalars(select(ReviewItem.id)).first()
    submission = Submission(
        key="sent-many-times", items=[{"id": item}], outcome="answer", value="other"
    )

    def submit() -> Any:
        with database.write() as session:
            return submit_decision(session, queue, PEOPLE[0], submission)

    results = run_at_once([submit] * 5)
    assert {result.status for result in results} == {SAVED}
    assert all(result == results[0] for result in results)
    with database.read() as session:
        assert len(session.scalars(select(ReviewDecision)).all()) == 1


def test_readers_who_load_at_the_same_moment_get_different_items(database, runs):
    queue = make_queue(database, runs("passes"))

    def load(person: User) -> set[int]:
        with database.write() as session:
            return {item["id"] for item in load_next_items(session, queue, person, 1)}

    loaded = run_at_once([lambda person=person: load(person) for person in PEOPLE])
    assert len(set().union(*loaded)) == sum(map(len, loaded)) == 4

"""A review of many different texts: the time of its job, of the list, of rows and of decisions.

    pip install 'medtask[serve]'
    python benchmarks/large_review.py --texts 40000

The steps are those of the server on SQLite, in one process. "processor_s" does not depend on what
else the machine does, "s" does.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from medtask.server.access.accounts import create_account
from medtask.server.access.roles import Role, User
from medtask.server.review.decisions import Submission, submit_decision
from medtask.server.review.progress import count_left_for, describe_progress
from medtask.server.review.queues import add_queue, draft_queue, fill_queue
from medtask.server.review.settings import QueueSettings
from medtask.server.review.sources import open_table_source
from medtask.server.review.tables import ReviewQueue
from medtask.server.review.views import load_next_items
from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings
from medtask.tables.read import read_table
from medtask.tasks.load import load_task

TASK = """\
name: notes
instruction: Which organ?
input: "{{ text }}"
id: id
answer: {kind: label, labels: [lung, liver, knee]}
"""
WORDS = ("cough", "fever", "pain", "left", "right", "lobe", "mild", "acute", "mass", "cyst")
Steps = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=40_000)
    count = parser.parse_args().texts
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"texts": count, **measure(Path(folder), count)}))


def measure(folder: Path, count: int) -> Steps:
    """The seconds of each step."""
    steps: Steps = {}
    (folder / "task.yaml").write_text(TASK)
    source = open_table_source(load_task(folder), read_table(list_rows(count)), "data set 1")
    settings = QueueSettings()
    with closing(open_database(ServerSettings(folder / "data"))) as database:
        with database.write() as session:
            account = create_account(session, "reader", Role.REVIEWER)
        reader = User(account.id, account.name, Role.REVIEWER)
        with time_step(steps, "select_and_order"):
            drafted = draft_queue(source, settings)
        with time_step(steps, "store"), database.write() as session:
            queue = add_queue(session, source, settings=settings, name="", created_by=reader)
            fill_queue(session, queue, source, drafted)
            number = queue.id

        def write(step: str, work: Callable[[Any, ReviewQueue], Any]) -> Any:
            with time_step(steps, step), database.write() as session:
                queue = session.get(ReviewQueue, number)
                assert queue is not None
                return work(session, queue)

        write("list", describe_progress)
        write("list", lambda session, queue: count_left_for(session, queue.id, reader.id))
        items = write("next_20", lambda session, queue: load_next_items(session, queue, reader, 20))
        decision = Submission.model_validate(
            {"key": "measured", "items": [{"id": items[0]["id"]}], "outcome": "answer"}
            | {"value": "lung"}
        )
        write("decide", lambda session, queue: submit_decision(session, queue, reader, decision))
    return steps


def list_rows(count: int) -> list[dict[str, str]]:
    dice = random.Random(1)
    return [
        {"id": str(number), "text": f"case {number}: {' '.join(dice.choices(WORDS, k=40))}"}
        for number in range(count)
    ]


@contextmanager
def time_step(steps: Steps, name: str) -> Iterator[None]:
    """Add the time of a block to a step."""
    begun, processor = time.perf_counter(), time.process_time()
    yield
    found = steps.setdefault(name, {"s": 0.0, "processor_s": 0.0})
    found["s"] = round(found["s"] + time.perf_counter() - begun, 3)
    found["processor_s"] = round(found["processor_s"] + time.process_time() - processor, 3)


if __name__ == "__main__":
    main()

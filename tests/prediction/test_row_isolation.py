"""S8: the text of one row is in no prompt and no answer of another row."""

from __future__ import annotations

import re
from collections.abc import Sequence

import medtask
from medtask.engines.fake import FakeEngine
from medtask.records import Prompt, Scores
from medtask.tasks.task import Label, SingleLabel, Task

ROWS = 10_000
CANARY = re.compile(r"CANARY-\d+-")


class RecordingEngine(FakeEngine):
    """Keeps which canaries are in the prompt of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[str]] = {}

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        for prompt in batch:
            # Everything that the prompt holds, also what only some engines read.
            self.seen[prompt.record_id] = set(CANARY.findall(repr(prompt)))
        return super().score_batch(batch)


def test_ten_thousand_rows_see_their_own_text_alone() -> None:
    task = Task(
        name="t",
        instruction="Read the note.",
        input="{{ note }}",
        answer_spec=SingleLabel(),
        labels=(Label("wound", "", "wound"), Label("burn", "", "burn")),
        id_column="id",
    )
    rows = [{"id": f"n{row}", "note": f"CANARY-{row}- of the hand"} for row in range(ROWS)]
    engine = RecordingEngine()
    answers = list(medtask.predict(task, engine, rows))
    assert engine.seen == {f"n{row}": {f"CANARY-{row}-"} for row in range(ROWS)}
    assert [answer.record_id for answer in answers] == [str(row["id"]) for row in rows]
    assert not any(CANARY.search(repr(answer)) for answer in answers)

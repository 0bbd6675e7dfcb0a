"""Kind `label`: gold."""

from __future__ import annotations

from medtask.tasks.rows import read_gold
from medtask.tasks.task import FreeText, SingleLabel
from support.task_texts import LABEL_NAMES, make_task


def test_one_label_and_free_text_are_stripped_text():
    assert read_gold(make_task(SingleLabel(), LABEL_NAMES), {}, " heart ") == "heart"
    assert read_gold(make_task(FreeText()), {}, " ['a'] ") == "['a']"
    assert read_gold(make_task(SingleLabel(), ["7"]), {}, 7) == "7"

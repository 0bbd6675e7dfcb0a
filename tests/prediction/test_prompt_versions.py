from dataclasses import replace

from medtask.engines.fake import FakeEngine
from medtask.prediction.prompt_versions import match_prompts
from medtask.records import PROMPT_VERSION
from medtask.tasks.fingerprint import (
    describe_task,
    fingerprint_task,
    match_prompt_versions,
    restore_earlier_settings,
)
from medtask.tasks.task import Label, Pass, PassCondition, Task

FIRST = Task(
    "side",
    "Decide which side is meant.",
    "{{ text }}",
    labels=(Label("left", "", "left"), Label("right", "", "right")),
)
AGAIN = Pass("again", PassCondition(confidence_below=0.9), FIRST, model="larger")
TASK = replace(FIRST, passes=(AGAIN,))
TASK = replace(TASK, fingerprint=fingerprint_task(TASK))


def make_engine(version: int | None) -> FakeEngine:
    engine = FakeEngine()
    engine.info = replace(engine.info, prompt_version=version)
    return engine


def test_each_pass_has_the_prompts_that_its_model_was_trained_on() -> None:
    matched = match_prompts(TASK, make_engine(1), {"larger": make_engine(None)})
    assert (matched.prompt_version, matched.passes[0].task.prompt_version) == (1, PROMPT_VERSION)
    matched = match_prompts(TASK, make_engine(None), {"larger": make_engine(1)})
    assert (matched.prompt_version, matched.passes[0].task.prompt_version) == (PROMPT_VERSION, 1)
    assert matched.fingerprint == fingerprint_task(matched) != TASK.fingerprint


def test_a_model_that_was_not_trained_here_changes_no_task() -> None:
    assert match_prompts(TASK, make_engine(None), {"larger": make_engine(None)}) is TASK


def test_a_run_keeps_the_prompts_that_it_was_started_with() -> None:
    earlier = match_prompt_versions(FIRST, 1, {})
    assert restore_earlier_settings(FIRST, describe_task(earlier)) == earlier
    current = replace(FIRST, fingerprint=fingerprint_task(FIRST))
    assert restore_earlier_settings(current, describe_task(current)) is current


def test_the_version_is_among_the_facts_of_a_task() -> None:
    earlier = match_prompt_versions(FIRST, 1, {})
    assert describe_task(earlier)["prompt_version"] == "1"
    assert {**describe_task(FIRST), "prompt_version": "1"} == describe_task(earlier)

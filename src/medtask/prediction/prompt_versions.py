"""The prompts of a task in the version that its models were trained on."""

from __future__ import annotations

from collections.abc import Mapping

from medtask.engines.base import Engine
from medtask.tasks.fingerprint import match_prompt_versions
from medtask.tasks.task import Task


def match_prompts(task: Task, engine: Engine, pass_engines: Mapping[str, Engine]) -> Task:
    """The task with the prompts that its models were trained on.

    ``pass_engines`` are the models of further passes, by their references. Models that medtask did
    not train are asked with the task's own prompts.
    """
    versions = {name: one.info.prompt_version for name, one in pass_engines.items()}
    return match_prompt_versions(task, engine.info.prompt_version, versions)

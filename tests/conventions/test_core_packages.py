"""S23: what `pip install medtask` brings; `make release-check` looks at what pip chooses."""

from __future__ import annotations

from typing import Any

from release.resolved_packages import find_core_problems


def make_item(name: str, file: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "download_info": {"url": f"https://files.example/{file}#sha256=0"},
    }


def test_few_wheels_are_no_problem() -> None:
    assert find_core_problems([make_item("a", "a-1-py3-none-any.whl")], 1) == []


def test_too_many_packages_and_those_without_a_wheel_are_problems() -> None:
    items = [make_item("a", "a-1-py3-none-any.whl"), make_item("b", "b-1.tar.gz")]
    too_many, no_wheel = find_core_problems(items, 1)
    assert too_many == "2 packages, more than 1"
    assert no_wheel == "b has no wheel: https://files.example/b-1.tar.gz"

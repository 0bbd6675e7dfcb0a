"""Files stay small enough to be read in one go, and functions small enough to be read at one
glance.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "medtask"
MODULES = sorted(SOURCE.rglob("*.py"))
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base_utils", "manager"}


def name_module(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_a_file_has_at_most_600_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 600


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_the_body_of_a_function_has_at_most_90_lines(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = {node.name: (node.end_lineno or 0) - node.body[0].lineno + 1 for node in functions}
    assert not {name: count for name, count in lines.items() if count > 90}


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_a_module_with_code_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not tree.body or ast.get_docstring(tree)


def test_no_module_has_a_catch_all_name() -> None:
    assert not [
        name_module(path)
        for path in MODULES
        if path.stem in BANNED_NAMES or path.parent.name in BANNED_NAMES
    ]

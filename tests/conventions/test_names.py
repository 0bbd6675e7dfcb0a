"""The public names: declared for type checkers, loaded on first touch, and the same in both
places.
"""

from __future__ import annotations

import ast
from importlib.metadata import version
from pathlib import Path

import pytest

import medtask
from support.source_tree import find_duplicate_classes

TREE = ast.parse(Path(medtask.__file__).read_text("utf-8"))


def read_declared_names() -> dict[str, str]:
    """Name -> module, as the imports for type checkers have them."""
    blocks = [node for node in TREE.body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name: str(node.module) for node in imports for alias in node.names
    }


@pytest.mark.parametrize("name", medtask.__all__)
def test_a_public_name_can_be_imported(name: str) -> None:
    assert getattr(medtask, name) is not None


def test_no_package_has_the_name_of_a_public_function() -> None:
    modules = {path.stem for path in Path(medtask.__file__).parent.iterdir()}
    # Once imported, the module would take the function's place.
    assert not modules & set(medtask.__all__)


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    assert read_declared_names() == medtask._PUBLIC_MODULES
    assert sorted({*medtask._PUBLIC_MODULES, "__version__"}) == medtask.__all__ == dir(medtask)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode_task'"):
        _ = medtask.lode_task


def test_the_version_is_that_of_the_package() -> None:
    assert medtask.__version__ == version("medtask")


def test_a_class_name_exists_once() -> None:
    assert find_duplicate_classes() == {}

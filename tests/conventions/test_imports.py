"""No module imports itself through others. Packages are checked by import-linter (pyproject.toml),
which does not see imports of a package's own `__init__`.
"""

from __future__ import annotations

from support.source_tree import find_import_cycles


def test_no_module_imports_itself_through_others() -> None:
    assert not find_import_cycles()

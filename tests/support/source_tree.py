"""The package's source as syntax trees, and lists of the modules and functions that break a
convention.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "medtask"
MODULES = {
    path.relative_to(SOURCE).as_posix(): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.parent.name != "versions"  # migrations are written by alembic: one long function each
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parse_module(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text("utf-8"))


def iterate_functions() -> Iterator[tuple[str, str, Function, bool]]:
    """Module, qualified name, node and whether it is a method, for every function of the package.

    A function inside another one has the outer one's name before its own.
    """
    for module in MODULES:
        for scope, node in _iterate_definitions(parse_module(module), ()):
            if isinstance(node, Function):
                is_method = bool(scope) and isinstance(scope[-1], ast.ClassDef)
                name = ".".join(outer.name for outer in (*scope, node))
                yield module, name, node, is_method


def find_duplicate_classes() -> dict[str, list[str]]:
    """Class name without leading underscores -> the modules that define it, where several do."""
    modules = defaultdict(list)
    for module in MODULES:
        for _, node in _iterate_definitions(parse_module(module), ()):
            if isinstance(node, ast.ClassDef):
                modules[node.name.lstrip("_")].append(module)
    return {name: found for name, found in modules.items() if len(found) > 1}


def count_parameters(node: Function, is_method: bool) -> tuple[int, int]:
    """Positional and keyword-only parameters, without ``self`` or ``cls``."""
    positional = [*node.args.posonlyargs, *node.args.args]
    if is_method and positional and positional[0].arg in ("self", "cls"):
        positional = positional[1:]
    return len(positional), len(node.args.kwonlyargs)


def count_body_lines(node: Function) -> int:
    """Lines of the body without the docstring: documented options do not make a function long."""
    first = node.body[1:2] if ast.get_docstring(node) else node.body[:1]
    return (node.end_lineno or 0) - first[0].lineno + 1 if first else 0


def find_import_cycles() -> set[str]:
    """The modules that import themselves through others; imports for type checkers count, too."""
    import grimp

    graph = grimp.build_graph("medtask", cache_dir=None)
    return {
        name.removeprefix("medtask.")
        for name in graph.modules
        if any(
            graph.chain_exists(importer=imported, imported=name)
            for imported in graph.find_modules_directly_imported_by(name)
        )
    }


_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _iterate_definitions(
    tree: ast.AST, scope: tuple[_Definition, ...]
) -> Iterator[tuple[tuple[_Definition, ...], _Definition]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _Definition):
            yield scope, node
            yield from _iterate_definitions(node, (*scope, node))
        else:
            yield from _iterate_definitions(node, scope)

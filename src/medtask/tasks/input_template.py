"""Jinja without its powers: what a task's input may do with a row, and nothing else.

A template is refused by what it is made of before it is compiled, because Jinja evaluates constants
while it compiles. What is left cannot import or store anything and calls a few methods of text;
what can still grow, loops and text that is put together, is paid from a budget per row. So a task
file from a stranger can neither run code nor stall.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from medtask.display import format_suggestion, quote
from medtask.tables.cell_values import is_missing

MAX_TEMPLATE_LENGTH = 10_000  # characters
MAX_DEPTH = (
    40  # of expressions and blocks: the time to compile a template grows with the cube of it
)
MAX_RENDERED_LENGTH = 5_000_000  # characters that one row may make
MAX_LOOP_STEPS = 10_000  # turns of loops that one row may take

_ALLOWED_METHODS = frozenset(
    {
        "capitalize",
        "endswith",
        "get",
        "items",
        "keys",
        "lower",
        "lstrip",
        "removeprefix",
        "removesuffix",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "upper",
        "values",
    }
)
_ALLOWED_FILTERS = frozenset(
    {
        "capitalize",
        "count",
        "d",
        "default",
        "first",
        "float",
        "int",
        "items",
        "join",
        "last",
        "length",
        "lower",
        "replace",
        "reverse",
        "sort",
        "string",
        "title",
        "trim",
        "truncate",
        "unique",
        "upper",
        "wordcount",
    }
)
# No arithmetic that grows (* ** %), no set, macro, include, import, block, call of anything but the
# methods above.
_ALLOWED_NODES = (
    *(
        nodes.Template,
        nodes.Output,
        nodes.TemplateData,
        nodes.Const,
        nodes.Name,
        nodes.Getattr,
        nodes.Getitem,
        nodes.Slice,
    ),
    *(nodes.If, nodes.CondExpr, nodes.For, nodes.Filter, nodes.Test, nodes.Call, nodes.Keyword),
    *(
        nodes.Compare,
        nodes.Operand,
        nodes.And,
        nodes.Or,
        nodes.Not,
        nodes.Concat,
        nodes.Add,
        nodes.Sub,
        nodes.Div,
        nodes.Neg,
        nodes.Pos,
    ),
    *(nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair),
)
_STATEMENT_NAMES: Mapping[type[nodes.Node], str] = {
    nodes.Assign: "set",
    nodes.AssignBlock: "set",
    nodes.FromImport: "from",
}


class RenderBudgetExceeded(jinja2.TemplateRuntimeError):
    """One row takes more loop turns or makes more text than it may."""


class _MissingValue(jinja2.StrictUndefined):
    """Something that a row does not have. Its message is the bare name, never a value."""

    @property
    def _undefined_message(self) -> str:
        return str(self._undefined_name)


class _RenderBudget:
    """What one row may still spend, in characters."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_RENDERED_LENGTH

    def spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            raise RenderBudgetExceeded


_current_budget: ContextVar[_RenderBudget] = ContextVar("budget")


def _count_loop_steps(items: Iterable[object]) -> Iterator[object]:
    budget = _current_budget.get()
    for item in items:
        budget.spend(MAX_RENDERED_LENGTH // MAX_LOOP_STEPS)
        yield item


def _add(left: Any, right: Any) -> Any:
    _current_budget.get().spend(sum(len(side) for side in (left, right) if isinstance(side, Sized)))
    return left + right


def _replace(value: object, old: str, replacement: str) -> str:
    text = _format_value(value)
    _current_budget.get().spend(len(text) + text.count(old) * len(replacement))
    return text.replace(old, replacement)


def _join(items: Iterable[object], separator: str = "") -> str:
    pieces = [_format_value(item) for item in items]
    _current_budget.get().spend(sum(map(len, pieces)) + len(separator) * len(pieces))
    return separator.join(pieces)


def _format_value(value: object) -> str:
    """The value as text; "" if it is missing."""
    return "" if is_missing(value) else str(value)


def _build_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=_MissingValue, finalize=_format_value, autoescape=False, loader=None
    )
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in _ALLOWED_FILTERS}
    environment.filters |= {
        "replace": _replace,
        "join": _join,
        "add": _add,
        "count turns": _count_loop_steps,
    }
    return environment


_ENVIRONMENT = _build_environment()


class _BudgetTransformer(NodeTransformer):
    """Puts whatever can grow through a filter that pays for it. The names of the filters are not
    open to templates.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        node.iter = _make_filter_node(node.iter, "count turns")
        return self.generic_visit(node)

    def visit_Add(self, node: nodes.Add) -> nodes.Node:  # noqa: N802
        return self.generic_visit(_make_filter_node(node.left, "add", node.right))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        return self.generic_visit(
            _make_filter_node(nodes.List(node.nodes, lineno=node.lineno), "join")
        )


def _make_filter_node(value: nodes.Node, name: str, *arguments: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)


@dataclass(frozen=True, slots=True, eq=False)
class InputTemplate:
    """A template that was read.

    ``columns``: every column it names, with the line of the template. ``whole_row``: it also uses
    ``row`` in a way that names no column. ``value_paths``: what it may find missing, as it is
    written there. ``faults``: (line, message); where there are any, ``compiled`` is None.
    """

    columns: Mapping[str, int]
    whole_row: bool
    value_paths: Mapping[str, str]
    faults: tuple[tuple[int, str], ...] = ()
    compiled: jinja2.Template | None = None


@lru_cache(maxsize=64)
def read_template(source: str) -> InputTemplate:
    """Parse, check and compile a task's input. Never raises: what is wrong stands in ``faults``."""
    if len(source) > MAX_TEMPLATE_LENGTH:
        return _make_invalid_template(
            1, f"the template is longer than {MAX_TEMPLATE_LENGTH:,} characters"
        )
    try:
        tree = _ENVIRONMENT.parse(source)
        if _is_deep(tree):
            return _make_invalid_template(1, f"the template is nested more than {MAX_DEPTH} deep")
        if faults := tuple(_find_faults(tree)):
            return InputTemplate({}, False, {}, faults)
        columns, whole_row = _find_columns(tree)
        value_paths = _find_value_paths(tree)
        return InputTemplate(
            columns,
            whole_row,
            value_paths,
            (),
            _ENVIRONMENT.from_string(_BudgetTransformer().visit(tree)),
        )
    except jinja2.TemplateSyntaxError as error:
        return _make_invalid_template(error.lineno, f"the template is not Jinja: {error.message}")
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        return _make_invalid_template(
            1,
            f"the template is nested more than {MAX_DEPTH} deep, "
            "or holds a number that is too long",
        )


def render_template(template: InputTemplate, fields: Mapping[str, object]) -> str:
    """The input of one row. Raises Overlong, jinja2.UndefinedError, or whatever the row's values
    raise.
    """
    if template.compiled is None:
        raise jinja2.TemplateRuntimeError("the template has faults")
    budget = _RenderBudget()
    token = _current_budget.set(budget)
    try:
        pieces = []
        for piece in template.compiled.generate({**fields, "row": fields}):
            budget.spend(len(piece))
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _current_budget.reset(token)


def _make_invalid_template(line: int, message: str) -> InputTemplate:
    return InputTemplate({}, False, {}, ((line, message),))


def _is_deep(tree: nodes.Template) -> bool:
    level: list[nodes.Node] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
    return bool(level)


def _find_faults(tree: nodes.Template) -> Iterator[tuple[int, str]]:
    methods = _find_methods(tree)
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, _ALLOWED_NODES):
            what = getattr(node, "operator", None) or _STATEMENT_NAMES.get(
                type(node), type(node).__name__.lower()
            )
            yield (
                node.lineno,
                (
                    f'the template may not use "{what}": it reads columns, tests them and loops '
                    "over "
                    "them"
                ),
            )
        elif isinstance(node, nodes.Filter) and node.name not in _ALLOWED_FILTERS:
            hint = (
                format_suggestion(node.name, _ALLOWED_FILTERS)
                or f" - there are {', '.join(sorted(_ALLOWED_FILTERS))}"
            )
            yield node.lineno, f"unknown filter {quote(node.name)}{hint}"
        elif isinstance(node, nodes.Test) and node.name not in _ENVIRONMENT.tests:
            yield (
                node.lineno,
                f"unknown test {quote(node.name)}"
                f"{format_suggestion(node.name, _ENVIRONMENT.tests)}",
            )
        elif isinstance(node, nodes.Call) and not _is_plain_method(node):
            yield (
                node.lineno,
                f"the template may only call the methods {', '.join(sorted(_ALLOWED_METHODS))}",
            )
        elif _accesses_private(node):
            yield (
                node.lineno,
                (
                    'the template may not reach names that begin with "_" - write row["_name"] for '
                    "such a column"
                ),
            )
        elif (
            isinstance(node, nodes.Getattr) and id(node) not in methods and hasattr(dict, node.attr)
        ):
            yield (
                node.lineno,
                f'".{node.attr}" is a method in Jinja - if it is a column, write ["{node.attr}"]',
            )
        elif isinstance(node, nodes.Name) and node.name == "self":
            yield node.lineno, '"self" is taken by Jinja - write row["self"] for such a column'
        elif isinstance(node, nodes.Name) and node.name == "row" and node.ctx == "store":
            yield node.lineno, '"row" is the whole row - give the loop variable another name'


def _accesses_private(node: nodes.Node) -> bool:
    match node:
        case nodes.Getattr(attr=name):
            return str(name).startswith("_")
        case nodes.Getitem(arg=nodes.Const(value=str(name))):
            return name.startswith("__")
    return False


def _is_plain_method(call: nodes.Call) -> bool:
    plain = not (call.dyn_args or call.dyn_kwargs)
    return plain and isinstance(call.node, nodes.Getattr) and call.node.attr in _ALLOWED_METHODS


def _find_columns(tree: nodes.Template) -> tuple[dict[str, int], bool]:
    undeclared = meta.find_undeclared_variables(tree) - {"row"}
    methods = _find_methods(tree)
    columns: dict[str, int] = {}
    unnamed = {id(name) for name in tree.find_all(nodes.Name) if name.name == "row"}
    for node in tree.find_all((nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Call)):
        match node:
            case nodes.Name(name=column) if column in undeclared:
                columns.setdefault(column, node.lineno)
                continue
            case nodes.Getitem(
                node=nodes.Name(name="row") as row, arg=nodes.Const(value=str(column))
            ):
                pass
            case nodes.Getattr(node=nodes.Name(name="row") as row, attr=column) if (
                id(node) not in methods
            ):
                pass
            case nodes.Call(
                node=nodes.Getattr(node=nodes.Name(name="row") as row, attr="get"),
                args=[nodes.Const(value=str(column)), *_],
            ):
                pass
            case _:
                continue
        columns.setdefault(column, node.lineno)
        unnamed.discard(id(row))
    return columns, bool(unnamed)


def _find_methods(tree: nodes.Template) -> set[int]:
    return {id(call.node) for call in tree.find_all(nodes.Call)}


def _find_value_paths(tree: nodes.Template) -> dict[str, str]:
    """How the template writes what it may find missing: ``date`` -> ``visit.date``."""
    value_paths: dict[str, str] = {}
    for node in tree.find_all((nodes.Name, nodes.Getattr, nodes.Getitem)):
        match node:
            case (
                nodes.Name(name=name)
                | nodes.Getattr(attr=name)
                | nodes.Getitem(arg=nodes.Const(value=str(name)))
            ):
                path = _format_value_path(node)
                value_paths[name] = path if value_paths.get(name, path) == path else name
    return value_paths


def _format_value_path(node: nodes.Node) -> str:
    match node:
        case nodes.Name(name=name):
            return str(name)
        case (
            nodes.Getattr(node=inner, attr=name)
            | nodes.Getitem(node=inner, arg=nodes.Const(value=name))
        ):
            return f"{_format_value_path(inner)}.{name}".removeprefix("row.")
    return "…"

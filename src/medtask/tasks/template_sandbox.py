"""The Jinja environment of input templates: few filters, and limits on output and loops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from medtask.tables.cell_values import is_missing

MAX_RENDERED_LENGTH = 5_000_000  # characters that one row may produce
MAX_LOOP_STEPS = 10_000  # loop steps that one row may take

ALLOWED_FILTERS = frozenset(
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


class RenderBudgetExceeded(jinja2.TemplateRuntimeError):
    """The limit of loop steps or of text was exceeded for a row."""


class _MissingValue(jinja2.StrictUndefined):
    """A missing value of a row. Its message is the bare name, never a value."""

    @property
    def _undefined_message(self) -> str:
        return str(self._undefined_name)


class _RenderBudget:
    """The remaining number of characters for one row."""

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
    """The value as text; "" if missing."""
    return "" if is_missing(value) else str(value)


def _build_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=_MissingValue, finalize=_format_value, autoescape=False, loader=None
    )
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in ALLOWED_FILTERS}
    environment.filters |= {
        "replace": _replace,
        "join": _join,
        "add": _add,
        "count turns": _count_loop_steps,
    }
    return environment


ENVIRONMENT = _build_environment()


class BudgetTransformer(NodeTransformer):
    """Wraps growing expressions in counting filters, which templates cannot name themselves."""

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


def render_with_budget(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    """The rendered text. Raises RenderBudgetExceeded, or any exception of the values."""
    budget = _RenderBudget()
    token = _current_budget.set(budget)
    try:
        pieces = []
        for piece in template.generate(variables):
            budget.spend(len(piece))
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _current_budget.reset(token)

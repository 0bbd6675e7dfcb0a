"""The Jinja environment of input templates: few filters, and limits on output and loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class PieceSource:
    """Where a piece of a rendered text comes from.

    Attributes:
        columns: The columns whose cells the piece may show; None for all columns.
        verbatim: Whether the piece is the whole cell of the only column.
    """

    columns: tuple[str, ...] | None
    verbatim: bool


_current_sources: ContextVar[list[PieceSource]] = ContextVar("sources")


def _mark_source(value: object, columns: tuple[str, ...] | None, verbatim: bool) -> object:
    _current_sources.get().append(PieceSource(columns, verbatim))
    return value


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
        "mark source": _mark_source,
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


class SourceTransformer(NodeTransformer):
    """Makes `render_pieces` report the source of each piece.

    Args:
        find_source: Returns the source of an output expression.
    """

    def __init__(self, find_source: Callable[[nodes.Expr], PieceSource]) -> None:
        self._find_source = find_source

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        node.nodes = [
            part if isinstance(part, nodes.TemplateData) else self._mark(part)
            for part in node.nodes
        ]
        return node

    def _mark(self, expression: nodes.Expr) -> nodes.Expr:
        source = self._find_source(expression)
        arguments = (nodes.Const(source.columns), nodes.Const(source.verbatim))
        return _make_filter_node(expression, "mark source", *arguments)


def _make_filter_node(value: nodes.Node, name: str, *arguments: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)


def render_with_budget(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    """The rendered text. Raises RenderBudgetExceeded, or any exception of the values."""
    return "".join(piece for piece, _ in render_pieces(template, variables))


def render_pieces(
    template: jinja2.Template, variables: Mapping[str, object]
) -> list[tuple[str, PieceSource | None]]:
    """The pieces of the rendered text.

    Each has its source if the template was compiled with a `SourceTransformer`; the template's own
    text has none.
    """
    budget, sources = _RenderBudget(), list[PieceSource]()
    tokens = _current_budget.set(budget), _current_sources.set(sources)
    try:
        pieces: list[tuple[str, PieceSource | None]] = []
        for piece in template.generate(variables):
            budget.spend(len(piece))
            pieces.append((piece, sources.pop() if sources else None))
            sources.clear()
        return pieces
    finally:
        _current_budget.reset(tokens[0])
        _current_sources.reset(tokens[1])

"""Input templates: a small subset of Jinja over the columns of a row.

The syntax tree of a template is checked before compilation, because Jinja evaluates constants while
compiling. Only a few nodes, filters and methods are allowed; `template_sandbox` limits loops and
text per row. An untrusted task file can therefore neither run code nor block the process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import jinja2
from jinja2 import meta, nodes

from medtask.display import format_suggestion, quote
from medtask.tasks.template_sandbox import (
    ALLOWED_FILTERS,
    ENVIRONMENT,
    BudgetTransformer,
    render_with_budget,
)

MAX_TEMPLATE_LENGTH = 10_000  # characters
# Depth of expressions and blocks; compile time grows with its cube.
MAX_DEPTH = 40

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
# Not allowed: arithmetic with unbounded results (* ** %), set, macro, include, import, block, and
# calls other than the methods above.
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


@dataclass(frozen=True, slots=True, eq=False)
class InputTemplate:
    """A parsed template.

    Attributes:
        columns: Every column that it names, with the line in the template.
        whole_row: Whether it also uses ``row`` without naming a column.
        value_paths: Names that a row may lack -> how the template writes them.
        faults: (line, message) pairs.
        compiled: The compiled template; None if there are faults.
    """

    columns: Mapping[str, int]
    whole_row: bool
    value_paths: Mapping[str, str]
    faults: tuple[tuple[int, str], ...] = ()
    compiled: jinja2.Template | None = None

    @property
    def uses_row(self) -> bool:
        """Whether anything of a row is in the text."""
        return self.whole_row or bool(self.columns)


# {{ Procedure name }}: the name of a column where Jinja expects an expression
_NAME_WITH_BLANKS = re.compile(r"\{\{-?\s*(\w+(?:[ -]\w+)+)\s*-?\}\}")


@lru_cache(maxsize=64)
def read_template(source: str) -> InputTemplate:
    """Parse, check and compile an input template; errors are collected in ``faults``."""
    if len(source) > MAX_TEMPLATE_LENGTH:
        return _make_invalid_template(
            1, f"the template is longer than {MAX_TEMPLATE_LENGTH:,} characters"
        )
    try:
        tree = ENVIRONMENT.parse(source)
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
            ENVIRONMENT.from_string(BudgetTransformer().visit(tree)),
        )
    except jinja2.TemplateSyntaxError as error:
        named = _NAME_WITH_BLANKS.search(source)
        name = json.dumps(named[1], ensure_ascii=False) if named else ""
        remedy = f" - write {{{{ row[{name}] }}}}" if named else ""
        return _make_invalid_template(
            error.lineno, f"the template is not Jinja: {error.message}{remedy}"
        )
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        return _make_invalid_template(
            1,
            f"the template is nested more than {MAX_DEPTH} deep, "
            "or holds a number that is too long",
        )


def render_template(template: InputTemplate, fields: Mapping[str, object]) -> str:
    """Render the input of one row.

    Raises RenderBudgetExceeded, jinja2.UndefinedError, or any exception of the row's values.
    """
    if template.compiled is None:
        raise jinja2.TemplateRuntimeError("the template has faults")
    return render_with_budget(template.compiled, {**fields, "row": fields})


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
        elif isinstance(node, nodes.Filter) and node.name not in ALLOWED_FILTERS:
            hint = (
                format_suggestion(node.name, ALLOWED_FILTERS)
                or f" - there are {', '.join(sorted(ALLOWED_FILTERS))}"
            )
            yield node.lineno, f"unknown filter {quote(node.name)}{hint}"
        elif isinstance(node, nodes.Test) and node.name not in ENVIRONMENT.tests:
            yield (
                node.lineno,
                f"unknown test {quote(node.name)}{format_suggestion(node.name, ENVIRONMENT.tests)}",
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
    """How the template writes each name that a row may lack: ``date`` -> ``visit.date``."""
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

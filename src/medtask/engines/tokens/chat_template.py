"""Renders the chat templates of model files in a sandbox with limits on time and length.

A template is a program from an untrusted file. Jinja's sandbox keeps it from running Python code.
Limits on steps, characters and time (`template_meter`) keep it from running without end. Templates
may call the same functions as in transformers (its documentation, "Writing a chat template"), so
that a model gets the same prompt in every engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from medtask.engines.tokens.template_meter import (
    STEPS_PER_CALL,
    ChatTemplateError,
    OpaqueNamespace,
    call_measured,
    check_percent_format,
    get_meter,
    iterate,
    measure_rendering,
)
from medtask.errors import InputError

MAX_TEMPLATE_CHARACTERS = 200_000  # characters; the longest template of a known family has 30,000
_MAX_REPEAT_CHARACTERS = 100_000  # characters that multiplication may make


def render_chat_template(source: str, variables: Mapping[str, Any]) -> str:
    """Render a chat template.

    Args:
        source: The Jinja source of the template.
        variables: The variables of the template, such as ``messages``.

    Raises:
        InputError: The template is not valid Jinja.
        jinja2.TemplateError: The template rejects these messages or exceeds a limit.
    """
    template = _compile_template(source)
    try:
        with measure_rendering(variables.get("messages")):
            return "".join(template.generate(dict(variables)))
    except jinja2.TemplateError:
        raise
    except Exception as error:
        # What Python raises may quote the chat.
        raise ChatTemplateError(f"the chat template fails ({type(error).__name__})") from None


@lru_cache(maxsize=8)
def _compile_template(source: str) -> jinja2.Template:
    try:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ValueError
        return _ENVIRONMENT.from_string(_MeteredNodes().visit(_ENVIRONMENT.parse(source)))
    except (
        jinja2.TemplateSyntaxError,
        SyntaxError,
        RecursionError,
        MemoryError,
        ValueError,
    ) as error:
        raise InputError(
            f"the model's chat template is not valid Jinja ({type(error).__name__})",
            fix="take another model, or repair its template",
        ) from None


class _ChatTemplateSandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        counts = [side for side in (left, right) if isinstance(side, int)]
        if (
            operator == "**"
            or (sizes and counts and sizes[0] * max(counts) > _MAX_REPEAT_CHARACTERS)
            or any(abs(count) > 10**12 for count in counts)
        ):
            raise SecurityError("the chat template multiplies too much")
        if operator == "%" and isinstance(left, str):
            check_percent_format(left)
            get_meter().count_value(right)
        result = super().call_binop(context, operator, left, right)
        get_meter().count_value(result)
        return result

    def call(self, context: Any, obj: Any, *arguments: Any, **named: Any) -> Any:
        get_meter().count_steps(STEPS_PER_CALL)
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        subject = getattr(method, "__self__", None)
        return call_measured(
            partial(super().call, context, obj),
            str(getattr(method, "__name__", "")),
            subject if isinstance(subject, str | list | tuple | dict) else None,
            *arguments,
            **named,
        )


class _MeteredNodes(NodeTransformer):
    """Wraps what can repeat work or make texts in filters that count it.

    Templates cannot use the names of these filters.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _wrap(node.iter, "count turns")
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_wrap(child, "count value") for child in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _wrap(nodes.List(node.nodes, lineno=node.lineno), "concatenate values")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        is_slice = isinstance(node.arg, nodes.Slice) and node.ctx == "load"
        return _wrap(node, "count value") if is_slice else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _wrap(node, "count comparison")

    visit_Test = visit_Compare  # noqa: N815

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        return node if is_target else _wrap(node, "count value")

    visit_Tuple = visit_Dict = visit_List  # noqa: N815


def _wrap(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _GenerationTag(Extension):
    """``{% generation %}`` marks the model's turns for training; transformers renders its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


# The context argument keeps jinja from computing a filter when it compiles a template.
@jinja2.pass_context
def _limit_loop(context: Any, items: Iterable[object]) -> Sequence[object]:
    # A template may need the length of the iterable (loop.last), which a generator does not have.
    return list(iterate(items))


@jinja2.pass_context
def _count_value(context: Any, value: Any) -> Any:
    get_meter().count_value(value)
    return value


@jinja2.pass_context
def _count_comparison(context: Any, value: Any) -> Any:
    get_meter().count_steps()
    return value


@jinja2.pass_context
def _concatenate(context: Any, values: Sequence[Any]) -> str:
    get_meter().count_value(values)
    return "".join(map(str, values))


def _measure_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with its input, arguments and result counted."""
    # Some filters are passed the context or the environment before their value.
    takes_more = hasattr(function, "jinja_pass_arg")

    @jinja2.pass_context
    def measured(context: Any, value: Any, *arguments: Any, **named: Any) -> Any:
        first = _choose_first_argument(function, context) if takes_more else ()
        call = partial(function, *first, iterate(value) if isinstance(value, Iterator) else value)
        return call_measured(call, name, value, *arguments, **named)

    return measured


def _choose_first_argument(function: Callable[..., Any], context: Any) -> tuple[Any, ...]:
    kind = str(function.jinja_pass_arg)  # type: ignore[attr-defined]
    if kind.endswith("eval_context"):
        return (context.eval_ctx,)
    return (context.environment,) if kind.endswith("environment") else (context,)


def _raise_exception(message: str) -> None:
    raise ChatTemplateError(message)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None, **unused: object
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


# Jinja's filters without those that make long texts out of short ones.
_FILTERS = (
    "abs attr batch capitalize count d default dictsort e escape first float format groupby indent "
    "int items join last length list lower map max min reject rejectattr replace reverse round "
    "safe select selectattr slice sort string sum title trim truncate unique upper urlencode "
    "wordcount"
)


def _make_environment() -> _ChatTemplateSandbox:
    environment = _ChatTemplateSandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        loader=None,
        optimized=False,  # it computes filters when a template is compiled
        extensions=["jinja2.ext.loopcontrols", _GenerationTag],
    )
    filters = {name: environment.filters[name] for name in _FILTERS.split()} | {"tojson": _to_json}
    environment.filters = {
        name: _measure_filter(name, function) for name, function in filters.items()
    }
    environment.filters |= {
        "count turns": _limit_loop,
        "count value": _count_value,
        "count comparison": _count_comparison,
        "concatenate values": _concatenate,
    }
    environment.globals |= {
        "namespace": OpaqueNamespace,
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
    }
    del environment.globals["lipsum"], environment.globals["cycler"]
    return environment


_ENVIRONMENT = _make_environment()

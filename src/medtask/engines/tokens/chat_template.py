"""Renders the chat templates of model files in a sandbox with limits on time and length.

A template is a program from an untrusted file. Jinja's sandbox keeps it from running Python code.
The limits on loop iterations and characters keep it from running without end. Templates may call
the same functions as in transformers (its documentation, "Writing a chat template"), so that a
model gets the same prompt in every engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from medtask.errors import InputError

MAX_TEMPLATE_CHARACTERS = 200_000  # characters; the longest template of a known family has 30,000
MAX_RENDERED_CHARACTERS = 20_000_000  # characters of a rendered chat
MAX_LOOP_ITERATIONS = 1_000_000  # of loops, in one chat
MAX_REPEAT_CHARACTERS = 100_000  # characters that multiplication may make

_iterations_left: ContextVar[list[int]] = ContextVar("turns_left")


class ChatTemplateError(jinja2.TemplateRuntimeError):
    """The template rejected the chat or exceeded a limit."""


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
    token = _iterations_left.set([MAX_LOOP_ITERATIONS])
    try:
        pieces, length = [], 0
        for piece in template.generate(dict(variables)):
            length += len(piece)
            if length > MAX_RENDERED_CHARACTERS:
                raise ChatTemplateError("the chat template writes too much")
            pieces.append(piece)
        return "".join(pieces)
    except (RecursionError, MemoryError, OverflowError):
        raise ChatTemplateError("the chat template does too much") from None
    finally:
        _iterations_left.reset(token)


@lru_cache(maxsize=8)
def _compile_template(source: str) -> jinja2.Template:
    try:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ValueError
        return _ENVIRONMENT.from_string(_ChatLoopLimiter().visit(_ENVIRONMENT.parse(source)))
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
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        counts = [side for side in (left, right) if isinstance(side, int)]
        if (
            operator == "**"
            or (sizes and counts and sizes[0] * max(counts) > MAX_REPEAT_CHARACTERS)
            or any(abs(count) > 10**12 for count in counts)
        ):
            raise SecurityError("the chat template multiplies too much")
        return super().call_binop(context, operator, left, right)


class _ChatLoopLimiter(NodeTransformer):
    """Wraps the iterable of each loop in a filter that counts iterations. Templates cannot use the
    name of the filter.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        node.iter = nodes.Filter(node.iter, "count turns", [], [], None, None, lineno=node.lineno)
        return self.generic_visit(node)


def _limit_loop(items: Iterable[object]) -> Sequence[object]:
    # A template may need the length of the iterable (loop.last), which a generator does not have.
    return list(_count_iterations(items))


def _count_iterations(items: Iterable[object]) -> Iterator[object]:
    iterations_left = _iterations_left.get()
    for item in items:
        iterations_left[0] -= 1
        if iterations_left[0] < 0:
            raise ChatTemplateError("the chat template loops too often")
        yield item


def _raise_exception(message: str) -> None:
    raise ChatTemplateError(message)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None, **unused: object
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _make_environment() -> _ChatTemplateSandbox:
    environment = _ChatTemplateSandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        loader=None,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters |= {"tojson": _to_json, "count turns": _limit_loop}
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
    }
    del environment.globals["lipsum"], environment.globals["cycler"]
    return environment


_ENVIRONMENT = _make_environment()

"""Chat templates of model files, rendered without their powers: no code, no endless loop, no
endless text.

A template comes with a foreign file and is a program. Jinja's sandbox keeps it from Python; the
budget keeps it from stalling: every turn of a loop and every character is paid for. What templates
may call besides is what transformers gives them (its docs, "Writing a chat template"), so that a
model is spoken to alike everywhere.
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

MAX_TEMPLATE = 200_000  # characters; the longest template of a known family has 30,000
MAX_TEXT = 20_000_000  # characters of a rendered chat
MAX_TURNS = 1_000_000  # of loops, in one chat
MAX_REPEAT = 100_000  # characters that multiplication may make

_turns_left: ContextVar[list[int]] = ContextVar("turns_left")


class TemplateError(jinja2.TemplateRuntimeError):
    """The template refused the chat, or takes more than it may."""


def render_chat(source: str, variables: Mapping[str, Any]) -> str:
    """The text that a chat template makes of its variables (``messages`` and the like).

    InputError for a template that is no Jinja; jinja2.TemplateError for one that refuses these
    messages or does too much.
    """
    template = _compile(source)
    token = _turns_left.set([MAX_TURNS])
    try:
        pieces, length = [], 0
        for piece in template.generate(dict(variables)):
            length += len(piece)
            if length > MAX_TEXT:
                raise TemplateError("the chat template writes too much")
            pieces.append(piece)
        return "".join(pieces)
    except (RecursionError, MemoryError, OverflowError):
        raise TemplateError("the chat template does too much") from None
    finally:
        _turns_left.reset(token)


@lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    try:
        if len(source) > MAX_TEMPLATE:
            raise ValueError
        return _ENVIRONMENT.from_string(_Metering().visit(_ENVIRONMENT.parse(source)))
    except (
        jinja2.TemplateSyntaxError,
        SyntaxError,
        RecursionError,
        MemoryError,
        ValueError,
    ) as error:
        raise InputError(
            f"the model's chat template is no usable Jinja ({type(error).__name__})",
            fix="take another model, or repair its template",
        ) from None


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        counts = [side for side in (left, right) if isinstance(side, int)]
        if (
            operator == "**"
            or (sizes and counts and sizes[0] * max(counts) > MAX_REPEAT)
            or any(abs(count) > 10**12 for count in counts)
        ):
            raise SecurityError("the chat template multiplies too much")
        return super().call_binop(context, operator, left, right)


class _Metering(NodeTransformer):
    """Puts what a loop runs over through a filter that counts its turns. Its name is not open to
    templates.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        node.iter = nodes.Filter(node.iter, "count turns", [], [], None, None, lineno=node.lineno)
        return self.generic_visit(node)


def _count_turns(items: Iterable[object]) -> Sequence[object]:
    # A template may ask for the length of what it loops over (loop.last): a generator has none.
    return list(_pay(items))


def _pay(items: Iterable[object]) -> Iterator[object]:
    left = _turns_left.get()
    for item in items:
        left[0] -= 1
        if left[0] < 0:
            raise TemplateError("the chat template loops too often")
        yield item


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None, **ignored: object
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        loader=None,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters |= {"tojson": _to_json, "count turns": _count_turns}
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
    }
    del environment.globals["lipsum"], environment.globals["cycler"]
    return environment


_ENVIRONMENT = _environment()

"""Groups of command-line options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, get_type_hints

Command = Callable[..., None]


def add_options(
    parameter_name: str, declare: Callable[..., object]
) -> Callable[[Command], Command]:
    """A decorator that replaces one parameter of a command by a group of options for typer.

    Args:
        parameter_name: The parameter, which receives what ``declare`` returns.
        declare: A function whose parameters are the options.
    """
    shared = inspect.signature(declare, eval_str=True).parameters

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == parameter_name:
                parameters += [one.replace(kind=parameter.kind) for one in shared.values()]
            else:
                parameters.append(parameter.replace(annotation=hints[parameter.name]))

        @wraps(command)
        def call(**arguments: Any) -> None:
            values = {name: arguments.pop(name) for name in shared}
            command(**arguments, **{parameter_name: declare(**values)})

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate

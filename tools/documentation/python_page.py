"""The page of the Python API, generated from the docstrings of the public names."""

from __future__ import annotations

import inspect
from typing import Any

import griffe

import medtask
from documentation.markdown import write_code, write_table

_INTRODUCTION = """\
# Python API

These names are the public API: `import medtask`. Other modules can change in any version. Each
verb returns one object with documented attributes, `to_json()` and, where a page was written,
`report`.

"""
_OTHERS = ("medtask.sklearn.MedtaskClassifier", "medtask.client.client.MedtaskClient")


def write_python_page() -> str:
    """The page."""
    package = griffe.load("medtask", docstring_parser="google", resolve_aliases=True)
    parts = [_INTRODUCTION]
    names = [name for name in medtask.__all__ if name != "__version__"]
    functions = [name for name in names if name[0].islower()]
    classes = [name for name in names if name[0].isupper()]
    for title, listed in (("Functions", functions), ("Classes", classes)):
        parts.append(f"## {title}\n\n")
        for name in listed:
            found: Any = getattr(medtask, name)
            path = f"{found.__module__}.{found.__qualname__}"
            parts.append(_write_object(package, path, f"medtask.{name}"))
    parts.append("## Beside these\n\n")
    parts += [_write_object(package, path, path) for path in _OTHERS]
    return "".join(parts)


def _write_object(package: Any, path: str, shown: str) -> str:
    found = package[path.removeprefix("medtask.")]
    parts = [f"### {shown}\n\n"]
    if found.is_function:
        parts.append(f"```python\n{_write_signature(found, shown)}\n```\n\n")
    parts.append(_write_docstring(found))
    if found.is_class:
        parts.append(_write_members(found))
    return "".join(parts)


def _write_signature(function: Any, shown: str) -> str:
    lines = [
        f"    {'*' if one.kind is griffe.ParameterKind.var_positional else ''}{one.name}"
        + (f": {one.annotation}" if one.annotation else "")
        + (f" = {one.default}" if one.default is not None and one.required is False else "")
        for one in function.parameters
        if one.name not in {"self", "cls"}
    ]
    keyword_only = [
        index
        for index, one in enumerate(function.parameters)
        if one.kind is griffe.ParameterKind.keyword_only
    ]
    if keyword_only:
        lines.insert(keyword_only[0] - (len(function.parameters) - len(lines)), "    *")
    inner = ",\n".join(lines)
    returns = f" -> {function.returns}" if function.returns else ""
    return f"{shown}(\n{inner},\n){returns}" if lines else f"{shown}(){returns}"


def _write_docstring(found: Any) -> str:
    if found.docstring is None:
        return ""
    parts = []
    for section in found.docstring.parse("google"):
        kind = section.kind.value
        if kind == "text":
            parts.append(f"{_escape(section.value)}\n\n")
        elif kind in {"parameters", "attributes", "raises", "returns", "yields"}:
            parts.append(_write_items(kind, section.value))
        elif kind == "admonition":
            parts.append(_write_note(section.title or "Note", section.value.contents))
    return "".join(parts)


def _write_note(title: str, text: str) -> str:
    if ">>>" in text:
        return f"**{title}**\n\n```pycon\n{text}\n```\n\n"
    return f"**{title}**: {_escape(text)}\n\n"


def _write_items(kind: str, items: list[Any]) -> str:
    title = {"parameters": "Arguments", "yields": "Yields"}.get(kind, kind.capitalize())
    if kind in {"returns", "yields"}:
        text = " ".join(_escape(item.description) for item in items)
        return f"**{title}**: {' '.join(text.split())}\n\n"
    name = "exception" if kind == "raises" else "name"
    rows = [
        (
            write_code(str(item.annotation if kind == "raises" else item.name)),
            " ".join(_escape(item.description).split()),
        )
        for item in items
    ]
    return f"**{title}**\n\n{write_table((name, 'meaning'), rows)}\n"


def _write_members(found: Any) -> str:
    rows = []
    for name, member in found.all_members.items():
        public = not name.startswith("_")
        if public and (member.is_function or "property" in member.labels) and member.docstring:
            call = "()" if member.is_function else ""
            first = inspect.cleandoc(member.docstring.value).partition("\n\n")[0]
            rows.append((write_code(f"{name}{call}"), " ".join(_escape(first).split())))
    return write_table(("attribute or method", "meaning"), rows) + "\n" if rows else ""


def _escape(text: str) -> str:
    return text.replace("``", "`").replace("<", "&lt;")

"""S27: calls that run code from data, or open what must stay closed, are not in the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import medtask

PACKAGE = Path(medtask.__file__).parent
FORBIDDEN_CALLS = {
    "dill.load",
    "dill.loads",
    "eval",
    "exec",
    "joblib.load",
    "marshal.loads",
    "os.popen",
    "os.system",
    "pandas.read_pickle",
    "pd.read_pickle",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "shelve.open",
    "torch.hub.load",
    "torch.load",
    "yaml.full_load",
    "yaml.load",
    "yaml.unsafe_load",
}
# The value of each keyword argument that is refused.
FORBIDDEN_VALUES = {
    "allow_pickle": True,
    "autoescape": False,
    "shell": True,
    "trust_remote_code": True,
    "verify": False,
    "weights_only": False,
}
FORBIDDEN_IMPORTS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_TEMPLATE = re.compile(r"\|\s*safe\b|autoescape\s+false|\bon\w+\s*=\s*[\"']", re.IGNORECASE)
REVIEWED = {
    # Rows that the same process has written into a file without a name.
    ("tables/stored_rows.py", "pickle"),
    ("tables/stored_rows.py", "pickle.load"),
    # Prompts are text for a model, not HTML.
    ("engines/tokens/chat_template.py", "autoescape=False"),
    ("tasks/template_sandbox.py", "autoescape=False"),
}


def name_call(node: ast.expr) -> str:
    """The dotted name of what is called: "torch.load"."""
    if isinstance(node, ast.Attribute):
        return f"{name_call(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def find_forbidden(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if (name := name_call(node.func)) in FORBIDDEN_CALLS:
                yield name
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
                if keyword.arg in FORBIDDEN_VALUES and value is FORBIDDEN_VALUES[keyword.arg]:
                    yield f"{keyword.arg}={value}"
        elif isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in FORBIDDEN_IMPORTS)
        elif isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN_IMPORTS:
            yield node.module


def test_no_module_makes_a_forbidden_call() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 300
    found = {
        (path.relative_to(PACKAGE).as_posix(), call)
        for path in modules
        for call in find_forbidden(path.read_text("utf-8"))
    }
    assert found == REVIEWED


def test_no_template_shows_text_unescaped_or_runs_code_in_an_attribute() -> None:
    templates = [
        path for pattern in ("*.html", "*.jinja", "*.j2") for path in sorted(PACKAGE.rglob(pattern))
    ]
    assert templates
    assert not [
        (path.name, found[0])
        for path in templates
        if (found := UNSAFE_TEMPLATE.search(path.read_text("utf-8")))
    ]


def test_the_rules_find_each_forbidden_call() -> None:
    for call in FORBIDDEN_CALLS:
        assert call in set(find_forbidden(f"import x\n{call}(y)"))
    for name, value in FORBIDDEN_VALUES.items():
        assert set(find_forbidden(f"f(1, {name}={value})")) == {f"{name}={value}"}
        assert not set(find_forbidden(f"f(1, {name}={not value})"))
    for name in FORBIDDEN_IMPORTS:
        assert name in set(find_forbidden(f"import {name}"))
        assert name in set(find_forbidden(f"from {name} import y"))
    for text in ("{{ note | safe }}", "{% autoescape false %}", "<a onclick='x()'>"):
        assert UNSAFE_TEMPLATE.search(text)

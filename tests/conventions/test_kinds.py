"""A kind of question is compared by name or type in the kinds packages alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from medtask.kinds import KINDS
from support.source_tree import MODULES, parse_module

KIND_PACKAGES = ("tasks/kinds/", "prediction/kinds/", "evaluation/kinds/")
SPEC_TYPES = {"SingleLabel", "MultiLabel", "MultipleChoice", "FreeText", "Fields"}
# Words that mean something else than a kind, each with its reason.
OTHER_MEANINGS = {
    "engines/http/openai.py": "the mode in which a server restricts its output",
    "tasks/keys.py": "the answer section of a task file",
    "tasks/fewshot.py": "the column answer of a worked example",
    "tasks/task.py": "defines the types",
    "runs/output_columns.py": "the column answer",
    "runs/judgement_tables.py": "the answer that wins a comparison",
    "evaluation/comparison/annotators.py": "the method of an agreement statistic",
}


def find_dispatches(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines that compare a kind's name or an answer spec's type, or map at least two names."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                # '"labels" in row' asks for a key; 'kind in ("label", "labels")' is a dispatch.
                membership = isinstance(ops[0], ast.In | ast.NotIn)
                operands = comparators if membership else [left, *comparators]
                strings = {name for operand in operands for name in list_strings(operand)}
                if strings & KINDS.keys():
                    yield node.lineno, "comparison with a kind's name"
            case ast.MatchValue(value=ast.Constant(value=str(name))) if name in KINDS:
                yield node.lineno, "match of a kind's name"
            case ast.Dict(keys=keys) if len({key for key in keys if is_kind_name(key)}) > 1:
                yield node.lineno, "table by kinds' names"
            case ast.MatchClass(cls=ast.Name(id=name)) if name in SPEC_TYPES:
                yield node.lineno, "match of an answer spec's type"
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, types]):
                names = {inner.id for inner in ast.walk(types) if isinstance(inner, ast.Name)}
                if names & SPEC_TYPES:
                    yield node.lineno, "test of an answer spec's type"


def list_strings(node: ast.expr) -> list[str]:
    """The string, or the strings of a tuple, list or set, that an operand of a comparison is."""
    items = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return [
        item.value
        for item in items
        if isinstance(item, ast.Constant) and isinstance(item.value, str)
    ]


def is_kind_name(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value in KINDS


def test_kinds_are_compared_in_their_packages_alone() -> None:
    found = {
        f"{module}:{line} {what}"
        for module in MODULES
        if module != "kinds.py"
        and module not in OTHER_MEANINGS
        and not module.startswith(KIND_PACKAGES)
        for line, what in find_dispatches(parse_module(module))
    }
    assert not found


def test_other_meanings_are_needed_and_compare_no_types() -> None:
    for module in OTHER_MEANINGS:
        found = [what for _, what in find_dispatches(parse_module(module))]
        assert found or module == "tasks/task.py", module
        assert not [what for what in found if "type" in what], module


def test_every_form_of_dispatch_is_found() -> None:
    code = """
if task.kind == "label": pass
if task.kind in ("answer", "fields"): pass
names = {"label": 1, "choice": 2}
match spec:
    case FreeText(): pass
match kind:
    case "labels": pass
isinstance(spec, SingleLabel | Fields)
"""
    assert [line for line, _ in sorted(find_dispatches(ast.parse(code)))] == [2, 3, 4, 6, 8, 9]

"""Kinds of question by name; only the module of the kind that is used is loaded."""

from __future__ import annotations

from importlib import import_module

from medtask.evaluation.kinds.protocols import EvaluationKind
from medtask.kinds import KINDS, KindName


def get_evaluation_kind(name: KindName) -> EvaluationKind:
    """Returns the `EvaluationKind` of a kind of question."""
    kind: EvaluationKind = import_module(f"medtask.evaluation.kinds.{KINDS[name].name}").KIND
    return kind

"""Which prompts are read together: those that begin alike share a prefix, and of them as many as
fit into one pass a pack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medtask.engines.tokens.chat import Question, count_shared
from medtask.engines.tokens.tree import count_tokens
from medtask.records import Message, Prompt


@dataclass(frozen=True, slots=True)
class Unit:
    """A prompt with its questions, one per branch: what is never torn apart between packs.

    ``paths``: all that it makes the model read (without questions, the prompt itself); as a tree
    they have ``tokens``.
    """

    prompt: Prompt
    questions: tuple[Question, ...]
    paths: tuple[tuple[int, ...], ...]
    tokens: int

    def own_tokens(self, shared: int) -> int:
        return self.tokens - shared

    @property
    def longest(self) -> int:
        """Tokens of the longest question with its longest tail."""
        return max(
            (len(question.base) + question.longest for question in self.questions),
            default=len(self.paths[0]),
        )

    @property
    def asked_apart(self) -> int:
        """Tokens that would be read if each question were read for itself."""
        return sum(
            len(question.base) + sum(len(tail) - 1 for tail in question.tails if tail)
            for question in self.questions
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Units that begin with the same ``shared`` tokens."""

    shared: int
    units: tuple[Unit, ...]


def make_unit(prompt: Prompt, questions: Sequence[Question], opening: tuple[int, ...] = ()) -> Unit:
    """``opening``: the tokens of a prompt that has no questions."""
    paths = tuple(path for question in questions for path in question.paths) or (opening,)
    return Unit(prompt, tuple(questions), paths, count_tokens(paths))


def group_units(units: Sequence[Unit]) -> list[Group]:
    """Units with the same finished turns, the largest group first.

    A prefix of its own has to save more than it costs to read; where it does not (examples that few
    rows have in common) units share what all such units begin with.
    """
    if not units:
        return []
    by_turns: dict[tuple[Message, ...], list[Unit]] = {}
    for unit in units:
        by_turns.setdefault(unit.prompt.messages[:-1], []).append(unit)
    common = _count_shared(units)
    groups, others = [], []
    for alike in by_turns.values():
        shared = _count_shared(alike)
        if len(by_turns) == 1 or len(alike) * (shared - common) > shared:
            groups.append(Group(shared, tuple(alike)))
        else:
            others += alike
    if others:
        groups.append(Group(_count_shared(others), tuple(others)))
    return sorted(groups, key=lambda group: -len(group.units))


def fill_packs(group: Group, budget: int, most_paths: int | None = None) -> Iterator[list[Unit]]:
    """Longest rows first, so that memory runs out at the start or not at all; like lengths together
    waste no padding.

    A pack has at most ``budget`` tokens of its own and ``most_paths`` paths, or one unit.
    """
    pack: list[Unit] = []
    tokens = paths = 0
    for unit in sorted(group.units, key=lambda unit: -unit.tokens):
        tokens += unit.own_tokens(group.shared)
        paths += len(unit.paths)
        if pack and (tokens > budget or (most_paths is not None and paths > most_paths)):
            yield pack
            pack, tokens, paths = [], unit.own_tokens(group.shared), len(unit.paths)
        pack.append(unit)
    if pack:
        yield pack


def _count_shared(units: Sequence[Unit]) -> int:
    """Length of the prefix that all units share; each question keeps at least the token after which
    its answer begins.
    """
    least = min(
        min((question.ask for question in unit.questions), default=len(unit.paths[0]) - 1)
        for unit in units
    )
    return min(least, count_shared([path for unit in units for path in unit.paths]))

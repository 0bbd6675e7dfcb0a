"""Lessons as tokens: what is read, which tokens the model should have said, and between which it
had to choose.

A passage is all that one row makes the model read: its prompt once, behind it each branch's gold
answer (and, where candidates are weighed as texts, the other candidates too). As a tree of tokens,
what branches have in common is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medtask.engines.tokens.chat import (
    Chat,
    Question,
    ask_questions,
    defuse,
    write_opening,
    write_prompt,
)
from medtask.engines.tokens.trie import Node
from medtask.errors import EngineError
from medtask.records import Branch, Prompt, Value
from medtask.tasks.task import AnyLabels, Choice, Fields, FreeText, Task
from medtask.tasks.wording import write_answer
from medtask.train.material import Lesson

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fork:
    """A choice: behind token ``place`` of a path, one of ``tokens`` follows, of which ``gold`` (an
    index) is right.
    """

    place: int
    tokens: Tokens
    gold: int


@dataclass(frozen=True, slots=True)
class Line:
    """A path of tokens, and what is learnt along it.

    ``said``: from which token on the answer begins; each from there to the end should have followed
    the one before it. ``forks``: at which of them the model has to choose within a set.
    """

    tokens: Tokens
    said: int
    forks: tuple[Fork, ...] = ()


@dataclass(frozen=True, slots=True)
class Contest:
    """Candidates that are weighed by their whole text: ``lines`` (indices into a passage's lines),
    of which ``gold`` is right.

    ``scales``: by what each one's log-likelihood is multiplied (see decision.shares: per
    character).
    """

    lines: tuple[int, ...]
    gold: int
    scales: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """One lesson as tokens. ``lines``: the paths that are read. ``answers``: those of them that are
    gold's. ``shared``: how many tokens lie before anything is learnt; a prefix that passages share
    may not be longer.
    """

    lines: tuple[Line, ...]
    answers: tuple[int, ...]
    contests: tuple[Contest, ...] = ()

    @property
    def shared(self) -> int:
        return min(line.said for line in self.lines) - 1

    @property
    def longest(self) -> int:
        return max(len(line.tokens) for line in self.lines)


def read_passages(task: Task, chat: Chat, lessons: Sequence[Lesson]) -> list[Passage]:
    """The lessons as a model's tokens: prompts and answers as a run of the task would read and
    weigh them.
    """
    if isinstance(task.form, FreeText | Fields):
        return _read_written(task, chat, lessons)
    branches = [(lesson.prompt, branch) for lesson in lessons for branch in lesson.prompt.branches]
    questions = iter(ask_questions(chat, branches))
    golds = [
        gold
        for lesson in lessons
        for gold in find_gold(task, lesson.prompt, _require(lesson.record.gold))
    ]
    texts = [write_prompt(chat, prompt, branch) for prompt, branch in branches]
    wholes = iter(
        chat.tokenizer.encode(
            [text + tails[gold] for (text, tails), gold in zip(texts, golds, strict=True)]
        )
    )
    turn = iter(golds)
    return [
        _join(
            [
                _read_branch(task, prompt, branch, next(questions), next(wholes), next(turn))
                for branch in prompt.branches
            ]
        )
        for prompt in (lesson.prompt for lesson in lessons)
    ]


def find_gold(task: Task, prompt: Prompt, gold: Value) -> list[int]:
    """For each branch of a prompt which of its tails gold says is right."""
    match task.form:
        case AnyLabels():
            return [0 if label.name in gold else 1 for label in task.labels]
        case Choice(several=True):
            return [0 if option.letter in gold else 1 for option in prompt.options]
        case Choice():
            place = [option.letter for option in prompt.options].index(str(gold))
            # In cyclic order j, place i shows option (i + j) mod n (see decision.shares).
            return [(place - shift) % len(prompt.options) for shift in range(len(prompt.branches))]
    return [[label.name for label in task.candidates].index(str(gold))]


def _read_written(task: Task, chat: Chat, lessons: Sequence[Lesson]) -> list[Passage]:
    openings = [write_opening(chat, lesson.prompt) for lesson in lessons]
    answers = [
        write_answer(task, _require(lesson.record.gold), lesson.prompt.options)
        for lesson in lessons
    ]
    # A plain prompt ends with "Answer:", and its answer begins with a blank; a template ends with
    # its own border.
    space = "" if chat.template else " "
    bases = chat.tokenizer.encode(openings)
    pairs = zip(openings, answers, strict=True)
    wholes = chat.tokenizer.encode(
        [opening + space + defuse(chat, answer) + chat.closing for opening, answer in pairs]
    )
    return [
        Passage(
            (
                Line(
                    whole,
                    next(
                        (at for at, (a, b) in enumerate(zip(base, whole, strict=False)) if a != b),
                        len(base),
                    ),
                ),
            ),
            (0,),
        )
        for base, whole in zip(bases, wholes, strict=True)
    ]


def _read_branch(
    task: Task, prompt: Prompt, branch: Branch, question: Question, whole: Tokens, gold: int
) -> Passage:
    said = question.ask + 1
    if question.trie is not None:
        return Passage(
            (Line(whole, said, _find_forks(question.trie, len(question.base), whole, gold)),), (0,)
        )
    if all(len(tail) == 1 for tail in question.tails):
        # Letters: the share of each among all of them, after the same token.
        tokens = tuple(tail[0] for tail in question.tails)
        return Passage(
            (
                Line(
                    (*question.base, tokens[gold]),
                    said,
                    (Fork(len(question.base) - 1, tokens, gold),),
                ),
            ),
            (0,),
        )
    lines = tuple(Line(question.base + tail, len(question.base)) for tail in question.tails)
    scales = (1.0,) * len(lines)
    if isinstance(task.form, Choice) and task.form.readout == "text" and task.form.normalise:
        lengths = [len(option.text) for option in prompt.options]
        scales = tuple(sum(lengths) / len(lengths) / length for length in lengths)
    return Passage(lines, (gold,), (Contest(tuple(range(len(lines))), gold, scales),))


def _find_forks(trie: Node, start: int, whole: Tokens, gold: int) -> tuple[Fork, ...]:
    """The branchings on gold's way through the trie, whose root stands behind the first ``start``
    tokens.
    """
    forks = []
    node: Node | int = trie
    place = start
    while isinstance(node, Node):
        at = next(
            at
            for at, child in enumerate(node.children)
            if gold == child or (isinstance(child, Node) and gold in child.labels)
        )
        if whole[place] != node.tokens[at]:
            raise EngineError(
                "the answer's tokens are not those of its label", fix="report the model's name"
            )
        if len(node.tokens) > 1:
            forks.append(Fork(place - 1, node.tokens, at))
        node = node.children[at]
        place += len(node.reads) if isinstance(node, Node) else 0
    return tuple(forks)


def _join(parts: Sequence[Passage]) -> Passage:
    lines: list[Line] = []
    answers: list[int] = []
    contests: list[Contest] = []
    for part in parts:
        first = len(lines)
        lines += part.lines
        answers += [first + place for place in part.answers]
        contests += [
            Contest(tuple(first + place for place in one.lines), one.gold, one.scales)
            for one in part.contests
        ]
    return Passage(tuple(lines), tuple(answers), tuple(contests))


def _require(gold: Value | None) -> Value:
    assert gold is not None, "a lesson has gold"
    return gold

"""Training examples as tokens: paths to read, gold tokens, and choices between tokens.

A tokenized example contains all tokens that the model reads for one row: the prompt once, followed
by each branch's gold answer and, if candidates are scored by their whole text, the other
candidates. They form a tree of tokens, in which common tokens of branches are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medtask.engines.tokens.chat import (
    TokenizedBranch,
    render_branch,
    render_generation_prompt,
    tokenize_branches,
)
from medtask.engines.tokens.chat_format import ChatFormat
from medtask.engines.tokens.trie import TrieNode
from medtask.errors import EngineError
from medtask.records import Branch, Prompt
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Task
from medtask.training.training_data import TrainingExample

Tokens = tuple[int, ...]

# Weight of the loss of an answer's tokens relative to that of the choice among answers. Without it
# the model would lose the ability to generate an answer, which servers without exact scoring need.
ANSWER_LOSS_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A choice after token ``position`` of a path; ``gold_index`` is that of the gold token."""

    position: int
    allowed_tokens: Tokens
    gold_index: int


@dataclass(frozen=True, slots=True)
class TokenPath:
    """A path of tokens.

    Attributes:
        tokens: The prompt and the answer.
        answer_start: The index of the answer's first token.
        token_choices: The positions at which the model chooses among allowed tokens.
    """

    tokens: Tokens
    answer_start: int
    token_choices: tuple[TokenChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceChoice:
    """A choice among candidates that are scored by their whole text.

    Attributes:
        path_indices: The indices of the candidates' paths.
        gold_index: The index of gold among the candidates.
        scales: Factors of the candidates' log-likelihoods, for length normalisation.
    """

    path_indices: tuple[int, ...]
    gold_index: int
    scales: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One example as tokens.

    Attributes:
        paths: The paths that are read.
        gold_paths: The indices of the paths with gold answers.
        sequence_choices: The choices among whole paths.
    """

    paths: tuple[TokenPath, ...]
    gold_paths: tuple[int, ...]
    sequence_choices: tuple[SequenceChoice, ...] = ()

    @property
    def max_prefix_tokens(self) -> int:
        """Maximum length of a prefix shared with other examples, whose tokens have no loss."""
        return min(path.answer_start for path in self.paths) - 1

    @property
    def max_length(self) -> int:
        """Number of tokens of the longest path."""
        return max(len(path.tokens) for path in self.paths)


def tokenize_examples(
    task: Task, chat: ChatFormat, examples: Sequence[TrainingExample]
) -> list[TokenizedExample]:
    """Tokenize examples, with the prompts and answers that a run reads and scores."""
    if task.kind_spec.generated:
        return _tokenize_generated(task, chat, examples)
    branches = [
        (example.prompt, branch) for example in examples for branch in example.prompt.branches
    ]
    questions = iter(tokenize_branches(chat, branches))
    kind = get_task_kind(task)
    golds = [
        gold
        for example in examples
        for gold in kind.find_gold_indices(example.prompt.options, example.gold)
    ]
    texts = [render_branch(chat, prompt, branch) for prompt, branch in branches]
    wholes = iter(
        chat.tokenizer.encode(
            [text + tails[gold] for (text, tails), gold in zip(texts, golds, strict=True)]
        )
    )
    turn = iter(golds)
    return [
        _merge_branches(
            [
                _tokenize_branch(
                    task, example.prompt, branch, next(questions), next(wholes), next(turn)
                )
                for branch in example.prompt.branches
            ]
        )
        for example in examples
    ]


def _tokenize_generated(
    task: Task, chat: ChatFormat, examples: Sequence[TrainingExample]
) -> list[TokenizedExample]:
    kind = get_task_kind(task)
    openings = [render_generation_prompt(chat, example.prompt) for example in examples]
    answers = [kind.write_answer(example.gold, example.prompt.options) for example in examples]
    # A plain prompt ends with "Answer:", and its answer begins with a space; chat templates end
    # with a delimiter.
    space = "" if chat.has_template else " "
    bases = chat.tokenizer.encode(openings)
    pairs = zip(openings, answers, strict=True)
    wholes = chat.tokenizer.encode(
        [opening + space + chat.markers.escape(answer) + chat.turn_end for opening, answer in pairs]
    )
    return [
        TokenizedExample(
            (
                TokenPath(
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


def _tokenize_branch(
    task: Task,
    prompt: Prompt,
    branch: Branch,
    question: TokenizedBranch,
    answer_tokens: Tokens,
    gold: int,
) -> TokenizedExample:
    answer_start = question.answer_position + 1
    if question.trie is not None:
        return TokenizedExample(
            (
                TokenPath(
                    answer_tokens,
                    answer_start,
                    _find_token_choices(
                        question.trie, len(question.prefix_tokens), answer_tokens, gold
                    ),
                ),
            ),
            (0,),
        )
    if all(len(tail) == 1 for tail in question.candidates):
        # Option letters are a choice among single tokens after the same token.
        tokens = tuple(tail[0] for tail in question.candidates)
        return TokenizedExample(
            (
                TokenPath(
                    (*question.prefix_tokens, tokens[gold]),
                    answer_start,
                    (TokenChoice(len(question.prefix_tokens) - 1, tokens, gold),),
                ),
            ),
            (0,),
        )
    paths = tuple(
        TokenPath(question.prefix_tokens + tail, len(question.prefix_tokens))
        for tail in question.candidates
    )
    scales = get_task_kind(task).get_length_scales(prompt.options) or (1.0,) * len(paths)
    return TokenizedExample(
        paths, (gold,), (SequenceChoice(tuple(range(len(paths))), gold, scales),)
    )


def _find_token_choices(
    trie: TrieNode, start: int, answer_tokens: Tokens, gold: int
) -> tuple[TokenChoice, ...]:
    """The nodes on gold's path through the trie, whose root follows ``start`` tokens."""
    forks = []
    node: TrieNode | int = trie
    index = start
    while isinstance(node, TrieNode):
        at = next(
            at
            for at, child in enumerate(node.children)
            if gold == child or (isinstance(child, TrieNode) and gold in child.candidate_indices)
        )
        if answer_tokens[index] != node.tokens[at]:
            raise EngineError(
                "the tokens of an answer differ from those of its label",
                fix="report the model's name",
            )
        if len(node.tokens) > 1:
            forks.append(TokenChoice(index - 1, node.tokens, at))
        node = node.children[at]
        index += len(node.edge_tokens) if isinstance(node, TrieNode) else 0
    return tuple(forks)


def _merge_branches(parts: Sequence[TokenizedExample]) -> TokenizedExample:
    paths: list[TokenPath] = []
    answers: list[int] = []
    sequence_choices: list[SequenceChoice] = []
    for part in parts:
        first = len(paths)
        paths += part.paths
        answers += [first + index for index in part.gold_paths]
        sequence_choices += [
            SequenceChoice(
                tuple(first + index for index in one.path_indices), one.gold_index, one.scales
            )
            for one in part.sequence_choices
        ]
    return TokenizedExample(tuple(paths), tuple(answers), tuple(sequence_choices))

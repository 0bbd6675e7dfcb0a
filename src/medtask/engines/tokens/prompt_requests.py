"""Groups prompts by their shared prefix and splits the groups into packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medtask.engines.tokens.chat import TokenizedBranch, count_common_prefix
from medtask.engines.tokens.token_tree import count_tree_tokens
from medtask.records import Message, Prompt


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A prompt with its branches, which are always read in the same pack.

    Attributes:
        prompt: The prompt.
        tokenized_branches: The tokenised branches of the prompt.
        paths: All token sequences to read; without branches, the prompt itself.
        tree_tokens: Number of tokens of ``paths`` as a tree.
    """

    prompt: Prompt
    tokenized_branches: tuple[TokenizedBranch, ...]
    paths: tuple[tuple[int, ...], ...]
    tree_tokens: int

    def count_own_tokens(self, shared_tokens: int) -> int:
        return self.tree_tokens - shared_tokens

    @property
    def max_sequence_tokens(self) -> int:
        """Tokens of the longest branch with its longest candidate."""
        return max(
            (
                len(tokenized.prefix_tokens) + tokenized.max_candidate_tokens
                for tokenized in self.tokenized_branches
            ),
            default=len(self.paths[0]),
        )

    @property
    def unshared_tokens(self) -> int:
        """Tokens to read if each branch were read separately."""
        return sum(
            len(tokenized.prefix_tokens)
            + sum(len(candidate) - 1 for candidate in tokenized.candidates if candidate)
            for tokenized in self.tokenized_branches
        )


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Requests that share their first ``shared_tokens`` tokens."""

    shared_tokens: int
    requests: tuple[PromptRequest, ...]


def make_prompt_request(
    prompt: Prompt,
    tokenized_branches: Sequence[TokenizedBranch],
    prompt_tokens: tuple[int, ...] = (),
) -> PromptRequest:
    """Make a request; ``prompt_tokens`` are the tokens of a prompt without branches."""
    paths = tuple(path for tokenized in tokenized_branches for path in tokenized.paths) or (
        prompt_tokens,
    )
    return PromptRequest(prompt, tuple(tokenized_branches), paths, count_tree_tokens(paths))


def group_requests(requests: Sequence[PromptRequest]) -> list[PrefixGroup]:
    """Group requests with the same completed turns, the largest group first.

    A separate prefix has to save more tokens than it costs to read. Requests for which it does not
    (their examples occur in few rows) form one group with the prefix that all of them share.
    """
    if not requests:
        return []
    by_turns: dict[tuple[Message, ...], list[PromptRequest]] = {}
    for request in requests:
        by_turns.setdefault(request.prompt.messages[:-1], []).append(request)
    common_tokens = _count_shared_tokens(requests)
    groups, ungrouped = [], []
    for same_turns in by_turns.values():
        shared = _count_shared_tokens(same_turns)
        if len(by_turns) == 1 or len(same_turns) * (shared - common_tokens) > shared:
            groups.append(PrefixGroup(shared, tuple(same_turns)))
        else:
            ungrouped += same_turns
    if ungrouped:
        groups.append(PrefixGroup(_count_shared_tokens(ungrouped), tuple(ungrouped)))
    return sorted(groups, key=lambda group: -len(group.requests))


def share_tokens(total: int, rows: int) -> list[int]:
    """Tokens that rows have in common, divided evenly; the first row takes the remainder."""
    return [total // rows + (total % rows if place == 0 else 0) for place in range(rows)]


def split_into_packs(
    group: PrefixGroup, budget_tokens: int, max_sequences: int | None = None
) -> Iterator[list[PromptRequest]]:
    """Split a group into packs, the longest rows first.

    An out-of-memory error then occurs at the start or not at all. Rows of similar length need
    little padding. A pack has at most ``budget_tokens`` unshared tokens and ``max_sequences``
    paths, or a single request.
    """
    pack: list[PromptRequest] = []
    tokens = paths = 0
    for request in sorted(group.requests, key=lambda request: -request.tree_tokens):
        tokens += request.count_own_tokens(group.shared_tokens)
        paths += len(request.paths)
        if pack and (
            tokens > budget_tokens or (max_sequences is not None and paths > max_sequences)
        ):
            yield pack
            pack = []
            tokens = request.count_own_tokens(group.shared_tokens)
            paths = len(request.paths)
        pack.append(request)
    if pack:
        yield pack


def _count_shared_tokens(requests: Sequence[PromptRequest]) -> int:
    """Length of the prefix that all requests share, without the token after which an answer begins:
    each branch reads that token itself.
    """
    max_shared = min(
        min(
            (tokenized.answer_position for tokenized in request.tokenized_branches),
            default=len(request.paths[0]) - 1,
        )
        for request in requests
    )
    return min(
        max_shared, count_common_prefix([path for request in requests for path in request.paths])
    )

"""Estimates probabilities of all candidates from the token log-probabilities of one answer.

A server reports some of the most probable tokens at each position of its answer. The tokens that
continue a candidate share the probability at that position; the answer is followed token by token.
The continuations of other tokens are not observed: their probability is divided equally among the
candidates that they can still become. ``slack`` bounds the error due to this, and to the tokens
that the server did not report. If the model decorated its answer ("The answer is (B)"), the
probability of other decorations is part of it too. Candidates are compared as bytes, since a token
may end inside a character.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from medtask.engines.http.client import InvalidResponse
from medtask.engines.http.free_answers import FoundChoice, find_choice
from medtask.engines.http.protocol import ChatResponse, TokenLogprob, is_control_token
from medtask.records import Branch, BranchScores

ANSWER_KEY = "answer"  # a JSON schema must be an object for OpenAI
_JSON_START = re.compile(r'\s*\{\s*"' + ANSWER_KEY + r'"\s*:\s*"')


@dataclass(frozen=True, slots=True)
class ChoiceSpelling:
    """The whole reply for each candidate.

    Attributes:
        start: The byte at which the candidates begin.
        texts: The whole replies.
        self_terminated: Whether a text ends by itself (the closing quote of JSON), not with the
            turn.
        is_decorated: Whether the model chose the text before ``start``; without it, the candidates
            have probabilities that the server does not report.
    """

    start: int
    texts: tuple[bytes, ...]
    self_terminated: bool = False
    is_decorated: bool = False


def normalise_choices(candidates: Sequence[str]) -> tuple[str, ...]:
    """A branch's candidates as sent to a server: without surrounding whitespace and JSON quotes."""
    bare = tuple(tail.strip() for tail in candidates)
    unquoted = tuple(
        name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' and "\\" not in name else name
        for name in bare
    )
    return unquoted if len(set(unquoted)) == len(unquoted) else bare


def match_choice(text: str, choices: Sequence[str], *, json_object: bool) -> int | None:
    """The index of the choice in a reply that is constrained to them; None for another reply."""
    answer: object = text.strip()
    if json_object:
        try:
            value = json.loads(text)
            answer = value[ANSWER_KEY] if len(value) == 1 else None
        except (ValueError, TypeError, KeyError):
            return None
    return choices.index(answer) if answer in choices else None


def score_reply(
    response: ChatResponse,
    branch: Branch,
    choices: Sequence[str],
    *,
    json_object: bool,
    unmasked: bool,
) -> BranchScores | None:
    """Compute the scores of a branch from a reply; None if the reply is not one of its choices.

    Raises InvalidResponse if the log-probabilities do not belong to the answer.
    """
    text = response.text
    found = None if json_object else find_choice(text, branch, choices)
    chosen = found.index if found else match_choice(text, choices, json_object=json_object)
    if chosen is None:
        return None
    if response.token_logprobs is None or (found and found.span is None):
        return BranchScores(
            tuple(0.0 if index == chosen else -math.inf for index in range(len(choices))),
            choice_only=True,
        )
    spelling = spell_in_reply(text, found) if found else spell_in_json(text, choices, chosen)
    token_logprobs = _align_tokens(response.token_logprobs, text)
    if branch.weigh == "text":
        return _score_first_tokens(token_logprobs, spelling, unmasked)
    return _score_along_answer(token_logprobs, spelling, chosen, unmasked)


def spell_in_reply(text: str, found: FoundChoice) -> ChoiceSpelling:
    """The replies for all choices, decorated as in ``text``."""
    assert found.span is not None
    start, end = found.span
    # Without a constraint the answer's spelling may differ; that of the others is not known.
    spellings = [
        text[start:end] if index == found.index else choice
        for index, choice in enumerate(found.spellings)
    ]
    return ChoiceSpelling(
        len(text[:start].encode()),
        tuple((text[:start] + choice + text[end:].rstrip()).encode() for choice in spellings),
        is_decorated=bool(text[:start].strip()),
    )


def spell_in_json(text: str, choices: Sequence[str], chosen: int) -> ChoiceSpelling:
    """The replies for all choices, written as in ``text``, which is the JSON for ``chosen``."""
    found = _JSON_START.match(text)
    if found is None:
        raise InvalidResponse("its JSON is not written as its schema has it")
    json_start = found[0]
    # Some servers escape all characters that are not ASCII, most do not.
    escaped = not text.startswith(json_start + json.dumps(choices[chosen], ensure_ascii=False)[1:])
    texts = tuple(
        (json_start + json.dumps(choice, ensure_ascii=escaped)[1:]).encode() for choice in choices
    )
    return ChoiceSpelling(len(json_start.encode()), texts, self_terminated=True)


def _align_tokens(token_logprobs: Sequence[TokenLogprob], text: str) -> tuple[TokenLogprob, ...]:
    """The tokens of the text, without those of thoughts before it; the end of turn may follow.

    Servers that report tokens as text lose tokens that end inside a character. In that case only
    the tokens before the first such token are returned.
    """
    target = text.encode()
    for start in range(len(token_logprobs)):
        written = b""
        for at in range(start, len(token_logprobs)):
            if written == target and is_control_token(token_logprobs[at].token):
                return tuple(token_logprobs[start : at + 1])
            if not target.startswith(written + token_logprobs[at].token):
                break
            written += token_logprobs[at].token
        if written == target:
            return tuple(token_logprobs[start:])
        if start == 0 and target[len(written) : len(written) + 1] > b"\x7f":
            return tuple(token_logprobs[:at])
    raise InvalidResponse("its log-probabilities are not those of its text")


def _can_follow(remaining: bytes, token: bytes, self_terminated: bool) -> bool:
    """Whether a token could be the next one of a candidate of which ``remaining`` is left."""
    if not remaining:
        return not self_terminated and is_control_token(token)
    return bool(token) and (
        remaining.startswith(token) or (self_terminated and token.startswith(remaining))
    )


@dataclass(frozen=True, slots=True)
class _TokenPosition:
    """One position of the answer: the probability of each token that continues a candidate, and
    those candidates.

    ``written_index`` is the index of the token in the answer, ``unseen_bound`` a bound on the
    probability of such tokens that were not reported.
    """

    tokens: tuple[tuple[float, frozenset[int]], ...]
    written_index: int
    unseen_bound: float

    @property
    def seen_mass(self) -> float:
        return math.fsum(share for share, _ in self.tokens)


def _read_position(
    token_logprob: TokenLogprob, remaining: dict[int, bytes], self_terminated: bool
) -> _TokenPosition:
    logprobs = dict(token_logprob.top_logprobs)
    logprobs[token_logprob.token] = max(
        token_logprob.logprob, logprobs.get(token_logprob.token, -math.inf)
    )
    tokens = []
    for token_bytes, logprob in logprobs.items():
        members = frozenset(
            at for at, rest in remaining.items() if _can_follow(rest, token_bytes, self_terminated)
        )
        if members:
            tokens.append((token_bytes, math.exp(min(logprob, 0.0)), members))
    written_index = next(
        (at for at, token in enumerate(tokens) if token[0] == token_logprob.token), None
    )
    if written_index is None:
        raise InvalidResponse("its log-probabilities are not those of its text")
    # Each unreported token is at most as probable as the least probable reported one, and all of
    # them share the remaining probability.
    min_probability = (
        math.exp(min(logprob for _, logprob in token_logprob.top_logprobs))
        if token_logprob.top_logprobs
        else 1.0
    )
    unreported_mass = max(
        0.0, 1.0 - math.fsum(math.exp(min(logprob, 0.0)) for logprob in logprobs.values())
    )
    possible = {rest[:end] for rest in remaining.values() for end in range(1, len(rest) + 1)} | (
        {b""} if b"" in remaining.values() else set()
    )
    unseen_bound = min(unreported_mass, min_probability * max(0, len(possible) - len(tokens)))
    return _TokenPosition(
        tuple((share, members) for _, share, members in tokens), written_index, unseen_bound
    )


def _score_along_answer(
    token_logprobs: Sequence[TokenLogprob], spelling: ChoiceSpelling, chosen: int, unmasked: bool
) -> BranchScores:
    remaining = frozenset(range(len(spelling.texts)))
    probabilities, errors = [0.0] * len(remaining), [0.0] * len(remaining)
    mass, offset, off_set, lost_mass, decoration_mass = 1.0, 0, None, 0.0, 1.0
    for token_logprob in token_logprobs:
        if (len(remaining) == 1 and offset > spelling.start) or (
            not token_logprob.token and offset < len(spelling.texts[chosen])
        ):
            break  # one candidate is left, or the rest of the tokens is missing
        position = _read_position(
            token_logprob,
            {index: spelling.texts[index][offset:] for index in remaining},
            spelling.self_terminated,
        )
        reaches_choice = offset + len(token_logprob.token) > spelling.start
        if unmasked and off_set is None and reaches_choice:
            off_set = min(1.0, max(0.0, 1.0 - position.seen_mass))
        if reaches_choice:
            lost_mass += (
                mass * position.unseen_bound / (position.seen_mass + position.unseen_bound)
                if position.seen_mass + position.unseen_bound
                else mass
            )
        elif spelling.is_decorated:
            decoration_mass *= min(1.0, position.seen_mass)
        followed_mass, remaining = 0.0, position.tokens[position.written_index][1]
        for share, members in position.tokens:
            token_mass = (
                share / position.seen_mass if position.seen_mass else 1 / len(position.tokens)
            )
            if (
                members == remaining
            ):  # another tokenization of the same text, which continues like the answer
                followed_mass += token_mass
                continue
            for index in members:
                probabilities[index] += mass * token_mass / len(members)
                errors[index] += mass * token_mass * (len(members) - 1) / len(members)
        mass *= followed_mass
        offset += len(token_logprob.token)
    _assign_remaining_mass(
        probabilities, errors, mass, remaining, chosen, ended=offset == len(spelling.texts[chosen])
    )
    return BranchScores(
        tuple(map(_log_or_minus_inf, probabilities)),
        off_set,
        min(1.0, max(errors) + lost_mass + 1.0 - decoration_mass)
        if len(probabilities) > 1
        else 0.0,
    )


def _assign_remaining_mass(
    probabilities: list[float],
    errors: list[float],
    mass: float,
    remaining: frozenset[int],
    chosen: int,
    *,
    ended: bool,
) -> None:
    """Assign the remaining probability to the candidate in the answer.

    If the answer ends inside another candidate (``ended``) and the server does not report the
    probability of the end, the end was at least as probable as any continuation: of n candidates,
    the one in the answer has between 1/n and all of the probability.
    """
    count = len(remaining)
    chosen_part = (1 + 1 / count) / 2
    for index in remaining:
        probabilities[index] += mass * (
            chosen_part if index == chosen else (1 - chosen_part) / max(1, count - 1)
        )
        errors[index] += mass * (1 - chosen_part if ended or count == 1 else chosen_part)


def _score_first_tokens(
    token_logprobs: Sequence[TokenLogprob], spelling: ChoiceSpelling, unmasked: bool
) -> BranchScores:
    """The log-likelihood of each candidate's first distinct token; for an unreported token, that of
    the least probable reported one.
    """
    offset, decoration_mass = 0, 1.0
    all_choices = frozenset(range(len(spelling.texts)))
    for token_logprob in token_logprobs:
        position = _read_position(
            token_logprob,
            {one: text[offset:] for one, text in enumerate(spelling.texts)},
            spelling.self_terminated,
        )
        if any(members != all_choices for _, members in position.tokens) or len(all_choices) == 1:
            break
        offset += len(token_logprob.token)
        if spelling.is_decorated:
            decoration_mass *= min(1.0, position.seen_mass)
    probabilities = [
        math.fsum(share for share, members in position.tokens if members == {one})
        for one in all_choices
    ]
    min_logprob = min(
        [logprob for _, logprob in token_logprob.top_logprobs] or [token_logprob.logprob]
    )
    missing = sum(not share for share in probabilities)
    unreported_mass = missing * math.exp(min_logprob)
    logprobs = tuple(_log_or_minus_inf(share) if share else min_logprob for share in probabilities)
    off_set = min(1.0, max(0.0, 1.0 - position.seen_mass)) if unmasked else None
    unreported_share = (
        unreported_mass / (position.seen_mass + unreported_mass) if unreported_mass else 0.0
    )
    return BranchScores(logprobs, off_set, min(1.0, unreported_share + 1.0 - decoration_mass))


def _log_or_minus_inf(probability: float) -> float:
    return math.log(min(probability, 1.0)) if probability > 0 else -math.inf

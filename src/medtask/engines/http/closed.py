"""From one constrained answer, and the likeliest tokens along it, to the probabilities of a whole
set of candidates.

A server tells, at each place of what it wrote, some of the likeliest tokens. Those with which a
candidate could go on share the probability there; the answer is followed from token to token. What
other tokens lead to is not seen: their share is split equally among the candidates that they could
still become, and how wrong that may be, with all that the server left untold, is the ``slack``.
Candidates are compared as bytes, since tokens may end anywhere, even inside a character.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from medtask.engines.http.client import Malformed
from medtask.engines.http.server import Reply, Step, is_control
from medtask.records import Branch, BranchScores

KEY = "answer"  # a JSON schema must be an object for OpenAI
_HEAD = re.compile(r'\s*\{\s*"' + KEY + r'"\s*:\s*"')


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the candidates would have been written in a reply.

    ``start``: where they begin, in bytes; ``texts``: the whole reply for each, up to where it is
    told from all others. ``closed``: a text has an end of its own (the closing quote of JSON); else
    the end of the turn is its end.
    """

    start: int
    texts: tuple[bytes, ...]
    closed: bool


def name_choices(tails: Sequence[str]) -> tuple[str, ...]:
    """What a branch's tails are called between medtask and a server: without blanks around them,
    and without quotes of JSON.
    """
    bare = tuple(tail.strip() for tail in tails)
    unquoted = tuple(
        name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' and "\\" not in name else name
        for name in bare
    )
    return unquoted if len(set(unquoted)) == len(unquoted) else bare


def find_choice(text: str, choices: Sequence[str], *, json_object: bool) -> int | None:
    """Which of the choices a reply names; None where it names none, or not clearly."""
    if json_object:
        try:
            value = json.loads(text)
            said = value[KEY] if len(value) == 1 else None
        except (ValueError, TypeError, KeyError):
            return None
        return choices.index(said) if said in choices else None
    said = text.strip()
    if said in choices:
        return choices.index(said)
    # A model that is not held to the set likes to add a full stop or quotes, or to begin with a
    # capital.
    plain = [choice.strip(" .\"'`*").casefold() for choice in choices]
    alike = [at for at, choice in enumerate(plain) if choice == said.strip(" .\"'`*").casefold()]
    return alike[0] if len(alike) == 1 else None


def read_closed(
    reply: Reply, branch: Branch, choices: Sequence[str], *, json_object: bool, raw: bool
) -> BranchScores | None:
    """The scores that a reply means for a branch; None where it names none of its choices.

    Malformed where the log-probabilities are not those of the answer.
    """
    chosen = find_choice(reply.text, choices, json_object=json_object)
    if chosen is None:
        return None
    if reply.steps is None:
        return BranchScores(
            tuple(0.0 if at == chosen else -math.inf for at in range(len(choices))), chosen=True
        )
    spelling = spell(reply.text, choices, chosen, json_object=json_object)
    steps = _align(reply.steps, reply.text)
    if branch.weigh == "text":
        return _weigh_apart(steps, spelling, raw)
    return _follow(steps, spelling, chosen, raw)


def spell(text: str, choices: Sequence[str], chosen: int, *, json_object: bool) -> Spelling:
    """How each choice would stand in a reply that is written like ``text``, which names
    ``chosen``.
    """
    if not json_object:
        start = len(text) - len(text.lstrip())
        # Unconstrained, it may be in other letters or in quotes; there is no telling how the others
        # would be written then.
        choices = [text.strip() if at == chosen else choice for at, choice in enumerate(choices)]
        return Spelling(
            len(text[:start].encode()),
            tuple((text[:start] + choice).encode() for choice in choices),
            closed=False,
        )
    found = _HEAD.match(text)
    if found is None:
        raise Malformed("its JSON is not written as its schema has it")
    head = found[0]
    # Some servers escape whatever is not ASCII, most do not.
    escaped = not text.startswith(head + json.dumps(choices[chosen], ensure_ascii=False)[1:])
    texts = tuple(
        (head + json.dumps(choice, ensure_ascii=escaped)[1:]).encode() for choice in choices
    )
    return Spelling(len(head.encode()), texts, closed=True)


def _align(steps: Sequence[Step], text: str) -> tuple[Step, ...]:
    """The steps that wrote the text: without those of thoughts before it; the end of the turn may
    follow.

    Servers that tell tokens as text alone lose those that end inside a character: what stands
    before the first of them is all that can be followed then.
    """
    wanted = text.encode()
    for start in range(len(steps)):
        written = b""
        for at in range(start, len(steps)):
            if written == wanted and is_control(steps[at].data):
                return tuple(steps[start : at + 1])
            if not wanted.startswith(written + steps[at].data):
                break
            written += steps[at].data
        if written == wanted:
            return tuple(steps[start:])
        if start == 0 and wanted[len(written) : len(written) + 1] > b"\x7f":
            return tuple(steps[:at])
    raise Malformed("its log-probabilities are not those of its text")


def _fits(rest: bytes, data: bytes, closed: bool) -> bool:
    """Whether a token could be the next one of a candidate of which ``rest`` is left."""
    if not rest:
        return not closed and is_control(data)
    return bool(data) and (rest.startswith(data) or (closed and data.startswith(rest)))


@dataclass(frozen=True, slots=True)
class _Place:
    """One place of the answer: the probability of each token with which a candidate could go on,
    and those candidates.

    ``written``: the index of the token that was written. ``unseen``: bound on the probability of
    such tokens that were not told.
    """

    tokens: tuple[tuple[float, frozenset[int]], ...]
    written: int
    unseen: float

    @property
    def seen(self) -> float:
        return math.fsum(share for share, _ in self.tokens)


def _look(step: Step, rests: dict[int, bytes], closed: bool) -> _Place:
    told = dict(step.top)
    told[step.data] = max(step.logprob, told.get(step.data, -math.inf))
    tokens = []
    for data, logprob in told.items():
        members = frozenset(at for at, rest in rests.items() if _fits(rest, data, closed))
        if members:
            tokens.append((data, math.exp(min(logprob, 0.0)), members))
    written = next((at for at, token in enumerate(tokens) if token[0] == step.data), None)
    if written is None:
        raise Malformed("its log-probabilities are not those of its text")
    # No token that was left untold is likelier than the unlikeliest of the likeliest, and all of
    # them share what is left.
    least = math.exp(min(logprob for _, logprob in step.top)) if step.top else 1.0
    left = max(0.0, 1.0 - math.fsum(math.exp(min(logprob, 0.0)) for logprob in told.values()))
    possible = {rest[:end] for rest in rests.values() for end in range(1, len(rest) + 1)} | (
        {b""} if b"" in rests.values() else set()
    )
    unseen = min(left, least * max(0, len(possible) - len(tokens)))
    return _Place(tuple((share, members) for _, share, members in tokens), written, unseen)


def _follow(steps: Sequence[Step], spelling: Spelling, chosen: int, raw: bool) -> BranchScores:
    alive = frozenset(range(len(spelling.texts)))
    shares, errors = [0.0] * len(alive), [0.0] * len(alive)
    mass, at, off_set, lost = 1.0, 0, None, 0.0
    for step in steps:
        if (len(alive) == 1 and at > spelling.start) or (
            not step.data and at < len(spelling.texts[chosen])
        ):
            break  # all is said, or a token's half character was lost
        place = _look(step, {one: spelling.texts[one][at:] for one in alive}, spelling.closed)
        reaches = at + len(step.data) > spelling.start
        if raw and off_set is None and reaches:
            off_set = min(1.0, max(0.0, 1.0 - place.seen))
        if reaches:
            lost += (
                mass * place.unseen / (place.seen + place.unseen)
                if place.seen + place.unseen
                else mass
            )
        followed, alive = 0.0, place.tokens[place.written][1]
        for share, members in place.tokens:
            part = share / place.seen if place.seen else 1 / len(place.tokens)
            if (
                members == alive
            ):  # other pieces of the same words: the answer tells how those go on, too
                followed += part
                continue
            for one in members:
                shares[one] += mass * part / len(members)
                errors[one] += mass * part * (len(members) - 1) / len(members)
        mass *= followed
        at += len(step.data)
    _settle(shares, errors, mass, alive, chosen, ended=at == len(spelling.texts[chosen]))
    return BranchScores(
        tuple(map(_log, shares)), off_set, min(1.0, max(errors) + lost) if len(shares) > 1 else 0.0
    )


def _settle(
    shares: list[float],
    errors: list[float],
    mass: float,
    alive: frozenset[int],
    chosen: int,
    *,
    ended: bool,
) -> None:
    """Give what has arrived to the candidate that was written.

    Where the answer ends inside another candidate (``ended``) and the server does not tell how
    likely the end was, it was at least as likely as any other way to go on: of n candidates, the
    one that was written has between one part in n and all of it.
    """
    count = len(alive)
    kept = (1 + 1 / count) / 2
    for one in alive:
        shares[one] += mass * (kept if one == chosen else (1 - kept) / max(1, count - 1))
        errors[one] += mass * (1 - kept if ended or count == 1 else kept)


def _weigh_apart(steps: Sequence[Step], spelling: Spelling, raw: bool) -> BranchScores:
    """The log-likelihood of each candidate's first token of its own; for those that were not told,
    that of the unlikeliest told.
    """
    at = 0
    everyone = frozenset(range(len(spelling.texts)))
    for step in steps:
        place = _look(
            step, {one: text[at:] for one, text in enumerate(spelling.texts)}, spelling.closed
        )
        if any(members != everyone for _, members in place.tokens) or len(everyone) == 1:
            break
        at += len(step.data)
    own = [
        math.fsum(share for share, members in place.tokens if members == {one}) for one in everyone
    ]
    least = min([logprob for _, logprob in step.top] or [step.logprob])
    missing = sum(not share for share in own)
    untold = missing * math.exp(least)
    logprobs = tuple(_log(share) if share else least for share in own)
    off_set = min(1.0, max(0.0, 1.0 - place.seen)) if raw else None
    return BranchScores(logprobs, off_set, untold / (place.seen + untold) if untold else 0.0)


def _log(share: float) -> float:
    return math.log(min(share, 1.0)) if share > 0 else -math.inf

"""Exact scores from a server that tells the log-probability of every token of a prompt: vLLM's
``prompt_logprobs``.

Every candidate is sent as a prompt of its own, closed by the token that ends a turn; every token
that the candidates' trie allows at a branching is some candidate's own token, so their numbers give
the probabilities exactly. The prompts are sent as token ids and come back with them: what was cut,
or swapped with another answer, shows. Sources: vllm/entrypoints/openai/completion/protocol.py and
vllm/entrypoints/serve/tokenize/protocol.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medtask.engines.http.ask import Ask, send
from medtask.engines.http.client import Client, Malformed
from medtask.engines.http.counting import SLIP, Counter, read_ids, write_tokenize
from medtask.engines.http.openai import check_model, read_count
from medtask.engines.http.server import Traits, Wish, defuse
from medtask.engines.tokens.chat import count_shared
from medtask.engines.tokens.paths import weigh_paths
from medtask.engines.tokens.trie import grow_trie
from medtask.records import Branch, BranchScores, Fault, Message, Status

_MARK = "\u2042 answer \u2042"


@dataclass(frozen=True, slots=True)
class Tails:
    """Candidates as tokens. ``dropped``: how many of a prompt's last tokens merge into them, and
    are theirs then.
    """

    ids: tuple[tuple[int, ...], ...]
    dropped: int


@dataclass(frozen=True, slots=True)
class Case:
    """An ask as tokens: the prompt and the tails behind it."""

    ask: Ask
    base: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]

    @property
    def record_id(self) -> str:
        return self.ask.record_id

    @property
    def prompts(self) -> list[list[int]]:
        """Each tail as a prompt of its own."""
        return [[*self.base, *tail] for tail in self.tails]


@dataclass(frozen=True, slots=True)
class Weighed:
    """One branch's scores, and the tokens that were read for them."""

    scores: BranchScores
    tokens: int


class ExactReader:
    """Scores closed sets by a server's prompt_logprobs. ``closing``: the token that ends the
    assistant's turn.
    """

    def __init__(self, client: Client, traits: Traits, counter: Counter) -> None:
        self._client, self._traits, self._counter = client, traits, counter
        self.closing = self._find_closing()
        self._opening = self._find_opening()
        self._tails: dict[tuple[Any, ...], Tails] = {}

    def score(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Weighed | Fault]]:
        """The scores of each ask's branch, as they come."""
        ready = []
        for ask, ids in send(
            self._client, asks, self._write_tokenize, lambda _, body: read_ids(body)
        ):
            if isinstance(ids, Fault):
                yield ask, ids
                continue
            case = self._spell_out(ask, ids)
            longest = max(map(len, case.prompts))
            fit = self._counter.fit(replace(ask, wish=replace(ask.wish, max_tokens=1)), longest)
            if isinstance(fit, Fault):
                yield ask, fit
            else:
                ready.append(case)
        for case, outcome in send(self._client, ready, self._write, self._read):
            yield case.ask, outcome

    def _write_tokenize(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        return "/tokenize", write_tokenize(_bare(ask.wish), self._traits)

    def _spell_out(self, ask: Ask, ids: tuple[int, ...]) -> Case:
        tails = self._tokenise_tails(ids, ask.wish.lead[len(_bare(ask.wish).lead) :], ask.branch)
        return Case(ask, ids[: len(ids) - tails.dropped], tails.ids)

    def _write(self, case: Case) -> tuple[str, dict[str, Any]]:
        body = {
            "model": self._traits.model,
            "prompt": case.prompts,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        return "completions", body

    def _read(self, case: Case, body: Any) -> Weighed | Fault:
        choices = body.get("choices") if isinstance(body, dict) else None
        if not isinstance(choices, list) or sorted(map(_index, choices)) != list(
            range(len(case.tails))
        ):
            raise Malformed(f"it does not hold one answer for each of {len(case.tails)} prompts")
        check_model(body.get("model"), self._traits)
        total = sum(map(len, case.prompts))
        read = read_count((body.get("usage") or {}).get("prompt_tokens"))
        if read is not None and abs(read - total) > SLIP:
            reason = (
                f"truncated_by_engine: the server read {read:,} tokens of {total:,} that were sent"
            )
            return Fault(case.record_id, Status.FAILED, reason)
        ordered = sorted(choices, key=_index)
        told = [
            _read_logprobs(choice.get("prompt_logprobs"), prompt)
            for choice, prompt in zip(ordered, case.prompts, strict=True)
        ]
        return Weighed(
            weigh_tails(
                case.ask.branch, case.tails, [logprobs[len(case.base) :] for logprobs in told]
            ),
            total,
        )

    def _tokenise_tails(self, ids: tuple[int, ...], space: str, branch: Branch) -> Tails:
        key = self._cut_alike(ids), space, branch.tails, branch.weigh
        if key not in self._tails:
            text = self._client.post(
                "/detokenize", {"model": self._traits.model, "tokens": list(ids)}, _read_text
            )
            if self._tokenise(text) != ids:
                raise Malformed("its tokens and its text do not mean the same")
            wholes = [self._tokenise(text + space + defuse(tail)) for tail in branch.tails]
            shared = count_shared([ids, *wholes])
            closing = (self.closing,) if branch.weigh == "set" else ()
            self._tails[key] = Tails(
                tuple(whole[shared:] + closing for whole in wholes), len(ids) - shared
            )
        return self._tails[key]

    def _cut_alike(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The end of a prompt, from where its template opens the answer's turn: nothing merges
        across that.

        Prompts that end alike go on alike, so their tails need be tokenised once. The whole prompt
        where there is no such place.
        """
        size = len(self._opening)
        starts = range(len(ids) - size, -1, -1)
        return next(
            (
                ids[start:]
                for start in starts
                if size and ids[start : start + size] == self._opening
            ),
            ids,
        )

    def _find_opening(self) -> tuple[int, ...]:
        """The tokens with which the chat template opens the assistant's turn, with the end of the
        turn before: what two chats end in.
        """
        asked = [Wish((Message("user", text),), 1) for text in ("?", "a word")]
        one, other = (
            self._client.post("/tokenize", write_tokenize(wish, self._traits), read_ids)[::-1]
            for wish in asked
        )
        return one[: count_shared([one, other])][::-1]

    def _tokenise(self, text: str) -> tuple[int, ...]:
        return self._client.post(
            "/tokenize",
            {"model": self._traits.model, "prompt": text, "add_special_tokens": False},
            read_ids,
        )

    def _find_closing(self) -> int:
        """The first token behind an answer, where the chat template closes its turn."""
        asked, answered = Message("user", "?"), Message("assistant", _MARK)
        open_turn = self._client.post(
            "/tokenize", write_tokenize(Wish((asked,), 1, lead=_MARK), self._traits), read_ids
        )
        # Some templates write a last turn unlike earlier ones, and some close only those that
        # another follows.
        for turns in ((asked, answered), (asked, answered, asked)):
            closed = write_tokenize(Wish(turns, 1), self._traits) | {"add_generation_prompt": False}
            whole = self._client.post("/tokenize", closed, read_ids)
            if len(whole) > len(open_turn) and whole[: len(open_turn)] == open_turn:
                return whole[len(open_turn)]
        raise Malformed("its chat template does not close a turn with a token of its own")


def weigh_tails(
    branch: Branch, tails: Sequence[tuple[int, ...]], logprobs: Sequence[Sequence[float]]
) -> BranchScores:
    """Scores from the log-probability of every token of every tail, closed by the end of the turn
    where it is one of a set.
    """
    firsts = {tail[0]: told[0] for tail, told in zip(tails, logprobs, strict=True) if tail}
    off_set = min(1.0, max(0.0, 1.0 - math.fsum(map(math.exp, firsts.values()))))
    if branch.weigh == "text":
        return BranchScores(tuple(math.fsum(told) for told in logprobs), off_set)
    return BranchScores(weigh_paths(grow_trie(tails), logprobs), off_set)


def _read_logprobs(told: Any, prompt: Sequence[int]) -> list[float]:
    """The log-probability of each token of the prompt; 0 for the first, of which none is told."""
    if not isinstance(told, list) or len(told) != len(prompt):
        raise Malformed("it does not hold a log-probability for each token of the prompt")
    logprobs = [0.0]
    for place, token in zip(told[1:], prompt[1:], strict=True):
        entry: Mapping[str, Any] | None = place.get(str(token)) if isinstance(place, dict) else None
        logprob = entry.get("logprob") if isinstance(entry, dict) else None
        if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not logprob <= 0.01:
            raise Malformed("its log-probabilities are those of another prompt")
        logprobs.append(float(logprob))
    return logprobs


def _bare(wish: Wish) -> Wish:
    """The wish with a lead that no space ends: " A" and "A" are different tokens, so the space
    belongs to the tail.
    """
    return replace(wish, lead=wish.lead.rstrip(" "))


def _index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else -1


def _read_text(body: Any) -> str:
    text = body.get("prompt") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise Malformed("its text is none")
    return text

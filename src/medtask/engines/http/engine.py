"""The `http` engine: a model behind a server, asked over the wire."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from medtask.engines.base import Caps, Engine, EngineInfo
from medtask.engines.http.ask import Ask, send
from medtask.engines.http.client import Client, Malformed
from medtask.engines.http.closed import name_choices, read_closed
from medtask.engines.http.counting import Counter
from medtask.engines.http.probe import THINKING_ROOM, writes_json
from medtask.engines.http.server import Dialect, Reply, Traits, Wish
from medtask.engines.http.turns import insist, write_turns
from medtask.engines.http.vllm import ExactReader
from medtask.engines.http.write import Writer
from medtask.errors import EngineError
from medtask.records import BranchScores, Fault, Generated, Limits, Prompt, Scores, Status

AT_ONCE = 256  # prompts that are counted before the first of them is asked


class HttpEngine(Engine):
    """``client`` and ``dialect``: how the server is spoken to; ``traits``: what it was found able
    to do.

    ``exact``: reads whole candidates, where the server lets it; otherwise probabilities are those
    of ``closed.py``.
    """

    def __init__(
        self,
        client: Client,
        dialect: Dialect,
        traits: Traits,
        counter: Counter,
        info: EngineInfo,
        exact: ExactReader | None = None,
    ) -> None:
        self.client, self.dialect, self.traits, self.counter, self.exact = (
            client,
            dialect,
            traits,
            counter,
            exact,
        )
        self.info = info
        self.context_tokens = traits.context
        self.caps = Caps(
            score="exact" if exact else "first_token" if traits.top else "none",
            choose=True,
            generate=True,
            schema=traits.schema is not None,
            thinking_markers=traits.thinks,
        )
        self.writer = Writer(client, dialect, traits, counter)

    def score(
        self, prompts: Sequence[Prompt], known: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        """See Engine.score. Every branch is one request; a row is a fault if one of its branches
        is.

        EngineError where texts are to be weighed and the server tells too little for it.
        """
        asked = sorted((prompt for prompt in prompts if prompt.record_id not in known), key=_size)
        for start in range(0, len(asked), AT_ONCE):
            window = asked[start : start + AT_ONCE]
            yield from (Scores(prompt.record_id, ()) for prompt in window if not prompt.branches)
            yield from self._score_window([prompt for prompt in window if prompt.branches])

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        known: Collection[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated | Fault]:
        """See Engine.generate. Repeated text is not noticed, and a row's deadline is the whole
        request's.
        """
        return self.writer.write(
            [prompt for prompt in prompts if prompt.record_id not in known], limits, on_text
        )

    def close(self) -> None:
        self.client.close()

    def _score_window(self, prompts: Sequence[Prompt]) -> Iterator[Scores | Fault]:
        rows = {prompt.record_id: _Row(prompt) for prompt in prompts}
        asks = [
            self._make_ask(prompt, place)
            for prompt in prompts
            for place in range(len(prompt.branches))
        ]
        outcomes = self._score_exactly(asks) if self.exact else self._choose(asks)
        for ask, outcome in outcomes:
            row = rows.get(ask.record_id)
            if row is None:  # another branch of it has failed
                continue
            if isinstance(outcome, Fault):
                del rows[ask.record_id]
                yield outcome
                continue
            row.take(ask.place, *outcome)
            if row.done:
                del rows[ask.record_id]
                yield row.finish()

    def _make_ask(self, prompt: Prompt, place: int) -> Ask:
        branch = prompt.branches[place]
        turns, lead = write_turns(prompt, branch, goes_on=self.traits.goes_on)
        choices = name_choices(branch.tails)
        if branch.weigh == "text" and not self.exact and any(len(choice) > 1 for choice in choices):
            raise EngineError(
                f"{self.traits.kind} cannot weigh whole texts",
                fix="set `readout: letter`, or use a vLLM server or a model in this process",
            )
        # No candidate has more tokens than bytes.
        room = (
            max(len(choice.encode()) for choice in choices)
            + 24
            + (THINKING_ROOM if self.traits.muses else 0)
        )
        return Ask(
            prompt, Wish(turns, room, lead=lead, choices=choices, top=self.traits.top), place
        )

    def _score_exactly(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, _Told | Fault]]:
        assert self.exact
        for ask, weighed in self.exact.score(asks):
            yield (
                ask,
                weighed if isinstance(weighed, Fault) else (weighed.scores, weighed.tokens, 0),
            )

    def _choose(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, _Told | Fault]]:
        """Let the server write one of the choices; whoever writes something else is asked once
        more, with all choices listed.
        """
        astray: list[Ask] = []
        for ask, outcome in self._ask_each(asks):
            if outcome is None:
                astray.append(
                    replace(
                        ask,
                        wish=replace(
                            ask.wish, messages=insist(ask.wish.messages, ask.wish.choices)
                        ),
                        expected=None,
                    )
                )
            else:
                yield ask, outcome
        for ask, outcome in self._ask_each(astray):
            yield (
                ask,
                outcome
                or Fault(
                    ask.record_id,
                    Status.UNPARSABLE,
                    "the model answered something outside the set, twice",
                ),
            )

    def _ask_each(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, _Told | Fault | None]]:
        ready: list[Ask] = []
        for ask, counted in self.counter.count(asks):
            if isinstance(counted, Fault):
                yield ask, counted
            else:
                ready.append(counted)
        yield from send(
            self.client,
            ready,
            lambda ask: (self.dialect.path, self.dialect.write(ask.wish, self.traits)),
            self._read,
        )

    def _read(self, ask: Ask, body: Any) -> _Told | Fault | None:
        reply = self.dialect.read(body, self.traits)
        wrong = self.counter.judge(ask, reply.prompt_tokens, reply.written_tokens or 0)
        if wrong:
            return Fault(ask.record_id, Status.FAILED, f"truncated_by_engine: {wrong}")
        if reply.ended == "length" and self.traits.hold:
            raise Malformed("its answer was cut")
        if self.traits.top and reply.steps is None:
            raise Malformed("it holds no log-probabilities")
        reply = self._drop_lead(reply, ask.wish)
        scores = read_closed(
            reply,
            ask.branch,
            ask.wish.choices,
            json_object=writes_json(self.traits.hold),
            raw=self.traits.raw,
        )
        if scores is None:
            return None
        return (
            scores,
            (reply.prompt_tokens or 0) - reply.cached_tokens + (reply.written_tokens or 0),
            reply.cached_tokens,
        )

    @staticmethod
    def _drop_lead(reply: Reply, wish: Wish) -> Reply:
        """The reply without the begun answer, which some servers repeat."""
        return replace(reply, text=reply.text.removeprefix(wish.lead)) if wish.lead else reply


_Told = tuple[BranchScores, int, int]


class _Row:
    """A prompt whose branches come in one by one."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._branches: dict[int, BranchScores] = {}
        self._read = self._reused = 0
        self._started = time.perf_counter()

    @property
    def done(self) -> bool:
        return len(self._branches) == len(self._prompt.branches)

    def take(self, place: int, scores: BranchScores, read: int, reused: int) -> None:
        self._branches[place] = scores
        self._read += read
        self._reused += reused

    def finish(self) -> Scores:
        branches = tuple(self._branches[place] for place in range(len(self._branches)))
        ms = (time.perf_counter() - self._started) * 1000
        return Scores(self._prompt.record_id, branches, self._read, self._reused, ms)


def _size(prompt: Prompt) -> int:
    """Shorter prompts first: what they cost bounds what longer ones can."""
    return sum(len(turn.content) for turn in prompt.messages)

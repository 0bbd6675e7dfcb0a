"""The `http` engine: scores and texts from a model server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from medtask.engines.base import Caps, Engine, EngineInfo, TextCallbacks
from medtask.engines.http.choice_scores import normalise_choices, score_reply
from medtask.engines.http.client import HttpClient, InvalidResponse
from medtask.engines.http.messages import build_messages, list_choices
from medtask.engines.http.prompt_logprobs import BranchResult, PromptLogprobScorer
from medtask.engines.http.protocol import (
    ChatRequest,
    Dialect,
    ServerCaps,
    wraps_in_json,
)
from medtask.engines.http.queries import ServerQuery, Stopwatch, send_queries
from medtask.engines.http.text_generation import HttpGenerator
from medtask.engines.http.token_counting import PromptTokenCounter
from medtask.errors import EngineError
from medtask.records import Branch, BranchScores, Fault, Generated, Limits, Prompt, Scores, Status

WINDOW_PROMPTS = 256  # prompts whose tokens are counted before the first request


class HttpEngine(Engine):
    """Scores and generates with a model server.

    ``exact_scorer`` scores whole candidates, if the server supports it; otherwise probabilities are
    estimated as in choice_scores.py.
    """

    def __init__(
        self,
        client: HttpClient,
        dialect: Dialect,
        server_caps: ServerCaps,
        token_counter: PromptTokenCounter,
        info: EngineInfo,
        exact_scorer: PromptLogprobScorer | None = None,
    ) -> None:
        self.client = client
        self.dialect = dialect
        self.server_caps = server_caps
        self.token_counter = token_counter
        self.exact_scorer = exact_scorer
        self.info = info
        self.context_tokens = server_caps.context
        self.caps = Caps(
            score="exact" if exact_scorer else "first_token" if server_caps.top else "none",
            choose=True,
            generate=True,
            schema=server_caps.schema is not None,
            thinking_markers=server_caps.thinks,
        )
        self.generator = HttpGenerator(client, dialect, server_caps, token_counter)

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        """See `Engine.score`. Each branch is a request; a fault of one is a fault of the row."""
        new_prompts = sorted(
            (prompt for prompt in prompts if prompt.record_id not in cached), key=_count_characters
        )
        for start in range(0, len(new_prompts), WINDOW_PROMPTS):
            window = new_prompts[start : start + WINDOW_PROMPTS]
            yield from (Scores(prompt.record_id, ()) for prompt in window if not prompt.branches)
            yield from self._score_window([prompt for prompt in window if prompt.branches])

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: TextCallbacks | None = None,
    ) -> Iterator[Generated | Fault]:
        """See `Engine.generate`. Repetition is not detected; deadlines apply to whole requests."""
        return self.generator.generate(
            [prompt for prompt in prompts if prompt.record_id not in cached], limits, on_text
        )

    def close(self) -> None:
        self.client.close()

    def _score_window(self, prompts: Sequence[Prompt]) -> Iterator[Scores | Fault]:
        rows = {prompt.record_id: _PendingScores(prompt) for prompt in prompts}
        queries = [
            self._build_query(prompt, branch_index)
            for prompt in prompts
            for branch_index in range(len(prompt.branches))
        ]
        score = self.exact_scorer.score if self.exact_scorer else self._score_choices
        waited = Stopwatch()
        for query, outcome in score(queries):
            row = rows.get(query.record_id)
            if row is None:  # another branch of the prompt has failed
                continue
            if isinstance(outcome, Fault):
                del rows[query.record_id]
                yield outcome
                continue
            row.add_branch(query.branch_index, outcome)
            if row.is_complete:
                del rows[query.record_id]
                yield row.build_scores(waited.read_ms())
                waited.restart()

    def _build_query(self, prompt: Prompt, branch_index: int) -> ServerQuery:
        branch = prompt.branches[branch_index]
        messages, prefix = build_messages(prompt, branch, can_continue=self.server_caps.goes_on)
        choices = normalise_choices(branch.candidates)
        if (
            branch.weigh == "text"
            and not self.exact_scorer
            and any(len(choice) > 1 for choice in choices)
        ):
            raise EngineError(
                f"{self.server_caps.server_type} cannot compare whole texts",
                fix="set `readout: letter`, or use a vLLM server or a model in this process",
            )
        max_tokens = self._count_answer_tokens(branch, choices) + self.server_caps.thinking_tokens
        return ServerQuery(
            prompt,
            ChatRequest(
                messages,
                max_tokens,
                prefix=prefix,
                choices=choices,
                top_logprobs=self.server_caps.top,
            ),
            branch_index,
        )

    def _count_answer_tokens(self, branch: Branch, choices: Sequence[str]) -> int:
        """The most tokens of an answer: a text has at most as many tokens as bytes."""
        longest = max(len(choice.encode()) for choice in choices)
        if self.server_caps.hold:
            return longest + 24
        # Without a constraint a model may decorate its choice, and repeat the choice's description.
        descriptions = [f"{one.name} {one.definition}" for one in branch.descriptions]
        return longest + max((len(text.encode()) for text in descriptions), default=0) + 48

    def _score_choices(
        self, queries: Sequence[ServerQuery]
    ) -> Iterator[tuple[ServerQuery, BranchResult | Fault]]:
        """Generate one of the choices. After another answer the query is sent once more, with all
        choices listed.
        """
        off_set_queries: list[ServerQuery] = []
        for query, outcome in self._send_queries(queries):
            if outcome is None:
                off_set_queries.append(
                    replace(
                        query,
                        request=replace(
                            query.request,
                            messages=list_choices(query.request.messages, query.request.choices),
                        ),
                        expected_tokens=None,
                    )
                )
            else:
                yield query, outcome
        for query, outcome in self._send_queries(off_set_queries):
            yield (
                query,
                outcome
                or Fault(
                    query.record_id,
                    Status.UNPARSABLE,
                    "the model answered something outside the set, twice",
                ),
            )

    def _send_queries(
        self, queries: Sequence[ServerQuery]
    ) -> Iterator[tuple[ServerQuery, BranchResult | Fault | None]]:
        ready: list[ServerQuery] = []
        for query, counted in self.token_counter.count_tokens(queries):
            if isinstance(counted, Fault):
                yield query, counted
            else:
                ready.append(counted)
        yield from send_queries(
            self.client,
            ready,
            lambda ask: (self.dialect.path, self.dialect.build_body(ask.request, self.server_caps)),
            self._parse_answer,
        )

    def _parse_answer(self, query: ServerQuery, body: Any) -> BranchResult | Fault | None:
        response = self.dialect.parse_response(body, self.server_caps)
        if truncation := self.token_counter.find_truncation(query, response):
            return truncation
        if response.finish_reason == "length":
            if self.server_caps.hold:
                raise InvalidResponse("its answer was cut")
            return None  # the rest could change the choice: "B" of "B or C"
        if self.server_caps.top and response.token_logprobs is None:
            raise InvalidResponse("it holds no log-probabilities")
        scores = score_reply(
            # Some servers repeat the prefix of the answer.
            replace(response, text=response.text.removeprefix(query.request.prefix)),
            query.branch,
            query.request.choices,
            json_object=wraps_in_json(self.server_caps.hold),
            unmasked=self.server_caps.raw,
        )
        if scores is None:
            return None
        reused = response.cached_tokens
        read = (response.prompt_tokens or 0) - reused + (response.completion_tokens or 0)
        return BranchResult(scores, read, reused)


class _PendingScores:
    """A prompt whose branches are scored one after the other."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._branches: dict[int, BranchScores] = {}
        self._tokens_read = self._tokens_reused = 0

    @property
    def is_complete(self) -> bool:
        return len(self._branches) == len(self._prompt.branches)

    def add_branch(self, branch_index: int, result: BranchResult) -> None:
        self._branches[branch_index] = result.scores
        self._tokens_read += result.tokens_read
        self._tokens_reused += result.tokens_reused

    def build_scores(self, ms: float) -> Scores:
        branches = tuple(
            self._branches[branch_index] for branch_index in range(len(self._branches))
        )
        return Scores(self._prompt.record_id, branches, self._tokens_read, self._tokens_reused, ms)


def _count_characters(prompt: Prompt) -> int:
    """Sort key: shorter prompts first, since their token counts bound those of longer ones."""
    return sum(len(turn.content) for turn in prompt.messages)

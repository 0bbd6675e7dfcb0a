"""Exact scores from the log-probabilities of a prompt's tokens: vLLM's ``prompt_logprobs``.

Each candidate is sent as a separate prompt, followed by the end-of-turn token. Each token that the
candidates' trie allows at a node is a token of some candidate, so these log-probabilities determine
the candidates' probabilities exactly. Prompts are sent as token ids, and the response contains
them: a truncated or swapped prompt is detected. Sources:
vllm/entrypoints/openai/completion/protocol.py and vllm/entrypoints/serve/tokenize/protocol.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medtask.engines.http.client import HttpClient, InvalidResponse
from medtask.engines.http.openai import check_model_name, parse_count
from medtask.engines.http.protocol import ChatRequest, ServerCaps
from medtask.engines.http.queries import ServerQuery, send_queries
from medtask.engines.http.token_counting import (
    TOKEN_TOLERANCE,
    PromptTokenCounter,
    build_tokenize_body,
    describe_missing_tokens,
    make_truncation_fault,
    parse_prompt_text,
    parse_token_ids,
)
from medtask.engines.tokens.chat import count_common_prefix
from medtask.engines.tokens.markers import COMMON_MARKERS
from medtask.engines.tokens.trie import build_trie, compute_candidate_logprobs
from medtask.records import Branch, BranchScores, Fault, Message

_PROBE_ANSWER = "\u2042 answer \u2042"


@dataclass(frozen=True, slots=True)
class CandidateTokenIds:
    """Candidates as tokens. ``merged_tokens`` is the number of the prompt's last tokens that merge
    with the candidates and are part of ``ids``.
    """

    ids: tuple[tuple[int, ...], ...]
    merged_tokens: int


@dataclass(frozen=True, slots=True)
class TokenizedQuery:
    """A query as tokens: the prompt and its candidates."""

    query: ServerQuery
    prompt_ids: tuple[int, ...]
    candidate_ids: tuple[tuple[int, ...], ...]

    @property
    def record_id(self) -> str:
        return self.query.record_id

    @property
    def sequences(self) -> list[list[int]]:
        """Each candidate after the prompt."""
        return [[*self.prompt_ids, *candidate] for candidate in self.candidate_ids]


@dataclass(frozen=True, slots=True)
class BranchResult:
    """The scores of one branch, and the number of tokens read and reused for them."""

    scores: BranchScores
    tokens_read: int
    tokens_reused: int = 0


class PromptLogprobScorer:
    """Scores candidates with a server's prompt_logprobs.

    ``end_of_turn`` is the token that ends the assistant's turn.
    """

    def __init__(
        self, client: HttpClient, server_caps: ServerCaps, token_counter: PromptTokenCounter
    ) -> None:
        self._client, self._server_caps, self._token_counter = client, server_caps, token_counter
        self.end_of_turn = self._find_end_of_turn()
        self._turn_opening = self._find_turn_opening()
        self._candidates: dict[tuple[Any, ...], CandidateTokenIds] = {}

    def score(
        self, queries: Sequence[ServerQuery]
    ) -> Iterator[tuple[ServerQuery, BranchResult | Fault]]:
        """Yield the scores of each query's branch as they arrive."""
        ready = []
        for query, ids in send_queries(
            self._client, queries, self._build_tokenize_call, lambda _, body: parse_token_ids(body)
        ):
            if isinstance(ids, Fault):
                yield query, ids
                continue
            tokenized_query = self._tokenize_query(query, ids)
            longest = max(map(len, tokenized_query.sequences))
            length_check = self._token_counter.check_length(
                replace(query, request=replace(query.request, max_tokens=1)), longest
            )
            if isinstance(length_check, Fault):
                yield query, length_check
            else:
                ready.append(tokenized_query)
        for tokenized_query, outcome in send_queries(
            self._client, ready, self._build_completion_call, self._parse_completion
        ):
            yield tokenized_query.query, outcome

    def _build_tokenize_call(self, query: ServerQuery) -> tuple[str, dict[str, Any]]:
        return "/tokenize", build_tokenize_body(
            _strip_prefix_space(query.request), self._server_caps
        )

    def _tokenize_query(self, query: ServerQuery, ids: tuple[int, ...]) -> TokenizedQuery:
        candidates = self._tokenize_candidates(
            ids,
            query.request.prefix[len(_strip_prefix_space(query.request).prefix) :],
            query.branch,
        )
        return TokenizedQuery(query, ids[: len(ids) - candidates.merged_tokens], candidates.ids)

    def _build_completion_call(self, tokenized_query: TokenizedQuery) -> tuple[str, dict[str, Any]]:
        body = {
            "model": self._server_caps.model,
            "prompt": tokenized_query.sequences,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        return "completions", body

    def _parse_completion(self, tokenized_query: TokenizedQuery, body: Any) -> BranchResult | Fault:
        choices = body.get("choices") if isinstance(body, dict) else None
        if not isinstance(choices, list) or sorted(map(_get_choice_index, choices)) != list(
            range(len(tokenized_query.candidate_ids))
        ):
            raise InvalidResponse(
                f"it does not hold one answer for each of {len(tokenized_query.candidate_ids)} "
                "prompts"
            )
        check_model_name(body.get("model"), self._server_caps)
        total = sum(map(len, tokenized_query.sequences))
        prompt_tokens = parse_count((body.get("usage") or {}).get("prompt_tokens"))
        if prompt_tokens is not None and abs(prompt_tokens - total) > TOKEN_TOLERANCE:
            reason = describe_missing_tokens(prompt_tokens, total)
            return make_truncation_fault(tokenized_query.record_id, reason)
        ordered = sorted(choices, key=_get_choice_index)
        prompt_logprobs = [
            _parse_prompt_logprobs(choice.get("prompt_logprobs"), prompt)
            for choice, prompt in zip(ordered, tokenized_query.sequences, strict=True)
        ]
        return BranchResult(
            score_candidates(
                tokenized_query.query.branch,
                tokenized_query.candidate_ids,
                [logprobs[len(tokenized_query.prompt_ids) :] for logprobs in prompt_logprobs],
            ),
            total,
        )

    def _tokenize_candidates(
        self, ids: tuple[int, ...], space: str, branch: Branch
    ) -> CandidateTokenIds:
        key = self._find_turn_suffix(ids), space, branch.candidates, branch.weigh
        if key not in self._candidates:
            text = self._client.post(
                "/detokenize",
                {"model": self._server_caps.model, "tokens": list(ids)},
                parse_prompt_text,
            )
            if self._tokenize(text) != ids:
                raise InvalidResponse("its tokens and its text differ")
            sequences = [
                self._tokenize(text + space + COMMON_MARKERS.escape(candidate))
                for candidate in branch.candidates
            ]
            shared = count_common_prefix([ids, *sequences])
            end_of_turn = (self.end_of_turn,) if branch.weigh == "set" else ()
            self._candidates[key] = CandidateTokenIds(
                tuple(sequence[shared:] + end_of_turn for sequence in sequences), len(ids) - shared
            )
        return self._candidates[key]

    def _find_turn_suffix(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The end of a prompt, from the start of the assistant's turn; tokens do not merge across
        that point.

        Prompts with the same end share the tokens of their candidates. Returns the whole prompt if
        the point is not found.
        """
        size = len(self._turn_opening)
        for start in range(len(ids) - size, -1, -1):
            if size and ids[start : start + size] == self._turn_opening:
                return ids[start:]
        return ids

    def _find_turn_opening(self) -> tuple[int, ...]:
        """The tokens that start the assistant's turn: the common suffix of two chats."""
        requests = [ChatRequest((Message("user", text),), 1) for text in ("?", "a word")]
        one, other = (
            self._client.post(
                "/tokenize", build_tokenize_body(request, self._server_caps), parse_token_ids
            )[::-1]
            for request in requests
        )
        return one[: count_common_prefix([one, other])][::-1]

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return self._client.post(
            "/tokenize",
            {"model": self._server_caps.model, "prompt": text, "add_special_tokens": False},
            parse_token_ids,
        )

    def _find_end_of_turn(self) -> int:
        """The first token after an answer, with which the chat template ends the turn."""
        user_message, assistant_message = Message("user", "?"), Message("assistant", _PROBE_ANSWER)
        open_turn = self._client.post(
            "/tokenize",
            build_tokenize_body(
                ChatRequest((user_message,), 1, prefix=_PROBE_ANSWER), self._server_caps
            ),
            parse_token_ids,
        )
        # Some templates render the last turn differently, and some end only turns that are followed
        # by another one.
        for messages in (
            (user_message, assistant_message),
            (user_message, assistant_message, user_message),
        ):
            body = build_tokenize_body(ChatRequest(messages, 1), self._server_caps) | {
                "add_generation_prompt": False
            }
            token_ids = self._client.post("/tokenize", body, parse_token_ids)
            if len(token_ids) > len(open_turn) and token_ids[: len(open_turn)] == open_turn:
                return token_ids[len(open_turn)]
        raise InvalidResponse("its chat template does not close a turn with a separate token")


def score_candidates(
    branch: Branch, candidates: Sequence[tuple[int, ...]], logprobs: Sequence[Sequence[float]]
) -> BranchScores:
    """Scores from the log-probabilities of the candidates' tokens, which end with the end-of-turn
    token if the branch is scored within its set.
    """
    firsts = {
        candidate[0]: candidate_logprobs[0]
        for candidate, candidate_logprobs in zip(candidates, logprobs, strict=True)
        if candidate
    }
    off_set = min(1.0, max(0.0, 1.0 - math.fsum(map(math.exp, firsts.values()))))
    if branch.weigh == "text":
        return BranchScores(tuple(map(math.fsum, logprobs)), off_set)
    return BranchScores(compute_candidate_logprobs(build_trie(candidates), logprobs), off_set)


def _parse_prompt_logprobs(value: Any, prompt: Sequence[int]) -> list[float]:
    """The log-probability of each token of the prompt; 0 for the first, which has none."""
    if not isinstance(value, list) or len(value) != len(prompt):
        raise InvalidResponse("it does not hold a log-probability for each token of the prompt")
    logprobs = [0.0]
    for position, token in zip(value[1:], prompt[1:], strict=True):
        entry = position.get(str(token)) if isinstance(position, dict) else None
        logprob = entry.get("logprob") if isinstance(entry, dict) else None
        if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not logprob <= 0.01:
            raise InvalidResponse("its log-probabilities are those of another prompt")
        logprobs.append(float(logprob))
    return logprobs


def _strip_prefix_space(request: ChatRequest) -> ChatRequest:
    """The request without a space at the end of its prefix: " A" and "A" are different tokens, so
    the space belongs to the candidate.
    """
    return replace(request, prefix=request.prefix.rstrip(" "))


def _get_choice_index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else -1

"""A toy language model, made of hashes: deterministic, seeded, and with probabilities that a test
can work out by hand.

Tokens are pieces of up to four letters with the space before them, or one other character. The next
token's probabilities hang on the whole text before it, so that a reordered, cut or swapped prompt
gives other numbers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

END_TOKEN = "<|end|>"  # closes every turn, as <|im_end|> and its like do
_PIECE = re.compile(r"<\|\w+\|>| ?[^\W_]{1,4}|.", re.DOTALL)
_WORDS = (
    " the",
    " a",
    " of",
    " and",
    " is",
    "Yes",
    "No",
    "I",
    " can",
    " not",
    ".",
    ",",
    " pain",
    " left",
    " right",
    "\n",
)


@dataclass(frozen=True, slots=True)
class ToyStep:
    """One written token, how likely it was, and which others were likeliest at its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


class ToyModel:
    """``words``: texts whose tokens the model knows; every other token has a tiny probability."""

    def __init__(self, words: Iterable[str] = (), seed: int = 0) -> None:
        self.seed = seed
        known = dict.fromkeys(
            [
                END_TOKEN,
                *_WORDS,
                '{"',
                '"',
                "}",
                "true",
                "false",
                *itertools.chain.from_iterable(map(split_tokens, words)),
            ]
        )
        self.vocabulary = tuple(known)
        self._known = frozenset(known)
        self._ids: dict[str, int] = {}
        self._pieces: list[str] = []
        for token in self.vocabulary:
            self.get_token_id(token)

    def get_token_id(self, token: str) -> int:
        """A token's number; unseen tokens get the next one, so numbers hold within one server
        alone.
        """
        if token not in self._ids:
            self._ids[token] = len(self._pieces)
            self._pieces.append(token)
        return self._ids[token]

    def encode(self, text: str) -> list[int]:
        return [self.get_token_id(token) for token in split_tokens(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces[number] for number in ids)

    def logprobs(self, text: str, tokens: Iterable[str]) -> list[float]:
        """Natural log-probability of each of the tokens, next after ``text``, over everything that
        could come.
        """
        state = hashlib.blake2b(f"{self.seed}|{text}".encode(), digest_size=16).digest()
        total = math.log(
            sum(math.exp(self._hash_weight(state, token)) for token in self.vocabulary) * 1.05
        )
        return [
            self._hash_weight(state, token) - total - (0.0 if token in self._known else 12.0)
            for token in tokens
        ]

    def rank_tokens(
        self, text: str, count: int, among: Iterable[str] = ()
    ) -> list[tuple[str, float]]:
        """The ``count`` likeliest next tokens with their log-probabilities, the likeliest first."""
        tokens = list(dict.fromkeys([*self.vocabulary, *among]))
        return sorted(
            zip(tokens, self.logprobs(text, tokens), strict=True), key=lambda pair: -pair[1]
        )[:count]

    def compute_text_logprob(self, prompt: str, text: str) -> float:
        """Log-probability of all tokens of ``text`` after ``prompt``, as from a forward pass."""
        tokens = split_tokens(text)
        return sum(
            self.logprobs(prompt + "".join(tokens[:at]), [token])[0]
            for at, token in enumerate(tokens)
        )

    def compute_constrained_probabilities(self, prompt: str, texts: Sequence[str]) -> list[float]:
        """How likely writing held to ``texts`` (each closed by END) ends in each: the truth that
        engines are measured by.
        """
        return [
            math.exp(
                self._compute_constrained_logprob(prompt, [*split_tokens(text), END_TOKEN], texts)
            )
            for text in texts
        ]

    def generate(
        self,
        prompt: str,
        limit: int,
        *,
        allowed: Sequence[str] | None = None,
        top: int = 0,
        renormalize: bool = False,
        stop: Sequence[str] = (),
    ) -> tuple[list[ToyStep], str]:
        """Write greedily, held to one of the texts ``allowed`` if any; (steps, "stop" | "length").
        END is not a step.

        ``renormalize``: log-probabilities after what is not allowed was taken away, not before.
        """
        steps: list[ToyStep] = []
        paths = None if allowed is None else [[*split_tokens(text), END_TOKEN] for text in allowed]
        while len(steps) < limit:
            here = prompt + "".join(step.token for step in steps)
            if paths is None:
                # Left to itself the toy would hardly ever end; a turn of three to ten tokens is
                # enough.
                token = (
                    END_TOKEN
                    if len(steps) >= 3 + _hash(f"{self.seed}|{prompt}") % 8
                    else self.rank_tokens(here, 2)[len(steps) % 2][0]
                )
                choice = self.rank_tokens(here, top, [token])
                logprob = self.logprobs(here, [token])[0]
            else:
                allowed_tokens = list(dict.fromkeys(path[len(steps)] for path in paths))
                ranks = sorted(
                    zip(allowed_tokens, self.logprobs(here, allowed_tokens), strict=True),
                    key=lambda pair: -pair[1],
                )
                token, logprob = ranks[0]
                choice = self.rank_tokens(here, top, allowed_tokens)
                if renormalize:
                    total = math.log(sum(math.exp(value) for _, value in ranks))
                    logprob, choice = (
                        logprob - total,
                        [(piece, value - total) for piece, value in ranks[:top]],
                    )
                paths = [path for path in paths if path[len(steps)] == token]
            if token == END_TOKEN:
                return steps, "stop"
            steps.append(ToyStep(token, logprob, tuple(choice)))
            if any(mark in "".join(step.token for step in steps) for mark in stop):
                return steps[:-1], "stop"
        return steps, "length"

    def _compute_constrained_logprob(
        self, prompt: str, path: list[str], texts: Sequence[str]
    ) -> float:
        paths = [[*split_tokens(text), END_TOKEN] for text in texts]
        total = 0.0
        for at, token in enumerate(path):
            allowed_tokens = list(
                dict.fromkeys(other[at] for other in paths if other[:at] == path[:at])
            )
            values = dict(
                zip(
                    allowed_tokens,
                    self.logprobs(prompt + "".join(path[:at]), allowed_tokens),
                    strict=True,
                )
            )
            total += values[token] - math.log(sum(math.exp(value) for value in values.values()))
        return total

    @staticmethod
    def _hash_weight(state: bytes, token: str) -> float:
        return (
            int.from_bytes(hashlib.blake2b(state + token.encode(), digest_size=4).digest(), "big")
            / 2**32
            * 8
            - 4
        )


def split_tokens(text: str) -> list[str]:
    return _PIECE.findall(text)


def render_chat(messages: Sequence[Mapping[str, Any]], *, open_turn: bool = True) -> str:
    """The toy's chat template. A last turn of the assistant is gone on with where ``open_turn`` is
    False.
    """
    turns = [f"<|{message['role']}|>{message['content']}" for message in messages]
    if open_turn:
        return END_TOKEN.join([*turns, "<|assistant|>"])
    return END_TOKEN.join(turns)


def list_schema_texts(
    schema: Mapping[str, Any], separators: tuple[str, str] = (",", ":")
) -> list[str]:
    """A few JSON texts that satisfy the schema; all of them, where it is made of enums, constants
    and booleans.
    """
    return [
        json.dumps(value, ensure_ascii=False, separators=separators)
        for value in _list_schema_values(schema, schema)
    ]


def list_grammar_texts(grammar: str) -> list[str]:
    """The texts of a GBNF grammar whose root is a choice of literals."""
    root = next(line for line in grammar.splitlines() if line.strip().startswith("root"))
    return [
        json.loads(literal)
        for literal in re.findall(r'"(?:[^"\\]|\\.)*"', root.partition("::=")[2])
    ]


def _list_schema_values(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> list[Any]:
    if "$ref" in schema:
        return _list_schema_values(whole.get("$defs", {})[schema["$ref"].rpartition("/")[2]], whole)
    if "enum" in schema:
        return list(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    if "anyOf" in schema:
        return [value for part in schema["anyOf"] for value in _list_schema_values(part, whole)]
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        return [
            value for part in kind for value in _list_schema_values({**schema, "type": part}, whole)
        ]
    if kind == "object":
        names = list(schema.get("properties", {}))
        parts = [_list_schema_values(schema["properties"][name], whole) for name in names]
        return [
            dict(zip(names, values, strict=True))
            for values in itertools.islice(itertools.product(*parts), 4096)
        ]
    if kind == "array":
        return [[], *([value] for value in _list_schema_values(schema.get("items", {}), whole))]
    return {
        "boolean": [True, False],
        "null": [None],
        "integer": [1, 2, 3],
        "number": [0.5, 2.0],
    }.get(kind, ["left", "right", "both"])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")

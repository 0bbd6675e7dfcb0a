"""Which tokens a JSON schema allows next, by llguidance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.engines.tokens.tokenizer import Tokenizer
from medtask.engines.writing.grammar import Schema, has_quotes, write_grammar
from medtask.errors import InputError, MissingExtra

LEXER_FUEL = 100_000_000  # some seconds; quotes from a text of 20,000 characters take 0.1 s


class Constraint:
    """One row's way through its grammar. ``done``: nothing can be added; ``fault``: why it cannot
    be gone on with.
    """

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self.words = -(-vocabulary // 32)
        self.done = False
        self.fault: str | None = None
        self._matcher = matcher
        self._look()

    def take(self, token: int) -> None:
        """Go on behind a token."""
        self._matcher.consume_token(token)
        self._look()

    def fill(self, mask: NDArray[np.int32]) -> None:
        """Set the bits of the tokens that are allowed next [words]."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    def _look(self) -> None:
        self.done = self._matcher.is_stopped()
        if self._matcher.is_error():  # its own words may hold the record's
            self.fault = "the schema and this row's text are too complex together"


class Schemas:
    """Makes constraints for a tokenizer and the ``vocabulary`` of its model, of which ``ends`` may
    close a text.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: Collection[int]) -> None:
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError:
            raise MissingExtra(
                "llguidance is not installed here", fix="pip install llguidance"
            ) from None
        vocabulary = max(vocabulary, tokenizer.size)  # either may be the larger one
        self._tokenizer = tokenizer.guide(vocabulary, sorted(ends))
        self._limits = LLParserLimits(initial_lexer_fuel=LEXER_FUEL, verbose_errors=False)
        self._matcher = LLMatcher
        self._vocabulary = vocabulary

    def read(self, schema: Schema, *, space: bool) -> Callable[[str], Constraint]:
        """What makes the constraint of a record by its text. ``space``: a space may stand before
        the JSON.

        InputError for a schema that is invalid, unsatisfiable or not known to llguidance.
        """
        start = self._start(write_grammar(schema, "x", space=space))
        if wrong := start.get_error():
            said = wrong.partition("\n")[0].partition("JSON schema: ")
            raise InputError(
                f"the schema cannot be used: {said[2] or said[0]}",
                fix="correct the schema in the task file",
            )
        if not has_quotes(schema):
            return lambda text: Constraint(start.deep_copy(), self._vocabulary)
        return lambda text: Constraint(
            self._start(write_grammar(schema, text, space=space)), self._vocabulary
        )

    def _start(self, grammar: str) -> Any:
        return self._matcher(
            self._tokenizer,
            self._matcher.grammar_from_lark(grammar),
            log_level=0,
            limits=self._limits,
        )


def allowed_tokens(constraints: Sequence[Constraint], vocabulary: int) -> NDArray[np.bool_]:
    """Which tokens each row's constraint allows next [rows, vocabulary]."""
    masks = np.zeros((len(constraints), constraints[0].words), dtype=np.int32)
    for constraint, mask in zip(constraints, masks, strict=True):
        constraint.fill(mask)
    return np.unpackbits(masks.view(np.uint8), axis=1, count=vocabulary, bitorder="little").astype(
        bool
    )

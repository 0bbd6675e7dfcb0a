"""Determines the tokens that a JSON schema allows next, with llguidance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.engines.decoding.grammar import JsonSchema, build_grammar, has_quotes
from medtask.engines.tokens.tokenizer import Tokenizer
from medtask.errors import InputError, require_packages

MAX_LEXER_FUEL = 100_000_000  # a few seconds; quotes from a text of 20,000 characters take 0.1 s


class GrammarConstraint:
    """The grammar state of one row.

    Attributes:
        is_finished: True if no token can follow.
        error: Why the row cannot be continued, if it cannot.
    """

    def __init__(self, matcher: Any, vocabulary_size: int) -> None:
        self.mask_words = -(-vocabulary_size // 32)
        self.is_finished = False
        self.error: str | None = None
        self._matcher = matcher
        self._update_state()

    def accept_token(self, token: int) -> None:
        """Advance the state by a token."""
        self._matcher.consume_token(token)
        self._update_state()

    def fill_mask(self, mask: NDArray[np.int32]) -> None:
        """Set the bits of the tokens that are allowed next [words]."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    def _update_state(self) -> None:
        self.is_finished = self._matcher.is_stopped()
        if self._matcher.is_error():  # its message may contain text of the record
            self.error = "the schema and this row's text are too complex together"


class ConstraintFactory:
    """Makes constraints for a tokenizer and a model with ``vocabulary_size`` logits; each of
    ``eos_token_ids`` ends a text.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocabulary_size: int, eos_token_ids: Collection[int]
    ) -> None:
        require_packages("llguidance", fix="pip install llguidance")
        from llguidance import LLMatcher, LLParserLimits

        # The tokenizer's vocabulary or the number of logits may be the larger one.
        vocabulary_size = max(vocabulary_size, tokenizer.vocabulary_size)
        self._tokenizer = tokenizer.to_llguidance(vocabulary_size, sorted(eos_token_ids))
        self._limits = LLParserLimits(initial_lexer_fuel=MAX_LEXER_FUEL, verbose_errors=False)
        self._matcher_class = LLMatcher
        self._vocabulary_size = vocabulary_size

    def compile_schema(
        self, schema: JsonSchema, *, leading_space: bool
    ) -> Callable[[str], GrammarConstraint]:
        """Compile a schema.

        Args:
            schema: The JSON schema.
            leading_space: Whether a space may precede the JSON.

        Returns:
            A function from a record's text to its constraint.

        Raises:
            InputError: The schema is invalid, unsatisfiable or not supported by llguidance.
        """
        matcher = self._create_matcher(build_grammar(schema, "x", leading_space=leading_space))
        if error := matcher.get_error():
            message = error.partition("\n")[0].partition("JSON schema: ")
            raise InputError(
                f"the schema cannot be used: {message[2] or message[0]}",
                fix="correct the schema in the task file",
            )
        if not has_quotes(schema):
            return lambda text: GrammarConstraint(matcher.deep_copy(), self._vocabulary_size)
        return lambda text: GrammarConstraint(
            self._create_matcher(build_grammar(schema, text, leading_space=leading_space)),
            self._vocabulary_size,
        )

    def _create_matcher(self, grammar: str) -> Any:
        return self._matcher_class(
            self._tokenizer,
            self._matcher_class.grammar_from_lark(grammar),
            log_level=0,
            limits=self._limits,
        )


def compute_allowed_tokens(
    constraints: Sequence[GrammarConstraint], vocabulary_size: int
) -> NDArray[np.bool_]:
    """The tokens that each row's constraint allows next [rows, vocabulary]."""
    masks = np.zeros((len(constraints), constraints[0].mask_words), dtype=np.int32)
    for constraint, mask in zip(constraints, masks, strict=True):
        constraint.fill_mask(mask)
    return np.unpackbits(
        masks.view(np.uint8), axis=1, count=vocabulary_size, bitorder="little"
    ).astype(bool)

"""Writing: from prompts to texts, many at once where the model lets us, one by one where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from medtask.engines.hf.desk import Desk, measure_token
from medtask.engines.hf.dictate import dictate
from medtask.engines.hf.memory import free_memory, is_out_of_memory, measure_room
from medtask.engines.hf.reader import Reader
from medtask.engines.tokens.chat import Chat
from medtask.engines.writing.begin import begin_drafts, find_ends
from medtask.engines.writing.constrain import Schemas
from medtask.engines.writing.draft import Draft, Ends
from medtask.engines.writing.write import Show, write_texts
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Prompt

ROWS_AT_ONCE = (
    64  # all that callers hand over together; half as many were a third slower on two cores
)


class Writer:
    """A model that writes. ``limit``: tokens that it reads at most; ``rows``: rows that it writes
    at once at most, and ``room``: bytes that their keys and values may take.
    """

    def __init__(self, model: Any, chat: Chat, reader: Reader, limit: int) -> None:
        self.model = model
        self.chat = chat
        self.reader = reader
        self.limit = limit
        self.rows = ROWS_AT_ONCE
        self.room: int | None = None
        self._token_bytes = 0
        self._schemas: Schemas | None = None

    def write(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        known: Collection[str],
        on_text: Callable[[str], None] | None,
        budget: int | None,
    ) -> Iterator[Generated | Fault]:
        """See HfEngine.generate. ``budget``: tokens of one forward pass; None: row by row, by
        transformers' own means.
        """

        def begin() -> Sequence[Draft]:
            return begin_drafts(
                self.chat, prompts, limits, self.find_ends(limits), self.limit, self._make_schemas
            )

        def write(drafts: Sequence[Draft], show: Show) -> Iterator[Draft]:
            return (
                self._write_plainly(drafts, limits, show)
                if budget is None
                else self._write_together(drafts, limits, budget, show)
            )

        return write_texts(prompts, known, on_text, begin, write)

    def find_ends(self, limits: Limits) -> Ends:
        """What ends a text by itself, by the model's own settings too."""
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return find_ends(self.chat, limits, named if isinstance(named, list) else [named])

    def _make_schemas(self) -> Schemas:
        self._schemas = self._schemas or Schemas(
            self.chat.tokenizer, len(self.reader.head.weight), self.find_ends(Limits(1)).tokens
        )
        return self._schemas

    def _write_plainly(
        self, drafts: Sequence[Draft], limits: Limits, show: Show
    ) -> Iterator[Draft]:
        for draft in drafts:
            start = time.perf_counter()
            draft.start()
            dictate(self.model, draft, limits.max_tokens, show)
            draft.ms += (time.perf_counter() - start) * 1000
            yield draft

    def _write_together(
        self, drafts: Sequence[Draft], limits: Limits, budget: int, show: Show
    ) -> Iterator[Draft]:
        if not drafts:
            return
        row = self._measure_row(max(len(draft.tokens) for draft in drafts) + limits.max_tokens)
        desk = Desk(
            self.reader,
            drafts,
            max(1, min(self.rows, (self.room or 0) // row, len(drafts))),
            budget,
        )
        while desk.live or desk.waiting:
            try:
                desk.advance()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise EngineError(
                        f"the model failed while it wrote ({type(error).__name__})",
                        fix="run `medtask doctor --model` with this model",
                    ) from error
                alone = desk.clear_half()
                free_memory()
                if alone:
                    alone.fail(f"out of memory on this row alone ({len(alone.tokens):,} tokens)")
                    yield alone
                else:
                    self.room = desk.rows * row
                continue
            for draft in desk.live[:1]:
                show(draft)
            yield from desk.clear_done()

    def _measure_row(self, tokens: int) -> int:
        """Bytes of the keys and values of so many tokens. The first call finds out what a token
        takes, and what there is.
        """
        self._token_bytes = self._token_bytes or measure_token(self.reader)
        self.room = measure_room(self.model) if self.room is None else self.room
        return self._token_bytes * tokens

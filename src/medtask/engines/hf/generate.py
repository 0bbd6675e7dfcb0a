"""Writing: from prompts to texts, many at once where the model lets us, one by one where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from typing import Any

from medtask.engines.hf.desk import Desk, measure_token
from medtask.engines.hf.dictate import dictate
from medtask.engines.hf.memory import free_memory, is_out_of_memory, measure_room
from medtask.engines.hf.reader import Reader
from medtask.engines.tokens.chat import Chat, write_opening, write_thinking
from medtask.engines.writing.constrain import Schemas
from medtask.engines.writing.draft import Draft, Ends
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Prompt, Status

ROWS_AT_ONCE = 64  # all that callers hand over together; half as many were a third slower on two cores

Show = Callable[[Draft], None]


class Writer:
    """A model that writes. ``limit``: tokens that it reads at most; ``rows``: rows that it writes at once at most, and ``room``:
    bytes that their keys and values may take.
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
        self, prompts: Sequence[Prompt], limits: Limits, known: Collection[str], on_text: Callable[[str], None] | None, budget: int | None
    ) -> Iterator[Generated | Fault]:
        """See HfEngine.generate. ``budget``: tokens of one forward pass; None: row by row, by transformers' own means."""
        if on_text and len(prompts) > 1:
            raise EngineError("only one text can be shown while it is written", fix="ask about one prompt at a time")
        if all(prompt.record_id in known for prompt in prompts):
            return
        drafts = self._begin(prompts, limits)
        able = [draft for draft in drafts if draft.fault is None]
        show = _show_to(on_text) if on_text else _show_nobody
        written = self._write_plainly(able, limits, show) if budget is None else self._write_together(able, limits, budget, show)
        for draft in chain((draft for draft in drafts if draft.fault), written):
            show(draft)
            if draft.record_id not in known:
                yield draft.finish()

    def _begin(self, prompts: Sequence[Prompt], limits: Limits) -> list[Draft]:
        """A draft for each prompt; those that cannot be written bear their fault."""
        texts = [self._write_opening(prompt, limits) for prompt in prompts]
        # " A" and "A" are different tokens: the model writes the space itself.
        tokens = self.chat.tokenizer.encode([text.rstrip(" ") for text in texts])
        ends = find_ends(self.model, self.chat, limits)
        drafts = [Draft(prompt, own, limits, ends, self.chat.tokenizer) for prompt, own in zip(prompts, tokens, strict=True)]
        for draft in drafts:
            longest = draft.asked + limits.max_tokens
            if longest > self.limit:
                reason = f"{longest:,} tokens with the {limits.max_tokens:,} that may be written; the model reads at most {self.limit:,}"
                draft.fail(reason, Status.TOO_LONG)
        if limits.schema is not None:
            self._schemas = self._schemas or Schemas(self.chat.tokenizer, len(self.reader.head.weight), ends.tokens)
            make = self._schemas.read(limits.schema, space=not self.chat.template or texts[0].endswith(" "))
            for draft, prompt in zip(drafts, prompts, strict=True):
                if draft.fault is None:
                    draft.hold_to(make(prompt.text))
        return drafts

    def _write_opening(self, prompt: Prompt, limits: Limits) -> str:
        if not limits.think:
            return write_opening(self.chat, prompt)
        # The options of a choice stand in what its first branch asks: there is nothing to think about without them.
        return write_thinking(self.chat, prompt, prompt.branches[0].ask if prompt.branches else "")

    def _write_plainly(self, drafts: Sequence[Draft], limits: Limits, show: Show) -> Iterator[Draft]:
        for draft in drafts:
            start = time.perf_counter()
            draft.start()
            dictate(self.model, draft, limits.max_tokens, show)
            draft.ms += (time.perf_counter() - start) * 1000
            yield draft

    def _write_together(self, drafts: Sequence[Draft], limits: Limits, budget: int, show: Show) -> Iterator[Draft]:
        if not drafts:
            return
        row = self._measure_row(max(len(draft.tokens) for draft in drafts) + limits.max_tokens)
        desk = Desk(self.reader, drafts, max(1, min(self.rows, (self.room or 0) // row, len(drafts))), budget)
        while desk.live or desk.waiting:
            try:
                desk.advance()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise EngineError(
                        f"the model failed while it wrote ({type(error).__name__})", fix="run `medtask doctor --model` with this model"
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
        """Bytes of the keys and values of so many tokens. The first call finds out what a token takes, and what there is."""
        self._token_bytes = self._token_bytes or measure_token(self.reader)
        self.room = measure_room(self.model) if self.room is None else self.room
        return self._token_bytes * tokens


def find_ends(model: Any, chat: Chat, limits: Limits) -> Ends:
    """What ends a text by itself: the model's and the tokenizer's end tokens, the end of a turn, the stop texts."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    tokens = set(named if isinstance(named, list) else [named]) | {chat.tokenizer.end_id}
    closing = chat.tokenizer.encode([chat.closing])[0]
    tokens.update(chat.tokenizer.special_ids.intersection(closing))
    ends = frozenset(int(token) for token in tokens if token is not None)
    if limits.think:
        return Ends(ends, (*limits.stop, *chat.thinking.stops), specials=chat.tokenizer.specials)
    # Without a chat template an answer ends with its line (see Chat); a JSON text has no lines.
    return Ends(ends, limits.stop, line=not chat.tokenizer.special_ids.intersection(closing))


def _show_to(on_text: Callable[[str], None]) -> Show:
    """Hands on each further piece of the one draft's text as soon as it is certain."""
    shown = 0

    def show(draft: Draft) -> None:
        nonlocal shown
        text = draft.text()
        if len(text) > shown:
            on_text(text[shown:])
            shown = len(text)

    return show


def _show_nobody(draft: Draft) -> None:
    """Nobody reads along."""

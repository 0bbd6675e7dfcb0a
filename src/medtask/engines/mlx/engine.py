"""The `mlx` engine: models on Apple silicon (and, slowly, on any CPU) through mlx-lm, asked
exactly.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from medtask.engines.base import Caps, EngineInfo
from medtask.engines.mlx.reader import BUDGET, ROWS_AT_ONCE, Reader, cut
from medtask.engines.packed import PackedEngine
from medtask.engines.tokens.batch import Unit
from medtask.engines.tokens.chat import Question, count_shared, read_chat
from medtask.engines.tokens.tokenizer import HubTokenizer
from medtask.engines.tokens.walk import Reading, score_questions
from medtask.engines.writing.begin import begin_drafts, find_ends, find_prefix
from medtask.engines.writing.constrain import Schemas
from medtask.engines.writing.draft import Draft
from medtask.engines.writing.step import go_on
from medtask.engines.writing.write import Show, write_texts
from medtask.errors import EngineError
from medtask.records import BranchScores, Fault, Generated, Limits, Prompt, Scores


class MlxEngine(PackedEngine):
    """``model`` as mlx-lm and ``tokenizer`` as transformers loads it; ``limit``: tokens that it
    reads at most; ``ends``: the tokens that end a text by the model's own settings.
    """

    most_paths = ROWS_AT_ONCE

    def __init__(
        self, model: Any, tokenizer: Any, info: EngineInfo, *, limit: int, ends: Sequence[int]
    ) -> None:
        self.reader = Reader(model)
        self.info = info
        self.budget = BUDGET
        self.chat = read_chat(HubTokenizer(tokenizer))
        self.limit = self.context_tokens = limit
        self.ends = ends
        self.caps = Caps(
            score="exact",
            generate=True,
            schema=bool(tokenizer.is_fast),
            thinking_markers=self.chat.thinking.native,
            batch_invariant=info.identity["dtype"] == "float32",
        )
        self._schemas: Schemas | None = None

    def score_pack(self, pack: Sequence[Unit], shared: int) -> Iterator[Scores | Fault]:
        start = time.perf_counter()
        self.reader.tokens_read = 0
        with _failures():
            if self.reader.batched:
                self.reader.keep_prefix(pack[0].paths[0][:shared])
                self.reader.read(
                    [Reading(stem, 0, {len(stem) - 1: ()}) for stem in _find_stems(pack, shared)]
                )
            scores = iter(
                score_questions(
                    [question for unit in pack for question in unit.questions], self.reader.read
                )
            )
        read, ms = self.reader.tokens_read, (time.perf_counter() - start) * 1000
        for place, unit in enumerate(pack):
            # Shared out evenly; the first row pays for what is left over.
            tokens = read // len(pack) + (read % len(pack) if place == 0 else 0)
            branches = tuple(next(scores) for _ in unit.questions)
            yield Scores(
                unit.prompt.record_id,
                branches,
                tokens,
                max(0, unit.asked_apart - tokens),
                ms / len(pack),
            )

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        known: Collection[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated | Fault]:
        def begin() -> Sequence[Draft]:
            return begin_drafts(
                self.chat,
                prompts,
                limits,
                find_ends(self.chat, limits, self.ends),
                self.limit,
                self._make_schemas,
            )

        def write(drafts: Sequence[Draft], show: Show) -> Iterator[Draft]:
            with _failures():
                yield from self._write(drafts, limits.max_tokens, show) if drafts else ()

        return write_texts(prompts, known, on_text, begin, write)

    def score_plainly(self, questions: Sequence[Question]) -> list[BranchScores]:
        return score_questions(
            questions, lambda readings: [self.reader.read_plainly(reading) for reading in readings]
        )

    def give_up_packing(self, reason: str) -> None:
        super().give_up_packing(reason)
        self.reader.batched = False

    def close(self) -> None:
        del self.reader
        mx.clear_cache()

    def _make_schemas(self) -> Schemas:
        if self._schemas is None:
            vocabulary = self.reader.model(mx.array([[0]])).shape[-1]
            self._schemas = Schemas(
                self.chat.tokenizer, vocabulary, find_ends(self.chat, Limits(1), self.ends).tokens
            )
        return self._schemas

    def _write(self, drafts: Sequence[Draft], max_tokens: int, show: Show) -> Iterator[Draft]:
        """Rows in batches, the longest first; those that are done leave their batch."""
        ordered = sorted(drafts, key=lambda draft: -draft.asked)
        if not self.reader.batched:
            for draft in ordered:
                yield from self._write_batch([draft], 0, show)
            return
        start = time.perf_counter()
        prefix = find_prefix(drafts)
        ordered[0].read += self.reader.keep_prefix(prefix)
        ordered[0].ms += (time.perf_counter() - start) * 1000
        for part in cut([draft.asked for draft in ordered], len(prefix), max_tokens):
            yield from self._write_batch(ordered[part], len(prefix), show)

    def _write_batch(self, live: list[Draft], shared: int, show: Show) -> Iterator[Draft]:
        start = time.perf_counter()
        for draft in live:
            draft.start()
            draft.read += draft.asked - shared
            draft.reused += shared
        caches, found = self.reader.read_rows(
            [tuple(draft.tokens) for draft in live], [1] * len(live)
        )
        logits = np.concatenate(found)
        while True:
            go_on(live, logits)
            now = time.perf_counter()
            for draft in live:
                draft.ms += (now - start) * 1000 / len(live)
            start = now
            show(live[0])
            yield from (draft for draft in live if draft.done)
            left = [place for place, draft in enumerate(live) if not draft.done]
            if not left:
                return
            if len(left) < len(live):
                for cache in caches:
                    cache.filter(left)
            live = [live[place] for place in left]
            logits = self.reader.step(caches, [draft.tokens[-1] for draft in live])
            for draft in live:
                draft.read += 1


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise EngineError(
            f"the model failed on a batch ({type(error).__name__})",
            fix="close other programs, or take a smaller or a quantised model",
        ) from error


def _find_stems(pack: Sequence[Unit], shared: int) -> list[tuple[int, ...]]:
    """What the questions of a row have in common beyond what all rows share; each keeps the token
    behind which its answer begins.
    """
    stems = []
    for unit in pack:
        common = min(count_shared(unit.paths), *(question.ask for question in unit.questions))
        if len(set(unit.paths)) > 1 and common > shared:
            stems.append(unit.paths[0][:common])
    return stems

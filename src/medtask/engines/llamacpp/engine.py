"""The `llamacpp` engine: a GGUF file in this process, asked exactly through llama.cpp's batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import llama_cpp

from medtask.engines.base import Caps, EngineInfo
from medtask.engines.llamacpp.context import SEQUENCES, Context
from medtask.engines.llamacpp.reader import Reader
from medtask.engines.llamacpp.vocabulary import GgufTokenizer
from medtask.engines.llamacpp.writer import write_drafts
from medtask.engines.packed import PackedEngine
from medtask.engines.tokens.batch import Unit
from medtask.engines.tokens.chat import Question, read_chat
from medtask.engines.tokens.walk import score_questions
from medtask.engines.writing.begin import begin_drafts, find_ends
from medtask.engines.writing.constrain import Schemas
from medtask.engines.writing.draft import Draft
from medtask.engines.writing.write import Show, write_texts
from medtask.records import BranchScores, Fault, Generated, Limits, Prompt, Scores

# Own tokens of the rows that are read together. A token is compared with all that the context
# holds, so more costs a CPU time.
CPU_BUDGET, GPU_BUDGET = 256, 2048
LATER = 1024  # tokens that further levels of the tries may take besides


class LlamaCppEngine(PackedEngine):
    """``model``: a llama_cpp.llama_model_p, which this engine frees. ``most_cells``: tokens whose
    keys and values memory holds.
    """

    most_paths = SEQUENCES // 2  # the other half is for what the tries branch into

    def __init__(
        self,
        model: Any,
        context: Context,
        tokenizer: GgufTokenizer,
        info: EngineInfo,
        *,
        limit: int,
        most_cells: int,
    ) -> None:
        self.model = model
        self.info = info
        self.budget = GPU_BUDGET if context.offload else CPU_BUDGET
        self.chat = read_chat(tokenizer)
        self.limit = self.context_tokens = limit
        self.most_cells = most_cells
        self.caps = Caps(
            score="exact", generate=True, schema=True, thinking_markers=self.chat.thinking.native
        )
        self.reader = Reader(context)
        self._tokenizer = tokenizer
        self._schemas: Schemas | None = None

    def score_pack(self, pack: Sequence[Unit], shared: int) -> Iterator[Scores | Fault]:
        start = time.perf_counter()
        own = sum(unit.own_tokens(shared) for unit in pack)
        fresh = self.reader.keep_prefix(
            pack[0].paths[0][:shared], min(own + LATER, self.most_cells - shared)
        )
        scored = self._score_units(pack)
        spare = max(0, self.reader.tokens_read - own)
        ms = (time.perf_counter() - start) * 1000 / (own + spare + fresh)
        for place, (unit, branches) in enumerate(zip(pack, scored, strict=True)):
            # What the tries took is shared out evenly; the row for which the prefix was read pays
            # for it.
            tokens = (
                unit.own_tokens(shared)
                + spare // len(pack)
                + (spare % len(pack) + fresh if place == 0 else 0)
            )
            yield Scores(
                unit.prompt.record_id,
                branches,
                tokens,
                unit.asked_apart - unit.own_tokens(shared),
                ms * tokens,
            )

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        known: Collection[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated | Fault]:
        def begin() -> Sequence[Draft]:
            ends = find_ends(self.chat, limits, self._tokenizer.ends)
            return begin_drafts(self.chat, prompts, limits, ends, self.limit, self._read_schemas)

        def write(drafts: Sequence[Draft], show: Show) -> Iterator[Draft]:
            return write_drafts(self.reader, drafts, limits.max_tokens, self.most_cells, show)

        return write_texts(prompts, known, on_text, begin, write)

    def score_plainly(self, questions: Sequence[Question]) -> list[BranchScores]:
        longest = max(len(question.base) + question.longest for question in questions)
        self.reader.keep_prefix((), longest + LATER)
        return [score_questions([question], self.reader.read_apart)[0] for question in questions]

    def close(self) -> None:
        self.reader.context.close()
        if self.model is not None:
            llama_cpp.llama_model_free(self.model)
            self.model = None

    def _score_units(self, pack: Sequence[Unit]) -> list[tuple[BranchScores, ...]]:
        self.reader.tokens_read = 0
        questions = [question for unit in pack for question in unit.questions]
        scores = iter(
            score_questions(questions, self.reader.read)
            if self.packed
            else self.score_plainly(questions)
        )
        found = [tuple(next(scores) for _ in unit.questions) for unit in pack]
        self.reader.drop_rows()
        return found

    def _read_schemas(self) -> Schemas:
        self._schemas = self._schemas or Schemas(
            self._tokenizer, self._tokenizer.size, self._tokenizer.ends
        )
        return self._schemas

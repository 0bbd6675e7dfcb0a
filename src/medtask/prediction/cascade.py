"""A cascade: a small classifier answers the rows where it agrees with the model.

    rows:   | taught: random, then doubtful | tested: random | scored by the student           |
            |  the model answers            | model          | student: confident rows         |
                                                             | model: the others, and a sample |

The student learns the model's answers to the first rows of a random order, until cross-validation
predicts that it can answer enough rows. Its features are TF-IDF terms and, where the model is much
slower than MiniLM, sentence vectors. Then the model answers, in rounds, rows in which the student
is least confident: they would be left to it in any case, and the student learns most from them.

Then the model answers a random sample of the other rows, on which the threshold of the student is
found (`table_threshold`): in at most ``alpha`` of all rows of the table, the answer differs from
the model's, with the probability ``LEVEL`` over the draw of the sample. It is drawn when the
student is complete, and tested once, so that neither the rounds nor the choice of the taught rows
need a correction. Some rows of the student are also answered by the model, as an audit.

Rows with the same prompt are answered alike. The taught rows may share groups with the others: the
promise is about the rows of this table, and the sample shares groups in the same way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from medtask.display import format_count
from medtask.engines.base import Engine
from medtask.errors import InputError, UsageError
from medtask.evaluation.calibration.table_threshold import (
    compute_max_differences,
    find_table_threshold,
    plan_sample,
)
from medtask.prediction.cascade_report import CascadeDecision, CascadeReport, count_by_label
from medtask.prediction.cascade_rounds import (
    DOUBTFUL_ROUNDS,
    GROWTH,
    MAX_RANDOM_SHARE,
    CascadeRound,
    RoundTimes,
)
from medtask.prediction.cascade_rows import CascadeRows, IntArray, shuffle_prompts
from medtask.prediction.predictor import WINDOW, AnswerCache, RowAnswer
from medtask.prediction.student import (
    Student,
    fit_student,
    get_student_confidence,
    measure_agreement,
    predict_held_out_answers,
)
from medtask.prediction.student_vectors import SentenceVectors, choose_vectors
from medtask.prediction.suspicion import describe_suspicion, mark_suspicious
from medtask.records import Answer, Prompt, Record
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import build_prompt, hash_prompt
from medtask.tasks.task import STUDENT_PASS, Task

LEVEL = 0.95  # probability of the promise, over the random order
FIRST_ROWS = 400  # distinct prompts that the first student learns, at most
FIRST_SHARE = 20  # ... and at most one of this many
CANDIDATES = 20_000  # prompts among which doubtful ones are chosen
# A student is used only if it answers so many rows that at most this share of its own answers may
# differ. Without this, one that guesses would answer as many rows as may differ.
MAX_STUDENT_DIFFERENCES = 0.1
AUDIT_ROWS, MAX_AUDIT_SHARE = 100, 0.1  # of the rows above the threshold
TIMED_ROWS = 200  # rows on which the speed of a student is measured


def check_cascade(task: Task, alpha: float) -> None:
    """Raise UsageError or InputError if a task cannot be answered by a cascade."""
    if not 0 < alpha < 1:
        raise UsageError(
            f"a cascade with alpha {alpha:g} is not possible: it must lie between 0 and 1",
            fix="give the share of rows that may differ, such as 0.02",
        )
    if conflict := get_task_kind(task).find_cascade_conflict():
        raise InputError(conflict, fix="leave the cascade out: the model answers every row")


@dataclass(slots=True)
class Cascade:
    """Answers a table with a model and its student.

    Attributes:
        alpha: Share of all rows that may differ.
        seed: Seed of the random order.
        rows: Number of rows.
        finish_answer: Returns the answer as it is in the tables, such as a calibrated one.
        save_decision: Called when the features are chosen, and before the student answers a row.
        decision: The decision of an earlier session.
        vectors: Sentence vectors, which the student uses where they pay.
        report: The result; None until all rows are answered.
    """

    alpha: float
    seed: int
    rows: int
    finish_answer: Callable[[Answer], Answer]
    save_decision: Callable[[CascadeDecision], None]
    decision: CascadeDecision | None = None
    vectors: SentenceVectors | None = field(default_factory=SentenceVectors)
    report: CascadeReport | None = None
    _student_s: float = 0.0
    _model_s_per_row: float = 0.0

    def answer_rows(
        self,
        task: Task,
        engine: Engine,
        records: Iterable[Record],
        cache: AnswerCache,
        *,
        pass_engines: Mapping[str, Engine] | None = None,
    ) -> Generator[RowAnswer, None, None]:
        """Yield an answer for every row that is not in ``cache``; see `predictor.answer_rows`.

        ``records`` are read several times.
        """
        prompts = shuffle_prompts(task, records, self.seed)
        part = CascadeRows(
            task, engine, pass_engines or {}, records, cache, prompts, self.finish_answer
        )
        yield from part.ask_model(prompts.find_rows_without_prompt())
        if self.decision is None or not self.decision.taught:
            part, taught, sample = yield from self._teach(part)
            if taught.doubtful:
                part = part.shuffle_rest(taught.taught, self.seed)
            self.decision = yield from self._test(part, taught, sample)
            self.save_decision(self.decision)
        else:
            self.vectors = self.vectors if self.decision.uses_vectors else None
            part = yield from self._teach_again(part, self.decision)
            if self.decision.doubtful:
                part = part.shuffle_rest(self.decision.taught, self.seed)
        yield from self._finish(part, self.decision)

    @property
    def allowed(self) -> int:
        """Number of rows that may differ."""
        return int(self.alpha * self.rows + 1e-9)

    @property
    def min_rows(self) -> float:
        """The fewest rows that a student must answer."""
        return self.allowed / MAX_STUDENT_DIFFERENCES

    def _teach(
        self, part: CascadeRows
    ) -> Generator[RowAnswer, None, tuple[CascadeRows, CascadeDecision, int]]:
        """Let the model answer more and more rows; returns a decision and a sample size."""
        count, sample = part.prompts.count, 0
        if count < 2:
            return part, self._decide(0, refusal="a student needs rows with different texts"), 0
        size = min(FIRST_ROWS, math.ceil(count / FIRST_SHARE))
        doubtful: list[int] = []
        yield from part.ask_model(part.prompts.find_rows(0, size))
        self._choose_features(part, size)
        while True:
            found = self._predict_round(part, size, size - sum(doubtful))
            if refusal := found.find_refusal():
                return part, self._decide(size, doubtful, refusal), 0
            if found.is_promising:
                sample = found.plan.size
            elif not doubtful and (grown := math.ceil(GROWTH * size)) * MAX_RANDOM_SHARE <= count:
                yield from part.ask_model(part.prompts.find_rows(size, grown))
                size = grown
                continue
            added = math.ceil(found.doubtful_share * min(CANDIDATES, count - size))
            if not found.is_promising or len(doubtful) == DOUBTFUL_ROUNDS or not added:
                break
            part = yield from self._ask_doubtful(part, size, added)
            doubtful.append(added)
            size += added
        failure = self._describe_failure(f"by {size:,} answers of the model")
        refusal = None if sample else failure
        return part, self._decide(size, doubtful, refusal), sample

    def _ask_doubtful(
        self, part: CascadeRows, taught: int, added: int
    ) -> Generator[RowAnswer, None, CascadeRows]:
        """Let the model answer the rows in which a student of the ``taught`` is least confident."""
        student, started = self._fit(part, taught), time.perf_counter()
        rows = part.prompts.find_first_rows(taught, taught + CANDIDATES)
        if student is not None:
            answers = student.answer([""] * len(rows), part.read_texts(rows))
            confidence = list(map(get_student_confidence, answers))
            rows = rows[np.argsort(confidence, kind="stable")]
        chosen = part.prompts.prompt_of[rows[:added] - 1]
        self._student_s += time.perf_counter() - started
        moved = part.move_forward(taught, chosen)
        yield from moved.ask_model(moved.prompts.find_rows(taught, taught + added))
        return moved

    def _teach_again(
        self, part: CascadeRows, decision: CascadeDecision
    ) -> Generator[RowAnswer, None, CascadeRows]:
        """Let the model answer the taught rows of an earlier session."""
        size = decision.taught - sum(decision.doubtful)
        yield from part.ask_model(part.prompts.find_rows(0, size))
        for added in decision.doubtful:
            part = yield from self._ask_doubtful(part, size, added)
            size += added
        return part

    def _choose_features(self, part: CascadeRows, size: int) -> None:
        """Choose the features of the student, by measured times, once per run."""
        taught = part.read_taught(size)
        if self.decision is None:
            if self.vectors is not None:
                self.vectors = choose_vectors(self.vectors, taught.texts, taught.model_s_per_row)
            self.decision = self._decide(0)
            self.save_decision(self.decision)
            return
        self.vectors = self.vectors if self.decision.uses_vectors else None
        if self.vectors is not None:
            self.vectors.measure(taught.texts)

    def _decide(
        self, size: int, doubtful: Sequence[int] = (), refusal: str | None = None
    ) -> CascadeDecision:
        return CascadeDecision(
            size,
            doubtful=tuple(doubtful),
            refusal=refusal,
            uses_vectors=self.vectors is not None,
        )

    def _predict_round(self, part: CascadeRows, size: int, random: int) -> CascadeRound:
        """What is predicted if the student learns the first ``size`` prompts.

        The first ``random`` of them are a random sample of all prompts.
        """
        taught = part.read_taught(size)
        is_random = part.prompts.prompt_of[part.prompts.find_first_rows(0, size) - 1] < random
        # Before the clock starts, because packages are imported.
        student = fit_student(part.task, taught, self.vectors)
        started = time.perf_counter()
        confidence, differs = predict_held_out_answers(part.task, taught, is_random, self.vectors)
        seconds = time.perf_counter() - started
        # Without the part that is like the chosen ones, these rows are like the rest of the table.
        chosen = (size - random) / (part.prompts.count - random)
        rest = np.argsort(confidence, kind="stable")[int(chosen * len(confidence)) :]
        started = time.perf_counter()
        texts = taught.texts[:TIMED_ROWS]
        if student:
            student.answer([""] * len(texts), texts)
        student_s_per_row = (time.perf_counter() - started) / len(texts)
        self._student_s += time.perf_counter() - started + seconds
        seconds += DOUBTFUL_ROUNDS * student_s_per_row * min(CANDIDATES, part.prompts.count - size)
        if self.vectors is not None:  # those of the taught rows are kept: they took no time here
            student_s_per_row += self.vectors.seconds_per_text
        population = len(part.prompts.find_rows(size, part.prompts.count))
        plan = plan_sample(confidence[rest], differs[rest], population, self.allowed, 1 - LEVEL)
        return CascadeRound(
            size,
            population,
            self.min_rows,
            plan,
            RoundTimes(seconds, student_s_per_row, taught.model_s_per_row),
        )

    def _test(
        self, part: CascadeRows, taught: CascadeDecision, size: int
    ) -> Generator[RowAnswer, None, CascadeDecision]:
        """Find the threshold of the student on a fresh sample."""
        if not size:
            return taught
        sample = part.prompts.sample_rows(taught.taught, size)
        yield from part.ask_model(part.prompts.find_sampled_rows(taught.taught, size))
        student = self._fit(part, taught.taught)
        tested = part.read_taught_rows(sample)
        if student is None:
            return replace(taught, refusal=self._describe_failure("by its answers"))
        answers = student.answer([""] * len(tested), tested.texts)
        confidence, differs = measure_agreement(part.task, answers, tested.answers)
        population = len(part.prompts.find_rows(taught.taught, part.prompts.count))
        most = compute_max_differences(population, size, self.allowed, 1 - LEVEL)
        threshold = find_table_threshold(confidence, differs, most)
        accepted = confidence > (math.inf if threshold is None else threshold)
        decision = replace(
            taught,
            tested=len(tested),
            max_differences=most,
            threshold=threshold,
            accepted=int(accepted.sum()),
            differences=int((accepted & differs).sum()),
            by_label=count_by_label(part.task, answers, tested.answers, accepted),
        )
        if accepted.mean() * population < self.min_rows:
            refusal = self._describe_failure(f"in {size:,} rows that it had not learnt")
            return replace(decision, threshold=None, refusal=refusal)
        return decision

    def _finish(
        self, part: CascadeRows, decision: CascadeDecision
    ) -> Generator[RowAnswer, None, None]:
        """Answer the rows that are neither taught nor tested."""
        prompts = part.prompts
        tested = prompts.find_sampled_rows(decision.taught, decision.tested)
        yield from part.ask_model(tested)
        first = decision.taught + len(np.unique(prompts.prompt_of[tested - 1]))
        rest = prompts.find_rows(first, prompts.count)
        student = None if decision.threshold is None else self._fit(part, decision.taught)
        answered = _StudentRows()
        if student is None:
            yield from part.ask_model(rest)
        else:
            yield from self._answer_by_student(part, student, rest, answered)
            yield from part.ask_model(np.array(answered.left, dtype=np.int64))
        self.report = self._make_report(part, decision, answered)

    def _answer_by_student(
        self, part: CascadeRows, student: Student, rest: IntArray, answered: _StudentRows
    ) -> Generator[RowAnswer, None, None]:
        """Yield the student's answers above the threshold, and collect the other rows."""
        assert self.decision is not None and self.decision.threshold is not None
        prompt_of = part.prompts.prompt_of
        share = self.decision.accepted / self.decision.tested
        expected = share * len(np.unique(prompt_of[rest - 1]))
        random = np.random.default_rng([self.seed, 1])
        audited = random.random(part.prompts.count) < min(
            MAX_AUDIT_SHARE, AUDIT_ROWS / max(1.0, expected)
        )
        records = part.select_records(rest)
        while window := list(islice(records, WINDOW)):
            started = time.perf_counter()
            found = [build_prompt(part.task, record) for _, record in window]
            texts = [prompt.text for prompt in found if isinstance(prompt, Prompt)]
            answers = student.answer([record.id for _, record in window], texts)
            self._student_s += time.perf_counter() - started
            earlier = part.cache.list_answered_rows(window[0][0], window[-1][0])
            for (row, _), prompt, answer in zip(window, found, answers, strict=True):
                assert isinstance(prompt, Prompt)  # rows without one have been answered
                number = int(prompt_of[row - 1])
                is_accepted = get_student_confidence(answer) > self.decision.threshold
                if is_accepted and not audited[number]:
                    answered.rows.append(row)
                    if row not in earlier:
                        marked = mark_suspicious(answer, describe_suspicion(prompt))
                        yield RowAnswer(row, hash_prompt(prompt), marked)
                    continue
                answered.left.append(row)
                if is_accepted:
                    answered.audited.setdefault(number, (row, answer))

    def _make_report(
        self, part: CascadeRows, decision: CascadeDecision, answered: _StudentRows
    ) -> CascadeReport:
        pairs = list(answered.audited.values())
        taught = part.read_taught_rows(np.array([row for row, _ in pairs], dtype=np.int64))
        # After a change of versions, an earlier session may have accepted an audited row.
        compared = [
            (answer, model)
            for (_, answer), model in zip(pairs, taught.answers, strict=True)
            if model.pass_name != STUDENT_PASS
        ]
        _, differs = measure_agreement(
            part.task, [one for one, _ in compared], [model for _, model in compared]
        )
        prompt_of = part.prompts.prompt_of
        student_prompts = len(np.unique(prompt_of[np.array(answered.rows, dtype=np.int64) - 1]))
        return CascadeReport(
            alpha=self.alpha,
            level=LEVEL,
            rows=self.rows,
            model_rows=int((prompt_of >= 0).sum()) - len(answered.rows),
            student_rows=len(answered.rows),
            audited=len(compared),
            audit_differences=int(differs.sum()),
            student_s=self._student_s,
            saved_s=student_prompts * self._model_s_per_row - self._student_s,
            decision=decision,
        )

    def _fit(self, part: CascadeRows, size: int) -> Student | None:
        taught = part.read_taught(size)
        self._model_s_per_row = taught.model_s_per_row
        return fit_student(part.task, taught, self.vectors)

    def _describe_failure(self, evidence: str) -> str:
        return (
            f"{evidence}, the student agrees with the model too rarely to answer rows for it: at "
            f"most {self.allowed:,} of {format_count(self.rows, 'row')} may differ"
        )


@dataclass(slots=True)
class _StudentRows:
    """Rows of the student, rows left to the model, and audited rows by prompt with an answer."""

    rows: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    audited: dict[int, tuple[int, Answer]] = field(default_factory=dict)

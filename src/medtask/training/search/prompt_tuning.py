"""A search of words from beginning to end: rows divided, candidates tried, the best held against
the task as it was, a file written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal

from medtask.atomic_files import replace_text
from medtask.engines.base import Engine
from medtask.errors import EngineError, UsageError
from medtask.prediction.asking import check_engine
from medtask.runs.manifest import guard_network
from medtask.runs.signals import Interrupted, catch_signals
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from medtask.training.search.candidate_evaluator import (
    CandidateEvaluator,
    SearchObserver,
    answer_rows,
)
from medtask.training.search.example_search import search_examples
from medtask.training.search.gain import Gain, measure_gain
from medtask.training.search.gepa_search import search_with_gepa
from medtask.training.search.prompt_candidate import PromptCandidate, extract_candidate, narrow_task
from medtask.training.search.proposer import Proposer, check_proposer
from medtask.training.search.search_budget import SearchBudget, SearchStopped
from medtask.training.search.search_data import SearchData
from medtask.training.search.task_rewriting import rewrite_task

SearchTarget = Literal["prompt", "examples", "mipro"]
_EXAMPLE_SEARCH_SHARE = 0.5  # of the time, where instructions are searched for after them
_NO_GAIN_TEXT = (
    "Nothing did better than the task as it is on the {rows} validation rows; the test "
    "rows were not used."
)


@dataclass(frozen=True, slots=True)
class PromptTuningResult:
    """What a search of words came to. ``gain``: None where nothing did better on validation, so
    that nothing was tested. ``task_text``: the new task file, None where it is not to be written;
    ``changed``: which of its keys are new. ``before`` and ``after``: the headline on validation, by
    which the result was chosen: the second is too good; None where not even that was asked.
    ``ended``: why the search ended.
    """

    best: PromptCandidate
    changed: tuple[str, ...]
    gain: Gain | None
    task_text: str | None
    before: float | None
    after: float | None
    trials: int
    ended: str
    rows: dict[str, int]
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    def summarize(self) -> str:
        """One or two sentences that a reader may rely on."""
        if self.gain is None and self.trials <= 1:
            return (
                f"Nothing was tried beside the task as it is, since {self.ended}; the test "
                "rows were not used."
            )
        return (
            self.gain.summarize()
            if self.gain
            else _NO_GAIN_TEXT.format(rows=self.rows["validation"])
        )


def tune_prompt(
    search_data: SearchData,
    engine: Engine,
    search_targets: Sequence[SearchTarget],
    budget: SearchBudget,
    observer: SearchObserver,
    *,
    proposer: Engine | None = None,
    seed: int = 0,
    keep_anyway: bool = False,
    allow_phi: bool = False,
) -> PromptTuningResult:
    """Search for other words for the task of ``search_data`` with one engine, and measure what was
    found on the rows of the test.

    ``proposer``: who writes instructions; the engine itself where none is given. A Ctrl-C ends the
    search, and the best so far is measured; a second one ends the process. UsageError for a task of
    patients' data, whose rows would stand in the file, without ``allow_phi``; EngineError or
    UsageError where an engine cannot do its part.
    """
    task = search_data.task
    _check_phi(task, allow_phi)
    narrowed = narrow_task(task)
    check_engine(narrowed, engine)
    stages = _plan_stages(
        narrowed, engine, proposer or engine, search_targets, budget, seed, observer
    )
    guard = partial(guard_network, engine, proposer or engine)
    with guard(), catch_signals() as signals:
        evaluator = CandidateEvaluator(narrowed, engine, search_data, budget, observer, signals)
        ended, interrupted = _run_stages(evaluator, stages)
    notes = _list_notes(task, narrowed)
    changed = _list_changed_keys(extract_candidate(narrowed), evaluator.best)
    rows = {
        "train": len(evaluator.train),
        "validation": len(evaluator.validation),
        "test": evaluator.test_rows,
    }
    gain, text = None, None
    if changed:
        observer.on_stage(
            f"Asking {evaluator.test_rows:,} test rows twice: the task as it was, and the best "
            "found"
        )
        # Further passes may name models that have still to be fetched.
        with nullcontext() if any(one.model for one in task.passes) else guard():
            gain, text = _evaluate_on_test(search_data, engine, evaluator, seed)
        text = text if gain.is_significant or keep_anyway else None
    before, after = (
        (evaluator.baseline_value, evaluator.value) if evaluator.evaluated_count else (None, None)
    )
    return PromptTuningResult(
        best=evaluator.best,
        changed=changed,
        gain=gain,
        task_text=text,
        before=before,
        after=after,
        trials=evaluator.evaluated_count,
        ended=ended,
        rows=rows,
        notes=notes,
        interrupted=interrupted,
    )


def write_tuned_task(path: Path, result: PromptTuningResult) -> None:
    """Write the new task file, whole or not at all, for its owner only."""
    assert result.task_text is not None
    replace_text(path, result.task_text)


SearchStage = tuple[str, float, Callable[[CandidateEvaluator], None]]


def _plan_stages(
    task: Task,
    engine: Engine,
    proposer_engine: Engine,
    search_targets: Sequence[SearchTarget],
    budget: SearchBudget,
    seed: int,
    observer: SearchObserver,
) -> list[SearchStage]:
    """What is searched for, with its share of the time that is left when it begins."""
    stages: list[SearchStage] = []
    if "examples" in search_targets:
        share = _EXAMPLE_SEARCH_SHARE if len(search_targets) > 1 else 1.0
        stages.append(
            ("Trying worked examples", share, lambda bench: search_examples(bench, seed=seed))
        )
    if "prompt" in search_targets:
        try:
            check_proposer(task, proposer_engine)
        except EngineError as error:
            if search_targets == ("prompt",) or proposer_engine is not engine:
                raise
            observer.on_note(
                f"{error}: examples alone are searched for; name a model that can write with "
                "--proposer"
            )
            return [(title, 1.0, search) for title, _, search in stages]
        proposer = Proposer(proposer_engine, budget, seed=seed)
        stages.append(
            (
                f"{proposer_engine.info.title} writes instructions",
                1.0,
                lambda bench: search_with_gepa(bench, proposer, seed=seed),
            )
        )
    if "mipro" in search_targets:
        from medtask.training.search.mipro_search import check_dspy, search_mipro

        check_dspy()
        check_proposer(task, proposer_engine)
        dspy_proposer = Proposer(proposer_engine, budget, seed=seed)
        stages.append(
            (
                "MIPROv2 tries instructions and examples",
                1.0,
                lambda bench: search_mipro(bench, dspy_proposer, seed=seed),
            )
        )
    return stages


def _run_stages(evaluator: CandidateEvaluator, stages: Sequence[SearchStage]) -> tuple[str, bool]:
    """Why it ended, and whether somebody stopped it."""
    ended = "nothing better came any more"
    try:
        evaluator.viewer.on_stage("Asking validation rows as the task is")
        evaluator.evaluate_baseline()
        for title, share, search in stages:
            evaluator.viewer.on_stage(title)
            try:
                with evaluator.clock.limit_to_share(share):
                    search(evaluator)
            except SearchStopped as halt:
                ended = halt.reason
    except SearchStopped as halt:
        ended = halt.reason
    except Interrupted:
        return "it was stopped", True
    return ended, False


def _evaluate_on_test(
    search_data: SearchData, engine: Engine, evaluator: CandidateEvaluator, seed: int
) -> tuple[Gain, str]:
    """The result as its file will be read, held against the task as it was, on the same rows of the
    test.
    """
    task, examples = search_data.task, search_data.test[: evaluator.test_rows]
    plain = rewrite_task(task, evaluator.best, ())
    after = _reload_task(task, plain)
    fixed = [_fix_thresholds(one) for one in (task, after)]
    gain = measure_gain(
        task, examples, *(answer_rows(one, engine, examples) for one in fixed), seed=seed
    )
    verdict = (
        "tuned by medtask tune"
        if gain.is_significant
        else "tuned by medtask tune, without a gain that the rows could show,"
    )
    return gain, rewrite_task(
        task, evaluator.best, (f"{verdict} on {date.today().isoformat()}: {gain.describe()}",)
    )


def _reload_task(task: Task, text: str) -> Task:
    """What a loader makes of the new file; it stands beside the old one, where paths in it count
    from.
    """
    assert task.source is not None
    # A private name, for its owner only: it may hold texts of rows.
    with NamedTemporaryFile(
        "w", encoding="utf-8", prefix=".tuned-", suffix=".yaml", dir=task.source.parent
    ) as draft:
        draft.write(text)
        draft.flush()
        return replace(load_task(draft.name), gold_column=task.gold_column)


def _fix_thresholds(task: Task) -> Task:
    return replace(narrow_task(task), passes=task.passes)


def _list_changed_keys(before: PromptCandidate, after: PromptCandidate) -> tuple[str, ...]:
    names = ["instruction"] if after.instruction != before.instruction else []
    names += ["definitions"] if after.definitions != before.definitions else []
    return (*names, *(["examples"] if after.examples is not None else []))


def _list_notes(task: Task, narrow: Task) -> tuple[str, ...]:
    notes = (
        ["further passes were left out of the search; the test asked all of them"]
        if task.passes
        else []
    )
    notes += (
        ["thresholds were not fitted: every label applies from its own threshold, or 0.5, on"]
        if task.answer_spec != narrow.answer_spec
        else []
    )
    return tuple(notes)


def _check_phi(task: Task, allowed: bool) -> None:
    if task.phi and not allowed:
        fix = (
            "add --acknowledge-phi if the new task file may hold such texts; keep it then as "
            "the table is kept"
        )
        raise UsageError(
            "the task says `phi: true`, and worked examples or instructions would put texts of "
            "rows into its file",
            fix=fix,
        )

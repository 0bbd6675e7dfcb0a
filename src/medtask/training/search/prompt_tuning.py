"""Search for better words of a task, its test, and the resulting task file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

from medtask.atomic_files import replace_text
from medtask.engines.base import Engine
from medtask.errors import EngineError, UsageError
from medtask.prediction.asking import check_engine
from medtask.runs.manifest import guard_network
from medtask.runs.signals import Interrupted, catch_signals
from medtask.tasks.load import load_task
from medtask.tasks.row_fingerprints import (
    RowFingerprints,
    fingerprint_rows,
    make_row_key,
    read_fingerprints,
    write_fingerprints,
)
from medtask.tasks.task import Task
from medtask.training.search.candidate_evaluator import (
    CandidateEvaluator,
    SearchObserver,
    answer_rows,
)
from medtask.training.search.example_search import search_examples
from medtask.training.search.gain import STOPPED_TEXT, Gain, measure_gain
from medtask.training.search.gepa_search import search_with_gepa
from medtask.training.search.prompt_candidate import PromptCandidate, extract_candidate, narrow_task
from medtask.training.search.proposer import Proposer, check_proposer
from medtask.training.search.search_budget import SearchBudget, SearchStopped
from medtask.training.search.search_data import SearchData
from medtask.training.search.task_rewriting import rewrite_task

SearchTarget = Literal["prompt", "examples", "mipro"]
_EXAMPLE_SEARCH_SHARE = 0.5  # share of the time, if instructions are searched for afterwards
_NO_GAIN_TEXT = (
    "Nothing was better than the original task on the {rows} validation rows; the test "
    "rows were not used."
)


@dataclass(frozen=True, slots=True)
class PromptTuningResult:
    """The result of a search for better words.

    Attributes:
        best: The best candidate.
        changed: The keys of the task file that it changes.
        gain: The gain on the test rows; None if nothing was better on validation, or if a signal
            ended the search: the process must end within seconds.
        task_text: The new task file; None if it must not be written.
        before: The headline metric of the original task on validation; None if not measured.
        after: The same of the best candidate; biased upwards, because it was used for selection.
        trials: Number of candidates that were tried.
        ended: Why the search ended.
        rows: The numbers of training, validation and test rows.
        interrupted: Whether a signal ended the search.
        exit_code: 0, or 130 or 143 after a signal.
        rows_file: The name of the file that `write_tuned_task` writes beside the new task file.
        searched_rows: Its content: fingerprints of the training and validation rows.
        path: The path of the new task file, if it was written.
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
    exit_code: int = 0
    rows_file: str = ""
    searched_rows: tuple[RowFingerprints, ...] = ()
    path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, without texts of rows."""
        return {
            "what": "words",
            "verdict": self.summarize(),
            "gain": self.gain.to_json() if self.gain else None,
            "changed": list(self.changed),
            "examples": len(self.best.examples or ()),
            "written": str(self.path) if self.path else None,
            "validation": {"before": self.before, "after": self.after},
            "trials": self.trials,
            "rows": self.rows,
            "ended": self.ended,
            "notes": list(self.notes),
            "interrupted": self.interrupted,
        }

    def summarize(self) -> str:
        """The result in one or two sentences."""
        if self.gain is None and self.trials <= 1:
            return (
                f"Nothing but the original task was tried, because {self.ended}; the test "
                "rows were not used."
            )
        if self.gain is None and self.interrupted and self.changed:
            return STOPPED_TEXT
        return (
            self.gain.summarize()
            if self.gain
            else _NO_GAIN_TEXT.format(rows=self.rows["validation"])
        )


@dataclass(frozen=True, slots=True)
class PromptTuningOptions:
    """Options of a search for words.

    Attributes:
        seed: The seed of all random choices.
        keep_anyway: Whether a result without a significant gain is written, too.
        allow_phi: Whether a task with ``phi: true`` may get texts of rows into its file.
        proposer: The engine that writes instructions; None for the engine that answers.
        rows_file: The name of the file of searched rows; the key `tuning_rows` of the new task file
            names it.
    """

    seed: int = 0
    keep_anyway: bool = False
    allow_phi: bool = False
    proposer: Engine | None = None
    rows_file: str = "task.tuned.rows.json"


DEFAULT_TUNING = PromptTuningOptions()


def tune_prompt(
    search_data: SearchData,
    engine: Engine,
    search_targets: Sequence[SearchTarget],
    budget: SearchBudget,
    observer: SearchObserver,
    options: PromptTuningOptions = DEFAULT_TUNING,
) -> PromptTuningResult:
    """Search for better words of a task with one engine, and measure the gain on test rows.

    Ctrl-C ends the search. The best candidate so far is returned, without a gain.

    Raises:
        UsageError: The task has ``phi: true`` without ``allow_phi``, or an engine is unsuitable.
        EngineError: An engine lacks a capability.
    """
    task, proposer = search_data.task, options.proposer or engine
    _check_phi(task, options.allow_phi)
    narrowed = narrow_task(task)
    check_engine(narrowed, engine)
    guard = partial(guard_network, engine, proposer)
    with guard(), catch_signals() as signals:
        evaluator = CandidateEvaluator(narrowed, engine, search_data, budget, observer, signals)
        stages = _plan_stages(evaluator, proposer, search_targets, options.seed)
        ended, interrupted = _run_stages(evaluator, stages)
    changed = _list_changed_keys(extract_candidate(narrowed), evaluator.best)
    gain, text = None, None
    if changed and interrupted:
        origin = _describe_origin("not compared with the original")
        text = rewrite_task(task, evaluator.best, (origin,), options.rows_file)
    elif changed:
        observer.on_stage(
            f"Answering {evaluator.test_rows:,} test rows twice, with the original task and with "
            "the best candidate"
        )
        # Further passes may use models that are not downloaded yet.
        with nullcontext() if any(one.model for one in task.passes) else guard():
            gain, origin = _evaluate_on_test(search_data, engine, evaluator, options.seed)
        text = rewrite_task(task, evaluator.best, (origin,), options.rows_file)
    measured = evaluator.evaluated_count > 0
    return PromptTuningResult(
        best=evaluator.best,
        changed=changed,
        gain=gain,
        task_text=text if options.keep_anyway or (gain and gain.is_significant) else None,
        before=evaluator.baseline_value if measured else None,
        after=evaluator.value if measured else None,
        trials=evaluator.evaluated_count,
        ended=ended,
        rows={
            "train": len(evaluator.train),
            "validation": len(evaluator.validation),
            "test": evaluator.test_rows,
        },
        notes=_list_notes(task, narrowed),
        interrupted=interrupted,
        exit_code=signals.exit_code if interrupted else 0,
        rows_file=options.rows_file,
        searched_rows=_fingerprint_searched_rows(search_data),
    )


def write_tuned_task(path: Path, result: PromptTuningResult) -> None:
    """Write the new task file and the list of its rows, readable by their owner only."""
    assert result.task_text is not None
    write_fingerprints(path.with_name(result.rows_file), result.searched_rows)
    replace_text(path, result.task_text)


def _fingerprint_searched_rows(search_data: SearchData) -> tuple[RowFingerprints, ...]:
    """The rows that chose the words, and those that chose the words of the original task."""
    task = search_data.task
    keys = [
        make_row_key(task, one.record, one.prompt)
        for one in (*search_data.train, *search_data.validation)
    ]
    earlier = read_fingerprints(task.tuning_rows) if task.tuning_rows else ()
    return (*earlier, fingerprint_rows(keys, "tuning", search_data.digest))


@dataclass(frozen=True, slots=True)
class SearchStage:
    """One search, and its share of the time that remains when it starts."""

    title: str
    share: float
    search: Callable[[CandidateEvaluator], None]


def _plan_stages(
    evaluator: CandidateEvaluator,
    proposer_engine: Engine,
    search_targets: Sequence[SearchTarget],
    seed: int,
) -> list[SearchStage]:
    stages: list[SearchStage] = []
    if "examples" in search_targets:
        share = _EXAMPLE_SEARCH_SHARE if len(search_targets) > 1 else 1.0
        stages.append(
            SearchStage("Trying worked examples", share, partial(search_examples, seed=seed))
        )
    if "prompt" in search_targets:
        try:
            check_proposer(evaluator.task, proposer_engine)
        except EngineError as error:
            if search_targets == ("prompt",) or proposer_engine is not evaluator.engine:
                raise
            evaluator.observer.on_note(
                f"{error}: only examples are searched for; name a model that can write with "
                "--proposer"
            )
            return [replace(stage, share=1.0) for stage in stages]
        proposer = Proposer(proposer_engine, evaluator.budget, seed=seed)
        stages.append(
            SearchStage(
                f"{proposer_engine.info.title} writes instructions",
                1.0,
                partial(search_with_gepa, proposer=proposer, seed=seed),
            )
        )
    if "mipro" in search_targets:
        from medtask.training.search.mipro_search import check_dspy, search_mipro

        check_dspy()
        check_proposer(evaluator.task, proposer_engine)
        proposer = Proposer(proposer_engine, evaluator.budget, seed=seed)
        search = partial(search_mipro, proposer=proposer, seed=seed)
        stages.append(SearchStage("MIPROv2 tries instructions and examples", 1.0, search))
    return stages


def _run_stages(evaluator: CandidateEvaluator, stages: Sequence[SearchStage]) -> tuple[str, bool]:
    """Run all stages; returns why the search ended, and whether a signal ended it."""
    ended = "no further improvement was found"
    try:
        evaluator.observer.on_stage("Answering validation rows with the original task")
        evaluator.evaluate_baseline()
        for stage in stages:
            evaluator.observer.on_stage(stage.title)
            try:
                with evaluator.budget.limit_to_share(stage.share):
                    stage.search(evaluator)
            except SearchStopped as stop:
                ended = stop.reason
    except SearchStopped as stop:
        ended = stop.reason
    except Interrupted:
        return "it was stopped", True
    return ended, False


def _evaluate_on_test(
    search_data: SearchData, engine: Engine, evaluator: CandidateEvaluator, seed: int
) -> tuple[Gain, str]:
    """Compare the result, read back from its file, with the original task on the test rows.

    Returns:
        The gain, and the comment on the origin of the new task file.
    """
    task, examples = search_data.task, search_data.test[: evaluator.test_rows]
    plain = rewrite_task(task, evaluator.best, ())
    after = _reload_task(task, plain)
    # Thresholds are not fitted; further passes are part of the test.
    fixed = [replace(narrow_task(one), passes=one.passes) for one in (task, after)]
    gain = measure_gain(
        task, examples, *(answer_rows(one, engine, examples) for one in fixed), seed=seed
    )
    verdict = "" if gain.is_significant else "without a significant gain"
    return gain, f"{_describe_origin(verdict)}: {gain.describe()}"


def _describe_origin(verdict: str) -> str:
    """The beginning of the comment in a new task file."""
    return f"tuned by medtask tune{f', {verdict},' if verdict else ''} on {date.today()}"


def _reload_task(task: Task, text: str) -> Task:
    """Load the new file from the folder of the old one, because paths in it are relative."""
    assert task.source is not None
    # Readable by its owner only, because it may contain texts of rows.
    with NamedTemporaryFile(
        "w", encoding="utf-8", prefix=".tuned-", suffix=".yaml", dir=task.source.parent
    ) as draft:
        draft.write(text)
        draft.flush()
        return replace(load_task(draft.name), gold_column=task.gold_column)


def _list_changed_keys(before: PromptCandidate, after: PromptCandidate) -> tuple[str, ...]:
    names = ["instruction"] if after.instruction != before.instruction else []
    names += ["definitions"] if after.definitions != before.definitions else []
    return (*names, *(["examples"] if after.examples is not None else []))


def _list_notes(task: Task, narrow: Task) -> tuple[str, ...]:
    notes = (
        ["further passes were left out of the search; the test includes them"]
        if task.passes
        else []
    )
    notes += (
        ["thresholds were not fitted: every label applies from its own threshold, or from 0.5"]
        if task.answer_spec != narrow.answer_spec
        else []
    )
    return tuple(notes)


def _check_phi(task: Task, allowed: bool) -> None:
    if task.phi and not allowed:
        fix = (
            "add --acknowledge-phi if the new task file may hold such texts, and protect it like "
            "the table"
        )
        raise UsageError(
            "the task says `phi: true`, and worked examples or instructions would put texts of "
            "rows into the new task file",
            fix=fix,
        )

"""A search of words from beginning to end: rows divided, candidates tried, the best held against
the task as it was, a file written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal

from medtask.data.atomic import replace_text
from medtask.decision.asking import check_engine
from medtask.engines.base import Engine
from medtask.errors import EngineError, UsageError
from medtask.privacy import no_network
from medtask.runs.interrupt import Interrupted, catch_signals
from medtask.runs.manifest import list_destinations
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from medtask.train.search.bench import Bench, Viewer, ask_lessons
from medtask.train.search.candidate import Candidate, narrow_task, read_candidate
from medtask.train.search.clock import Clock, Halt
from medtask.train.search.examples import search_examples
from medtask.train.search.gain import Gain, hold_against
from medtask.train.search.parts import Parts
from medtask.train.search.prompts import search_prompts
from medtask.train.search.proposer import Proposer, check_proposer
from medtask.train.search.rewrite import rewrite_task

What = Literal["prompt", "examples", "mipro"]
_EXAMPLES_FIRST = 0.5  # of the time, where instructions are searched for after them
_NOTHING = (
    "Nothing did better than the task as it is on the {rows} validation rows; the test "
    "rows were not used."
)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search of words came to. ``gain``: None where nothing did better on validation, so
    that nothing was tested. ``text``: the new task file, None where it is not to be written;
    ``changed``: which of its keys are new. ``before`` and ``after``: the headline on validation, by
    which the result was chosen: the second is too good; None where not even that was asked.
    ``ended``: why the search ended.
    """

    best: Candidate
    changed: tuple[str, ...]
    gain: Gain | None
    text: str | None
    before: float | None
    after: float | None
    trials: int
    ended: str
    rows: dict[str, int]
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    def verdict(self) -> str:
        """One or two sentences that a reader may rely on."""
        if self.gain is None and self.trials <= 1:
            return (
                f"Nothing was tried beside the task as it is, since {self.ended}; the test "
                "rows were not used."
            )
        return self.gain.conclude() if self.gain else _NOTHING.format(rows=self.rows["validation"])


def tune_words(
    parts: Parts,
    engine: Engine,
    whats: Sequence[What],
    clock: Clock,
    viewer: Viewer,
    *,
    proposer: Engine | None = None,
    seed: int = 0,
    keep_anyway: bool = False,
    allow_phi: bool = False,
) -> Tuned:
    """Search for other words for the task of ``parts`` with one engine, and measure what was found
    on the rows of the test.

    ``proposer``: who writes instructions; the engine itself where none is given. A Ctrl-C ends the
    search, and the best so far is measured; a second one ends the process. UsageError for a task of
    patients' data, whose rows would stand in the file, without ``allow_phi``; EngineError or
    UsageError where an engine cannot do its part.
    """
    task = parts.task
    _check_phi(task, allow_phi)
    narrow = narrow_task(task)
    check_engine(narrow, engine)
    stages = _plan_stages(narrow, engine, proposer or engine, whats, clock, seed, viewer)
    destinations = list_destinations(engine, proposer or engine)
    allowed = [address for addresses in destinations.values() for address in addresses]
    with no_network(allowed), catch_signals() as signals:
        bench = Bench(narrow, engine, parts, clock, viewer, signals)
        ended, interrupted = _search(bench, stages)
    notes = _list_notes(task, narrow)
    changed = _name_changes(read_candidate(narrow), bench.best)
    rows = {"train": len(bench.train), "validation": len(bench.validation), "test": bench.test_rows}
    gain, text = None, None
    if changed:
        viewer.on_stage(
            f"Asking {bench.test_rows:,} test rows twice: the task as it was, and the best found"
        )
        # Further passes may name models that have still to be fetched.
        with nullcontext() if any(one.model for one in task.passes) else no_network(allowed):
            gain, text = _measure(parts, engine, bench, seed)
        text = text if gain.shown or keep_anyway else None
    before, after = (bench.base_value, bench.value) if bench.tried else (None, None)
    facts = {"before": before, "after": after, "trials": bench.tried, "ended": ended, "rows": rows}
    return Tuned(bench.best, changed, gain, text, notes=notes, interrupted=interrupted, **facts)  # type: ignore[arg-type]


def write_tuned(path: Path, tuned: Tuned) -> None:
    """Write the new task file, whole or not at all, for its owner only."""
    assert tuned.text is not None
    replace_text(path, tuned.text)


Stage = tuple[str, float, Callable[[Bench], None]]


def _plan_stages(
    task: Task,
    engine: Engine,
    writer: Engine,
    whats: Sequence[What],
    clock: Clock,
    seed: int,
    viewer: Viewer,
) -> list[Stage]:
    """What is searched for, with its share of the time that is left when it begins."""
    stages: list[Stage] = []
    if "examples" in whats:
        share = _EXAMPLES_FIRST if len(whats) > 1 else 1.0
        stages.append(
            ("Trying worked examples", share, lambda bench: search_examples(bench, seed=seed))
        )
    if "prompt" in whats:
        try:
            check_proposer(task, writer)
        except EngineError as error:
            if whats == ("prompt",) or writer is not engine:
                raise
            viewer.on_note(
                f"{error}: examples alone are searched for; name a model that can write with "
                "--proposer"
            )
            return [(title, 1.0, search) for title, _, search in stages]
        proposer = Proposer(writer, clock, seed=seed)
        stages.append(
            (
                f"{writer.info.title} writes instructions",
                1.0,
                lambda bench: search_prompts(bench, proposer, seed=seed),
            )
        )
    if "mipro" in whats:
        from medtask.train.search.mipro import check_dspy, search_mipro

        check_dspy()
        check_proposer(task, writer)
        dspy_proposer = Proposer(writer, clock, seed=seed)
        stages.append(
            (
                "MIPROv2 tries instructions and examples",
                1.0,
                lambda bench: search_mipro(bench, dspy_proposer, seed=seed),
            )
        )
    return stages


def _search(bench: Bench, stages: Sequence[Stage]) -> tuple[str, bool]:
    """Why it ended, and whether somebody stopped it."""
    ended = "nothing better came any more"
    try:
        bench.viewer.on_stage("Asking validation rows as the task is")
        bench.begin()
        for title, share, search in stages:
            bench.viewer.on_stage(title)
            try:
                with bench.clock.share(share):
                    search(bench)
            except Halt as halt:
                ended = halt.reason
    except Halt as halt:
        ended = halt.reason
    except Interrupted:
        return "it was stopped", True
    return ended, False


def _measure(parts: Parts, engine: Engine, bench: Bench, seed: int) -> tuple[Gain, str]:
    """The result as its file will be read, held against the task as it was, on the same rows of the
    test.
    """
    task, lessons = parts.task, parts.test[: bench.test_rows]
    plain = rewrite_task(task, bench.best, ())
    after = _reread(task, plain)
    fixed = [_without_fit(one) for one in (task, after)]
    gain = hold_against(
        task, lessons, *(ask_lessons(one, engine, lessons) for one in fixed), seed=seed
    )
    verdict = (
        "tuned by medtask tune"
        if gain.shown
        else "tuned by medtask tune, without a gain that the rows could show,"
    )
    return gain, rewrite_task(
        task, bench.best, (f"{verdict} on {date.today().isoformat()}: {gain.tell()}",)
    )


def _reread(task: Task, text: str) -> Task:
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


def _without_fit(task: Task) -> Task:
    return replace(narrow_task(task), passes=task.passes)


def _name_changes(before: Candidate, after: Candidate) -> tuple[str, ...]:
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
        if task.form != narrow.form
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

"""Further passes: each is the whole question again, with whatever it changes, for the rows that its
``when`` names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medtask.errors import TaskFault
from medtask.records import LETTERS, Status
from medtask.tasks.fewshot import read_examples
from medtask.tasks.hints import did_you_mean, quote
from medtask.tasks.identity import fingerprint_task
from medtask.tasks.labels import assign_says
from medtask.tasks.schema import PassPart, ReasoningPart, WhenPart, read_part, read_passes
from medtask.tasks.source import Document, KeyPath, NullWord
from medtask.tasks.task import (
    AnyLabels,
    Choice,
    Fields,
    FreeText,
    OneLabel,
    Pass,
    Pool,
    Reasoning,
    Task,
    When,
)

FIRST = "first"  # what the pass is called that asks every row
# What the gate says of a row, it says in every pass.
_GATED = (Status.EMPTY_INPUT, Status.NOT_TEXT, Status.TOO_SHORT, Status.NOVEL)


def derive_passes(
    document: Document, task: Task, folder: Path, graded: bool, faults: list[TaskFault]
) -> tuple[Pass, ...]:
    """The task's ``passes:``. ``task``: the first pass, complete; ``graded``: whether its labels
    are known.
    """
    passes: list[Pass] = []
    names = {FIRST}
    for path, part in read_passes(document, faults):
        if part.name in names:
            what = (
                "is what the first pass is called"
                if part.name == FIRST
                else "is the name of an earlier pass"
            )
            faults.append(
                document.fault(
                    f"{quote(part.name)} {what}: give this one another name", *path, "name"
                )
            )
        names.add(part.name)
        when = _read_when(document, (*path, "when"), task, graded, faults)
        derived = _derive(document, path, part, task, folder, graded, faults)
        passes.append(
            Pass(
                part.name, when, replace(derived, fingerprint=fingerprint_task(derived)), part.model
            )
        )
    return tuple(passes)


def read_reasoning(document: Document, path: KeyPath, faults: list[TaskFault]) -> Reasoning | None:
    """``reasoning:`` of a task or a pass; None where there is none."""
    raw = document.at(*path)
    if raw is None or isinstance(raw, NullWord):
        return None
    part = read_part(document, path, ReasoningPart, faults)
    return Reasoning(part.budget, part.deadline_s) if part else None


def check_orders(document: Document, path: KeyPath, task: Task, faults: list[TaskFault]) -> None:
    """Thoughts name options by their letters, so letters cannot change places behind them."""
    if isinstance(task.form, Choice) and task.form.debias == "permute" and task.reasoning:
        message = (
            '"debias: permute" shows the options in other orders, and thoughts name them '
            "by the letters of one: leave out either"
        )
        faults.append(document.fault(message, *path))


def _read_when(
    document: Document, path: KeyPath, task: Task, graded: bool, faults: list[TaskFault]
) -> When:
    before = len(faults)
    part = read_part(document, path, WhenPart, faults)
    if part is None:
        return When()
    status = _read_status(document, (*path, "status"), part.status, faults)
    wanted = _read_words(document, (*path, "answer_in"), part.answer_in, faults)
    when = When(part.confidence_below, status, wanted)
    if part.confidence_below is not None and not _has_confidence(task):
        what = (
            "free text has no confidence"
            if isinstance(task.form, FreeText)
            else "only enum and boolean fields have a confidence"
        )
        faults.append(
            document.fault(f"{what}: leave confidence_below out", *path, "confidence_below")
        )
    if wanted and graded:
        faults += (
            document.fault(message, *path, "answer_in")
            for message in _find_strange_answers(task, wanted)
        )
    if when == When() and len(faults) == before:
        message = '"when" says which rows are asked again: confidence_below, status or answer_in'
        faults.append(document.fault(message, *path))
    return when


def _has_confidence(task: Task) -> bool:
    return not isinstance(task.form, FreeText) and (
        not isinstance(task.form, Fields) or bool(task.form.scored)
    )


def _read_status(
    document: Document, path: KeyPath, raw: object, faults: list[TaskFault]
) -> tuple[Status, ...]:
    known = [status.value for status in Status]
    found: list[Status] = []
    for word in _read_words(document, path, raw, faults):
        if word not in known:
            hint = did_you_mean(word, known) or f" - there are {', '.join(known)}"
            faults.append(document.fault(f"unknown status {quote(word)}{hint}", *path))
        elif Status(word) in _GATED:
            faults.append(
                document.fault(f"rows with the status {word} are asked in no pass", *path)
            )
        else:
            found.append(Status(word))
    return tuple(found)


def _read_words(
    document: Document, path: KeyPath, raw: object, faults: list[TaskFault]
) -> tuple[str, ...]:
    """One word, or a list of words."""
    if raw is None:
        return ()
    words = raw if isinstance(raw, list) else [raw]
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        faults.append(document.fault(f"{quote(path[-1])} is a name, or a list of names", *path))
        return ()
    return tuple(str(word).strip() for word in words)


def _find_strange_answers(task: Task, wanted: tuple[str, ...]) -> list[str]:
    match task.form:
        case OneLabel() | AnyLabels():
            known = [label.name for label in task.labels]
            abstention = task.abstention
        case Choice():
            known, abstention = list(LETTERS), None
        case _:
            return [
                f"answer_in is about labels and letters, and this task is of the kind {task.kind}"
            ]
    said = ' - rows that abstained are asked by "status: abstained"'
    return [
        (
            f"answer_in names {quote(word)}, which is no "
            f"{'letter' if isinstance(task.form, Choice) else 'label'}"
        )
        + (said if word == abstention else did_you_mean(word, known))
        for word in wanted
        if word not in known
    ]


def _derive(
    document: Document,
    path: KeyPath,
    part: PassPart,
    task: Task,
    folder: Path,
    graded: bool,
    faults: list[TaskFault],
) -> Task:
    """The first pass with what this one changes; what it does not name stays."""
    # A row that was like the first pass's examples is not turned away because it is unlike this
    # one's.
    derived = replace(task, gate=replace(task.gate, novelty=None), passes=(), warnings=())
    derived = replace(
        derived, name=f"{task.name}/{part.name}", instruction=part.instruction or task.instruction
    )
    if part.labels is not None:
        derived = _take_labels(document, (*path, "labels"), part.labels, derived, graded, faults)
    if document.at(*path, "reasoning") is not None:
        derived = replace(derived, reasoning=read_reasoning(document, (*path, "reasoning"), faults))
    check_orders(document, (*path, "reasoning"), derived, faults)
    if part.examples is not None:
        bare = replace(derived, examples=(), pool=None)
        shown = read_examples(document, (*path, "examples"), folder, bare, graded, faults)
        derived = replace(bare, examples=shown.examples, pool=shown.pool, warnings=shown.warnings)
    return replace(derived, model=part.model or task.model)


def _take_labels(
    document: Document,
    path: KeyPath,
    raw: object,
    task: Task,
    graded: bool,
    faults: list[TaskFault],
) -> Task:
    """The task with some of its labels, codes and thresholds of its own, and without examples of
    the others.
    """
    if not isinstance(task.form, OneLabel | AnyLabels):
        faults.append(
            document.fault(
                f'"labels" belongs to tasks of labels, and this one is of the kind {task.kind}',
                *path,
            )
        )
        return task
    names = _read_words(document, path, raw, faults)
    known = [label.name for label in task.labels]
    if strange := [name for name in names if name not in known]:
        if graded:
            faults += (
                document.fault(
                    f"{quote(name)} is no label of the task{did_you_mean(name, known)}", *path
                )
                for name in strange
            )
        return task
    kept = [label for label in task.labels if label.name in names]
    if not kept:
        return task
    readout = task.form.readout if isinstance(task.form, OneLabel) else "name"
    labels, abstain = assign_says(kept, task.abstain, readout)
    possible = {label.name for label in (*labels, *((abstain,) if abstain else ()))}
    form = task.form
    if isinstance(form, AnyLabels):
        form = replace(
            form,
            thresholds={name: share for name, share in form.thresholds.items() if name in possible},
        )
    fits = [example for example in task.examples if _names_in(example.answer) <= possible]
    return replace(
        task,
        form=form,
        labels=labels,
        abstain=abstain,
        examples=tuple(fits),
        pool=_take_pool(task.pool, possible),
    )


def _take_pool(pool: Pool | None, possible: set[str]) -> Pool | None:
    if pool is None:
        return None
    fits = [
        place
        for place, example in enumerate(pool.examples)
        if _names_in(example.answer) <= possible
    ]
    if not fits:
        return None
    return Pool(
        tuple(pool.examples[place] for place in fits),
        tuple(pool.texts[place] for place in fits),
        pool.k,
        pool.by,
    )


def _names_in(answer: object) -> set[str]:
    return set(answer) if isinstance(answer, tuple) else {str(answer)}

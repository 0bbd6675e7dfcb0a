"""Further passes: each is the whole question again, with whatever it changes, for the rows that its
``when`` names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medtask.display import format_suggestion, quote
from medtask.errors import TaskFault
from medtask.records import LETTERS, Status
from medtask.tasks.config import (
    PassConditionConfig,
    PassConfig,
    ReasoningConfig,
    read_config,
    read_pass_configs,
)
from medtask.tasks.document import Document, KeyPath, NullScalar
from medtask.tasks.fewshot import read_examples
from medtask.tasks.fingerprint import fingerprint_task
from medtask.tasks.label_definitions import assign_verbalizers
from medtask.tasks.task import (
    ExamplePool,
    Fields,
    FreeText,
    MultiLabel,
    MultipleChoice,
    Pass,
    PassCondition,
    Reasoning,
    SingleLabel,
    Task,
)

FIRST_PASS = "first"  # noqa: S105 - the name of the pass that asks every row
# What the gate says of a row, it says in every pass.
_GATE_STATUSES = (Status.EMPTY_INPUT, Status.NOT_TEXT, Status.TOO_SHORT, Status.NOVEL)


def derive_passes(
    document: Document, task: Task, folder: Path, answers_known: bool, faults: list[TaskFault]
) -> tuple[Pass, ...]:
    """The task's ``passes:``. ``task``: the first pass, complete; ``answers_known``: whether
    its labels are known.
    """
    passes: list[Pass] = []
    names = {FIRST_PASS}
    for path, part in read_pass_configs(document, faults):
        if part.name in names:
            what = (
                "is what the first pass is called"
                if part.name == FIRST_PASS
                else "is the name of an earlier pass"
            )
            faults.append(
                document.make_fault(
                    f"{quote(part.name)} {what}: give this one another name", *path, "name"
                )
            )
        names.add(part.name)
        when = _read_pass_condition(document, (*path, "when"), task, answers_known, faults)
        derived = _derive_task(document, path, part, task, folder, answers_known, faults)
        passes.append(
            Pass(
                part.name, when, replace(derived, fingerprint=fingerprint_task(derived)), part.model
            )
        )
    return tuple(passes)


def read_reasoning(document: Document, path: KeyPath, faults: list[TaskFault]) -> Reasoning | None:
    """``reasoning:`` of a task or a pass; None where there is none."""
    raw = document.get_value(*path)
    if raw is None or isinstance(raw, NullScalar):
        return None
    config = read_config(document, path, ReasoningConfig, faults)
    return Reasoning(config.budget, config.deadline_s) if config else None


def check_debiasing(document: Document, path: KeyPath, task: Task, faults: list[TaskFault]) -> None:
    """Thoughts name options by their letters, so letters cannot change places behind them."""
    if (
        isinstance(task.answer_spec, MultipleChoice)
        and task.answer_spec.debias == "permute"
        and task.reasoning
    ):
        message = (
            '"debias: permute" shows the options in other orders, and thoughts name them '
            "by the letters of one: leave out either"
        )
        faults.append(document.make_fault(message, *path))


def _read_pass_condition(
    document: Document, path: KeyPath, task: Task, answers_known: bool, faults: list[TaskFault]
) -> PassCondition:
    before = len(faults)
    config = read_config(document, path, PassConditionConfig, faults)
    if config is None:
        return PassCondition()
    status = _read_status(document, (*path, "status"), config.status, faults)
    answer_names = _read_names(document, (*path, "answer_in"), config.answer_in, faults)
    condition = PassCondition(config.confidence_below, status, answer_names)
    if config.confidence_below is not None and not _has_confidence(task):
        what = (
            "free text has no confidence"
            if isinstance(task.answer_spec, FreeText)
            else "only enum and boolean fields have a confidence"
        )
        faults.append(
            document.make_fault(f"{what}: leave confidence_below out", *path, "confidence_below")
        )
    if answer_names and answers_known:
        faults += (
            document.make_fault(message, *path, "answer_in")
            for message in _find_invalid_answers(task, answer_names)
        )
    if condition == PassCondition() and len(faults) == before:
        message = '"when" says which rows are asked again: confidence_below, status or answer_in'
        faults.append(document.make_fault(message, *path))
    return condition


def _has_confidence(task: Task) -> bool:
    return not isinstance(task.answer_spec, FreeText) and (
        not isinstance(task.answer_spec, Fields) or bool(task.answer_spec.scored)
    )


def _read_status(
    document: Document, path: KeyPath, raw: object, faults: list[TaskFault]
) -> tuple[Status, ...]:
    known = [status.value for status in Status]
    found: list[Status] = []
    for word in _read_names(document, path, raw, faults):
        if word not in known:
            hint = format_suggestion(word, known) or f" - there are {', '.join(known)}"
            faults.append(document.make_fault(f"unknown status {quote(word)}{hint}", *path))
        elif Status(word) in _GATE_STATUSES:
            faults.append(
                document.make_fault(f"rows with the status {word} are asked in no pass", *path)
            )
        else:
            found.append(Status(word))
    return tuple(found)


def _read_names(
    document: Document, path: KeyPath, raw: object, faults: list[TaskFault]
) -> tuple[str, ...]:
    """One word, or a list of words."""
    if raw is None:
        return ()
    words = raw if isinstance(raw, list) else [raw]
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        faults.append(
            document.make_fault(f"{quote(path[-1])} is a name, or a list of names", *path)
        )
        return ()
    return tuple(str(word).strip() for word in words)


def _find_invalid_answers(task: Task, answer_names: tuple[str, ...]) -> list[str]:
    match task.answer_spec:
        case SingleLabel() | MultiLabel():
            known = [label.name for label in task.labels]
            abstention = task.abstain_name
        case MultipleChoice():
            known, abstention = list(LETTERS), None
        case _:
            return [
                f"answer_in is about labels and letters, and this task is of the kind {task.kind}"
            ]
    hint = ' - rows that abstained are asked by "status: abstained"'
    return [
        (
            f"answer_in names {quote(word)}, which is no "
            f"{'letter' if isinstance(task.answer_spec, MultipleChoice) else 'label'}"
        )
        + (hint if word == abstention else format_suggestion(word, known))
        for word in answer_names
        if word not in known
    ]


def _derive_task(
    document: Document,
    path: KeyPath,
    config: PassConfig,
    task: Task,
    folder: Path,
    answers_known: bool,
    faults: list[TaskFault],
) -> Task:
    """The first pass with what this one changes; what it does not name stays."""
    # A row that was like the first pass's examples is not turned away because it is unlike this
    # one's.
    derived = replace(task, gate=replace(task.gate, novelty=None), passes=(), warnings=())
    derived = replace(
        derived,
        name=f"{task.name}/{config.name}",
        instruction=config.instruction or task.instruction,
    )
    if config.labels is not None:
        derived = _restrict_labels(
            document, (*path, "labels"), config.labels, derived, answers_known, faults
        )
    if document.get_value(*path, "reasoning") is not None:
        derived = replace(derived, reasoning=read_reasoning(document, (*path, "reasoning"), faults))
    check_debiasing(document, (*path, "reasoning"), derived, faults)
    if config.examples is not None:
        bare = replace(derived, examples=(), pool=None)
        few_shot = read_examples(document, (*path, "examples"), folder, bare, answers_known, faults)
        derived = replace(
            bare, examples=few_shot.examples, pool=few_shot.pool, warnings=few_shot.warnings
        )
    return replace(derived, model=config.model or task.model)


def _restrict_labels(
    document: Document,
    path: KeyPath,
    raw: object,
    task: Task,
    answers_known: bool,
    faults: list[TaskFault],
) -> Task:
    """The task with some of its labels, codes and thresholds of its own, and without examples of
    the others.
    """
    if not isinstance(task.answer_spec, SingleLabel | MultiLabel):
        faults.append(
            document.make_fault(
                f'"labels" belongs to tasks of labels, and this one is of the kind {task.kind}',
                *path,
            )
        )
        return task
    names = _read_names(document, path, raw, faults)
    known = [label.name for label in task.labels]
    if unknown := [name for name in names if name not in known]:
        if answers_known:
            faults += (
                document.make_fault(
                    f"{quote(name)} is no label of the task{format_suggestion(name, known)}",
                    *path,
                )
                for name in unknown
            )
        return task
    kept = [label for label in task.labels if label.name in names]
    if not kept:
        return task
    readout = task.answer_spec.readout if isinstance(task.answer_spec, SingleLabel) else "name"
    labels, abstain = assign_verbalizers(kept, task.abstain, readout)
    allowed_names = {label.name for label in (*labels, *((abstain,) if abstain else ()))}
    answer_spec = task.answer_spec
    if isinstance(answer_spec, MultiLabel):
        answer_spec = replace(
            answer_spec,
            thresholds={
                name: threshold
                for name, threshold in answer_spec.thresholds.items()
                if name in allowed_names
            },
        )
    fits = [
        example for example in task.examples if _list_answer_names(example.answer) <= allowed_names
    ]
    return replace(
        task,
        answer_spec=answer_spec,
        labels=labels,
        abstain=abstain,
        examples=tuple(fits),
        pool=_restrict_pool(task.pool, allowed_names),
    )


def _restrict_pool(pool: ExamplePool | None, allowed_names: set[str]) -> ExamplePool | None:
    if pool is None:
        return None
    fits = [
        place
        for place, example in enumerate(pool.examples)
        if _list_answer_names(example.answer) <= allowed_names
    ]
    if not fits:
        return None
    return ExamplePool(
        tuple(pool.examples[place] for place in fits),
        tuple(pool.texts[place] for place in fits),
        pool.k,
        pool.by,
    )


def _list_answer_names(answer: object) -> set[str]:
    return set(answer) if isinstance(answer, tuple) else {str(answer)}
